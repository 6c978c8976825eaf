"""A store that may be lost: the proxy goes on without it, and says so."""

import time
from collections.abc import Callable

from proxy.core.stored import Shared, newest
from proxy.errors import StoreUnavailable
from proxy.log import Log
from proxy.stores.contract import Lock, TokenStore
from proxy.stores.memory import MemoryStore

# Seconds for which a lost store is not asked again: a request that waits for a token pays for its timeout once.
REST = 10.0


class DegradingStore:
    """A TokenStore, and locks, that raise nothing: where `store` can't be used, memory stands in.

    What is written meanwhile is for this process alone. When the store is back, `read` gives it together with what the
    others know, so that it gets into the store with the next `write`.
    """

    def __init__(self, store: TokenStore, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._own = MemoryStore()
        self._lost_at: float | None = None
        self._ignored: set[str] = set()

    async def read(self) -> Shared:
        if self._is_resting():
            return await self._own.read()
        try:
            shared = await self._store.read()
        except StoreUnavailable as exc:
            self._lost(exc)
            return await self._own.read()
        except ValueError as exc:
            self._ignore(str(exc))
            shared = Shared()
        self._works()
        return newest(shared, await self._own.read())

    async def lock(self, wait: float) -> Lock | None:
        if self._is_resting():
            return await self._own.lock(wait)
        try:
            lock = await self._store.lock(wait)
        except StoreUnavailable as exc:
            self._lost(exc)
            return await self._own.lock(wait)
        self._works()
        return _DegradingLock(self, lock) if lock is not None else None

    async def close(self) -> None:
        await self._store.close()

    async def write(self, lock: Lock, shared: Shared) -> bool:
        """With a lock of the store itself."""
        try:
            written = await lock.write(shared)
        except StoreUnavailable as exc:
            self._lost(exc)
            self._own.shared = shared
            return True
        self._works()
        self._own.shared = Shared()
        return written

    def _is_resting(self) -> bool:
        return self._lost_at is not None and self._clock() - self._lost_at < REST

    def _lost(self, reason: StoreUnavailable) -> None:
        if self._lost_at is None:
            self._log.warning("store_unavailable", reason=reason.detail)
        self._lost_at = self._clock()

    def _works(self) -> None:
        if self._lost_at is not None:
            self._log.info("store_recovered")
        self._lost_at = None

    def _ignore(self, reason: str) -> None:
        """Says once for each reason that what the store holds is not used."""
        if reason not in self._ignored:
            self._ignored.add(reason)
            self._log.warning("store_content_ignored", reason=reason)


class _DegradingLock:
    def __init__(self, store: DegradingStore, lock: Lock) -> None:
        self._store = store
        self._lock = lock

    async def write(self, shared: Shared) -> bool:
        return await self._store.write(self._lock, shared)

    async def release(self) -> None:
        await self._lock.release()
