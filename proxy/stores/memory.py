"""A store for the tasks of one process."""

import asyncio

from proxy.core.stored import Shared
from proxy.stores.contract import Lock


class MemoryStore:
    """A TokenStore that never raises. `shared`: what it holds."""

    def __init__(self) -> None:
        self.shared = Shared()
        self._held = asyncio.Lock()

    async def read(self) -> Shared:
        return self.shared

    async def lock(self, wait: float) -> Lock | None:
        try:
            async with asyncio.timeout(wait):
                await self._held.acquire()
        except TimeoutError:
            return None
        return _MemoryLock(self, self._held)

    async def close(self) -> None:
        pass


class _MemoryLock:
    def __init__(self, store: MemoryStore, held: asyncio.Lock) -> None:
        self._store = store
        self._held: asyncio.Lock | None = held

    async def write(self, shared: Shared) -> bool:
        if self._held is None:
            return False
        self._store.shared = shared
        return True

    async def release(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None
