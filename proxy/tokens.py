"""The access token that requests are sent with: fetched ahead of need, verified, kept through the provider's outages.

`core.lifecycle` decides; `TokenSource` does what it says, on the event loop that called `start`.
"""

import asyncio
import contextlib
import random as random_numbers
import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import NamedTuple

from proxy.clients import Clients
from proxy.clock import Clock, read
from proxy.core.grant import Refusal, TokenResponse
from proxy.core.lifecycle import MIN_INTERVAL, Lease, Lifecycle, Now, Timing, Todo
from proxy.core.remedies import remedy
from proxy.credential import Credential, Loan, TokenStatus
from proxy.deadline import Deadline
from proxy.errors import ClientRejected, Stopping, TokenUnavailable, Unavailable
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.mint import Mint, Minted
from proxy.settings import OAuth, Refresh
from proxy.stores import TokenStore
from proxy.vetting import Vetting
from proxy.watch import FileWatch

# An idle proxy looks at its clocks this often: no timer fires because the wall clock jumped or the machine slept.
CLOCK_CHECK = 30.0


class _Token(NamedTuple):
    response: TokenResponse
    lease: Lease
    credential: Credential


class TokenSource:
    """Hands out the current token. One refresh serves everybody, and no caller can cancel it."""

    def __init__(
        self,
        oauth: OAuth,
        provider: Provider,
        metrics: Metrics,
        log: Log,
        *,
        store: TokenStore,
        clock: Clock = time,
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        self._oauth = oauth
        self._provider = provider
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._random = random
        self._life = Lifecycle(_timing(oauth.refresh), random())
        self._clients = Clients(oauth, provider, metrics, log, clock=clock)
        self._vetting = Vetting(oauth, provider, metrics, log, clock=clock, random=random)
        self._mint = Mint(
            oauth,
            self._clients,
            store,
            self._vetting,
            metrics=metrics,
            log=log,
            lease_for=self._life.lease_for,
            clock=clock,
        )
        self._token: _Token | None = None
        self._borrow: Callable[[Loan], None] | None = None
        self._is_retired = False
        self._refusal: Refusal | None = None
        self._refused_at: float | None = None
        self._reported: tuple[bool, str | int] | None = None
        self._flight: asyncio.Task[None] | None = None
        self._flight_ended = asyncio.Event()
        self._timer: Deadline | None = None
        self._upkeep: list[asyncio.Task[None]] = []
        self._trials_changed = asyncio.Event()
        # What `current` answers, until one of the clocks says that there is something to decide.
        self._credential: Credential | None = None
        self._decided_mono = self._decided_wall = -inf
        self._waits = {result: metrics.token_waits.labels(result) for result in ("ok", "timeout", "error")}

    def start(self) -> None:
        """Begins to keep a token at hand, whether the provider is up or not."""
        loop = asyncio.get_running_loop()
        self._timer = Deadline(loop, self._decide)
        self._decide()
        upkeep = self._watch_secrets(), self._watch_keys(), self._exercise_clients()
        self._upkeep = [loop.create_task(chore) for chore in upkeep]

    def lend(self, borrow: Callable[[Loan], None]) -> None:
        """Calls it with the token that there is, if any, and with each that comes."""
        self._borrow = borrow
        self._hand_out()

    def retire(self) -> None:
        """Another source takes over, and with it the metrics; who still waits for this one's token is served."""
        self._is_retired = True

    async def stop(self) -> None:
        """Ends all that runs behind; what token there is can still be used."""
        self._tell(self._life.stop)
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._wake_waiters()
        running = {*self._upkeep, *filter(None, (self._flight,))}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        self._flight = None

    def current(self) -> Credential | None:
        """The token to send now, or None where `acquire` must be asked. For the hot path: two comparisons."""
        if self._clock.monotonic() < self._decided_mono and self._clock.time() < self._decided_wall:
            return self._credential
        self._decide()
        return self._credential

    async def acquire(self) -> Credential:
        """The token to send, waited for at most `refresh.wait`. Raises TokenUnavailable, ClientRejected or Stopping.

        Fails at once where a wait would be in vain: the last request failed, and the next is not sent yet.
        """
        credential = self.current()
        if credential is not None:
            return credential
        try:
            async with asyncio.timeout(self._oauth.refresh.wait):
                credential = await self._next_token()
        except TimeoutError:
            self._waits["timeout"].inc()
            raise self._unavailable() from None
        except Unavailable:
            self._waits["error"].inc()
            raise
        self._waits["ok"].inc()
        return credential

    def reconsider(self) -> None:
        """What the provider has refused may be granted by now: it is asked again at once."""
        if self._life.rejected:
            self._tell(self._life.secret_changed)

    async def refresh(self) -> bool:
        """Fetches a new token now, or joins the fetch in flight; True if one came within `oauth.timeout`."""
        before = self._life.generation
        self._tell(self._life.refresh_demanded)
        if not self._life.stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._flight_ended.wait(), self._oauth.timeout)
        return self._life.generation > before

    async def replace(self, generation: int, *, wait: bool) -> Credential | None:
        """Told that the API refused the token of `generation`: a newer one, waited for like a first one.

        However many report the same token, one request replaces it (R93). None where no newer one comes, or where the
        caller does not `wait` for it.
        """
        self._tell(partial(self._life.rejected_by_upstream, generation))
        if wait and self._flight is not None and self._life.generation == generation:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._oauth.refresh.wait):
                    await self._flight_ended.wait()
        credential = self.current()
        return credential if credential is not None and credential.generation > generation else None

    def status(self) -> TokenStatus:
        now, life, lease = read(self._clock), self._life, self._life.lease
        return TokenStatus(
            state=life.state(now),
            usable=life.is_usable(now),
            ever_obtained=lease is not None,
            client=self._clients.active,
            generation=life.generation,
            issued_at=lease.sent.wall if lease else None,
            expires_at=lease.expires_at if lease else None,
            refresh_at=lease.refresh_at if lease else None,
            last_error=self._refusal.result if self._refusal else None,
            last_error_at=self._refused_at,
            retry_after=life.retry_in(now) if self._refusal else None,
            scope=self._token.response.scope if self._token else None,
            verification=self._vetting.mode,
            jwks=self._vetting.jwks(),
            clients=self._clients.status(),
        )

    def _decide(self) -> None:
        self._tell(self._life.demanded)

    def _tell(self, event: Callable[[Now], Todo]) -> None:
        """Tells the token's life what has happened, and does what follows."""
        now = read(self._clock)
        self._apply(event(now), now)

    def _apply(self, todo: Todo, now: Now) -> None:
        usable = self._life.is_usable(now)
        self._credential = self._token.credential if usable and self._token else None
        self._publish(usable=usable)
        if todo.fetch:
            self._flight = asyncio.get_running_loop().create_task(self._fly())
        wake_in = min(todo.wake_in, CLOCK_CHECK)
        self._decided_mono, self._decided_wall = now.mono + wake_in, now.wall + wake_in
        if self._timer is not None:
            self._timer.set(wake_in)
        self._report(usable=usable)

    async def _next_token(self) -> Credential:
        while (credential := self.current()) is None:
            if self._life.is_hopeless():
                raise self._unavailable()
            await self._flight_ended.wait()
        return credential

    def _unavailable(self) -> Unavailable:
        if self._life.stopping:
            return Stopping()
        error = ClientRejected if self._life.rejected else TokenUnavailable
        return error(retry_after=self._life.retry_in(read(self._clock)))

    async def _fly(self) -> None:
        """One token request and what comes of it."""
        try:
            outcome = await self._mint.token(lambda: self._life.lease)
        except Exception as exc:  # noqa: BLE001 - nobody must wait for ever for a flight that a bug has ended
            outcome = Refusal("malformed", "invalid_response", f"internal error: {type(exc).__name__}")
        self._flight = None
        now = read(self._clock)
        if isinstance(outcome, Refusal):
            self._refused(outcome, now)
        else:
            self._obtained(outcome, self._life.fetched(outcome.lease, now), now)
        self._wake_waiters()

    def _obtained(self, minted: Minted, todo: Todo, now: Now) -> None:
        self._refusal = None
        if self._life.lease is minted.lease:
            self._adopt(*minted)
        self._apply(todo, now)

    def _adopt(self, response: TokenResponse, lease: Lease) -> None:
        generation = self._life.generation
        self._token = _Token(response, lease, self._provider.credential(response.access_token, generation))
        self._hand_out()

    def _hand_out(self) -> None:
        if self._borrow is not None and self._token is not None:
            response, lease, credential = self._token
            self._borrow(Loan(response.access_token, credential.generation, lease.usable_until))

    def _refused(self, refusal: Refusal, now: Now) -> None:
        self._refusal = refusal
        self._refused_at = now.wall
        self._apply(self._life.failed(refusal.kind, refusal.retry_after, self._random(), now), now)

    def _wake_waiters(self) -> None:
        self._flight_ended.set()
        self._flight_ended.clear()

    # What keeps things as they are.

    async def _watch_secrets(self) -> None:
        await FileWatch(self._clients.secret_files, self._secrets_changed).run()

    async def _secrets_changed(self, files: list[str]) -> None:
        if await self._clients.secret_files_changed(files) or self._life.rejected:
            self._tell(self._life.secret_changed)
        self._trials_changed.set()

    async def _watch_keys(self) -> None:
        """A token is replaced when its key is withdrawn, before the API learns of that."""
        while True:
            await asyncio.sleep(max(MIN_INTERVAL, self._oauth.verify.jwks_max_age))
            token = self._token
            if token is None or not token.lease.is_usable(read(self._clock)):
                continue
            if await self._vetting.is_withdrawn(token.response):
                self._log.warning("signing_key_withdrawn", generation=token.credential.generation)
                self._tell(self._life.key_vanished)

    async def _exercise_clients(self) -> None:
        """Those that stand by obtain a token from time to time, once there is one to serve with."""
        while self._token is None:
            await self._flight_ended.wait()
        while (trial := self._clients.next_trial()) is not None:
            if trial.wait:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._trials_changed.wait(), trial.wait)
                self._trials_changed.clear()
            elif (minted := await self._mint.trial(trial.client)) is not None:
                now = read(self._clock)
                self._obtained(minted, self._life.came(minted.lease, now), now)

    # What operators read.

    def _publish(self, *, usable: bool) -> None:
        """Nothing before the first token: until then, an earlier source can be in use."""
        token, metrics = self._token, self._metrics
        if token is None or self._is_retired:
            return
        metrics.token_usable.set(usable)
        metrics.token_generation.set(token.credential.generation)
        metrics.token_issued.set(token.lease.sent.wall)
        metrics.token_expiry.set(token.lease.expires_at)

    def _report(self, *, usable: bool) -> None:
        """One line for each token, when its refresh begins to fail, and when there is none because of that.

        The moment between a short token and its successor is none of these.
        """
        refusal = self._refusal
        condition = usable, refusal.result if refusal else self._life.generation
        if condition == self._reported or (refusal is None and not usable):
            return
        self._reported = condition
        if refusal is not None:
            self._report_refusal(refusal, usable=usable)
        elif self._token is not None:
            self._report_token(self._token)

    def _report_token(self, token: _Token) -> None:
        self._log.info(
            "token_obtained",
            client=self._clients.active,
            generation=token.credential.generation,
            lifetime=token.lease.lifetime,
            lifetime_assumed=token.response.is_lifetime_unknown,
            scope=token.response.scope,
            scope_asked=self._oauth.scope,
            verification=self._vetting.mode,
        )

    def _report_refusal(self, refusal: Refusal, *, usable: bool) -> None:
        write = self._log.warning if usable else self._log.error
        write(
            "token_refresh_failed" if usable else "token_unavailable",
            client=self._clients.active,
            result=refusal.result,
            reason=refusal.description,
            hint=remedy(refusal.result),
            retry_in=round(self._life.retry_in(read(self._clock)), 1),
        )


def _timing(refresh: Refresh) -> Timing:
    return Timing(
        refresh.at,
        refresh.jitter,
        refresh.margin,
        refresh.min_interval,
        refresh.backoff.initial,
        refresh.backoff.max,
        refresh.backoff.rejected,
    )
