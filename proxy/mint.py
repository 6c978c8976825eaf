"""Where tokens come from: the store, which others fill too, or the provider."""

import contextlib
from asyncio import sleep
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from proxy.clients import Clients
from proxy.clock import Clock, read
from proxy.core.grant import Refusal, TokenResponse
from proxy.core.lifecycle import MIN_INTERVAL, Lease, Now
from proxy.core.stored import Shared, StoredToken
from proxy.errors import BadJwt
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.settings import OAuth
from proxy.stores import Lock, TokenStore
from proxy.vetting import Vetting


class Minted(NamedTuple):
    """A token that may be used."""

    response: TokenResponse
    lease: Lease


class _Found(NamedTuple):
    """A token that nobody has vetted yet; `client`: the index of the one that obtained it."""

    token: StoredToken
    lease: Lease
    client: int


class Mint:
    """Obtains tokens, by one request at a time over all that share the store.

    `lease_for`: the lease of a token that was sent for at a moment and lives so many seconds.
    """

    def __init__(
        self,
        oauth: OAuth,
        clients: Clients,
        store: TokenStore,
        vetting: Vetting,
        *,
        metrics: Metrics,
        log: Log,
        lease_for: Callable[[Now, float], Lease],
        clock: Clock,
    ) -> None:
        self._patience = oauth.timeout
        self._min_interval = oauth.refresh.min_interval
        self._clients = clients
        self._store = store
        self._vetting = vetting
        self._metrics = metrics
        self._log = log
        self._lease_for = lease_for
        self._clock = clock
        self._asked_at: float | None = None
        self._distrusted: StoredToken | None = None

    async def token(self, current: Callable[[], Lease | None]) -> Minted | Refusal:
        """A token to use in place of that of the `current` lease: the store's, if that is newer, else a new one."""
        while True:
            # Without the lock, which those who ask in vain hand to one another all through an outage.
            stored = self._stored((await self._store.read()).token, current())
            found = stored or await self._new(current)
            if found is None:
                continue
            if isinstance(found, Refusal):
                return found
            minted = await self._vetted(found)
            if stored is None:
                self._count(found, minted)
            elif isinstance(minted, Refusal):
                self._log.warning("stored_token_refused", reason=minted.description)
                continue
            if isinstance(minted, Minted):
                self._clients.put_in_charge(found.client)
            return minted

    async def trial(self, index: int) -> Minted | None:
        """Client `index` asks for a token, to stay in use. Its token, where it takes over."""
        takes_over = self._clients.is_to_take_over(index)
        async with self._turn() as lock:
            if lock is None:
                self._clients.put_off(index)
                return None
            shared = await self._store.read()
            if not takes_over and self._clients.is_exercised(index, shared.used):
                return None
            found = await self._obtain([index], lock, shared, for_all=takes_over)
        if isinstance(found, Refusal):
            return None
        minted = await self._vetted(found)
        self._count(found, minted)
        if isinstance(minted, Refusal) or not takes_over:
            return None
        self._clients.put_in_charge(index)
        return minted

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[Lock | None]:
        """Only one of those who share the store asks the provider; None where it was always another one."""
        lock = await self._store.lock(self._patience)
        try:
            yield lock
        finally:
            if lock is not None:
                await lock.release()

    # The store.

    def _stored(self, stored: StoredToken | None, current: Lease | None) -> _Found | None:
        """The token of the store, if it is to be used in place of that of `current`."""
        if stored is None or stored == self._distrusted:
            return None
        now = read(self._clock)
        lease = self._stored_lease(stored, now)
        # The clock that it was dated by may be ahead of this one, but by no more than the token's margin.
        if not lease.is_usable(now) or stored.sent_at - now.wall > lease.lifetime - lease.usable_for:
            return None
        if current is not None and (lease.is_due(now) or stored.sent_at <= current.sent.wall):
            return None
        return _Found(stored, lease, self._clients.index(stored.client) or 0)

    def _stored_lease(self, stored: StoredToken, now: Now) -> Lease:
        age = max(0.0, now.wall - stored.sent_at)
        return self._lease_for(Now(now.mono - age, now.wall - age), stored.response.lifetime(stored.sent_at))

    async def _keep_distance(self, shared: Shared) -> None:
        """A process that is started again and again, or one of many, does not ask more often than one that lives."""
        if shared.asked_at is None or shared.asked_at == self._asked_at:
            return
        now = read(self._clock)
        interval: float = self._min_interval
        if shared.token is not None:
            # The interval must not outlast a short token.
            interval = max(MIN_INTERVAL, min(interval, self._stored_lease(shared.token, now).due_after))
        if 0 <= (since := now.wall - shared.asked_at) < interval:
            await sleep(interval - since)

    # The provider.

    async def _new(self, current: Callable[[], Lease | None]) -> _Found | Refusal | None:
        """Asks the provider; None where others did so, and filled the store, before it was this one's turn."""
        async with self._turn() as lock:
            if lock is None:
                return Refusal("transient", "timeout", "others held the lock of oauth.store all the time")
            shared = await self._store.read()
            if self._stored(shared.token, current()) is not None:
                return None
            return await self._obtain(self._clients.turns(), lock, shared)

    async def _obtain(
        self, turns: Sequence[int], lock: Lock, shared: Shared, *, for_all: bool = True
    ) -> _Found | Refusal:
        """A new token by the first of the clients that is accepted; it goes to the store, if it is `for_all`."""
        await self._keep_distance(shared)
        self._asked_at = self._clock.time()
        shared = shared._replace(asked_at=self._asked_at)
        # Said before it is done: whoever ends in the middle and begins again has asked.
        await lock.write(shared)
        answer = await self._clients.ask(turns)
        if isinstance(answer, Refusal):
            return answer
        response, sent, client = answer
        name = self._clients.name(client)
        token = StoredToken(response, sent.wall, name)
        used = {**shared.used, name: sent.wall}
        await lock.write(shared._replace(token=token if for_all else shared.token, used=used))
        return _Found(token, self._lease_for(sent, response.lifetime(sent.wall)), client)

    def _count(self, found: _Found, minted: Minted | Refusal) -> None:
        result = minted.result if isinstance(minted, Refusal) else "ok"
        self._metrics.token_requests.labels(self._clients.name(found.client), result).inc()

    async def _vetted(self, found: _Found) -> Minted | Refusal:
        try:
            await self._vetting.approve(found.token.response, found.lease)
        except BadJwt as exc:
            self._distrusted = found.token
            return Refusal("malformed", "rejected_token", exc.detail)
        return Minted(found.token.response, found.lease)
