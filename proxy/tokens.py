"""The access token that requests are sent with: fetched ahead of need, verified, kept through the provider's outages.

`core.lifecycle` decides; `TokenSource` does what it says, on the event loop that called `start`.
"""

import asyncio
import contextlib
import random as random_numbers
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from proxy.clock import Clock, read
from proxy.core.grant import Refusal, TokenResponse
from proxy.core.lifecycle import Lease, Lifecycle, Now, Timing, Todo
from proxy.credential import Credential, TokenStatus
from proxy.deadline import Deadline
from proxy.errors import BadJwt, ClientRejected, Stopping, TokenUnavailable, Unavailable
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.settings import OAuth, Refresh

if TYPE_CHECKING:
    from proxy.verifier import Verifier

# An idle proxy looks at its clocks this often: no timer fires because the wall clock jumped or the machine slept.
CLOCK_CHECK = 30.0
# Providers sign with a key up to a minute before they publish it; a token waits this long for its key.
JWKS_LAG = 300.0

_HINTS = {
    "invalid_client": "the client was deactivated (4 weeks without use), deleted (12 weeks without use), or its secret"
    " is wrong: look in the Customer Portal, API Settings",
}


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
        clock: Clock = time,
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        self._oauth = oauth
        self._client = oauth.clients[0]
        self._provider = provider
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._random = random
        self._life = Lifecycle(_timing(oauth.refresh), random())
        self._verifier: Verifier | None = None
        self._token: _Token | None = None
        self._refusal: Refusal | None = None
        self._refused_at: float | None = None
        self._reported: tuple[bool, str | int] | None = None
        self._flight: asyncio.Task[None] | None = None
        self._flight_ended = asyncio.Event()
        self._timer: Deadline | None = None
        # What `current` answers, until one of the clocks says that there is something to decide.
        self._credential: Credential | None = None
        self._decided_mono = self._decided_wall = -inf
        self._waits = {result: metrics.token_waits.labels(result) for result in ("ok", "timeout", "error")}

    def start(self) -> None:
        """Begins to keep a token at hand, whether the provider is up or not."""
        self._timer = Deadline(asyncio.get_running_loop(), self._decide)
        self._decide()

    async def stop(self) -> None:
        """Ends all that runs behind; what token there is can still be used."""
        now = read(self._clock)
        self._apply(self._life.stop(now), now)
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._wake_waiters()
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait({self._flight})
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

    async def refresh(self) -> bool:
        """Fetches a new token now, or joins the fetch in flight; True if one came within `oauth.timeout`."""
        before = self._life.generation
        now = read(self._clock)
        self._apply(self._life.refresh_demanded(now), now)
        if not self._life.stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._flight_ended.wait(), self._oauth.timeout)
        return self._life.generation > before

    async def replace(self, generation: int, *, wait: bool) -> Credential | None:
        """Told that the API refused the token of `generation`: a newer one, waited for like a first one.

        However many report the same token, one request replaces it (R93). None where no newer one comes, or where the
        caller does not `wait` for it.
        """
        now = read(self._clock)
        self._apply(self._life.rejected_by_upstream(generation, now), now)
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
            client=self._client.name,
            generation=life.generation,
            issued_at=lease.sent.wall if lease else None,
            expires_at=lease.expires_at if lease else None,
            refresh_at=lease.refresh_at if lease else None,
            last_error=self._refusal.result if self._refusal else None,
            last_error_at=self._refused_at,
            retry_after=life.retry_in(now) if self._refusal else None,
            scope=self._token.response.scope if self._token else None,
            verification=self._verification,
            jwks=self._verifier.status() if self._verifier else None,
        )

    def _decide(self) -> None:
        now = read(self._clock)
        self._apply(self._life.demanded(now), now)

    def _apply(self, todo: Todo, now: Now) -> None:
        usable = self._life.is_usable(now)
        self._credential = self._token.credential if usable and self._token else None
        self._metrics.token_usable.set(usable)
        if todo.fetch:
            self._flight = asyncio.get_running_loop().create_task(self._fly(now))
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

    async def _fly(self, sent: Now) -> None:
        """One token request and what comes of it."""
        try:
            outcome = await self._mint(sent)
        except Exception as exc:  # noqa: BLE001 - nobody must wait for ever for a flight that a bug has ended
            outcome = Refusal("malformed", "invalid_response", f"internal error: {type(exc).__name__}")
        self._flight = None
        now = read(self._clock)
        if isinstance(outcome, Refusal):
            self._metrics.token_requests.labels(self._client.name, outcome.result).inc()
            self._refused(outcome, now)
        else:
            self._metrics.token_requests.labels(self._client.name, "ok").inc()
            self._obtained(*outcome, now)
        self._wake_waiters()

    async def _mint(self, sent: Now) -> tuple[TokenResponse, Lease] | Refusal:
        response = await self._provider.request_token(self._client)
        self._metrics.token_request_duration.observe(self._clock.monotonic() - sent.mono)
        if isinstance(response, Refusal):
            return response
        self._metrics.clock_skew.set(response.clock_skew)
        lease = self._life.lease_for(sent, response.lifetime(sent.wall))
        try:
            await self._verify(response, lease)
        except BadJwt as exc:
            return Refusal("malformed", "rejected_token", exc.detail)
        if not lease.is_usable(read(self._clock)):
            return Refusal("malformed", "rejected_token", "the token is over when it arrives")
        return response, lease

    @property
    def _verification(self) -> str:
        """off, warn or require; `auto` is resolved by whether the provider publishes keys."""
        mode = self._oauth.verify.mode
        if mode != "auto":
            return mode
        return "off" if self._provider.jwks_url is None else "require"

    async def _verify(self, response: TokenResponse, lease: Lease) -> None:
        """Returns if the token may be used. Raises BadJwt."""
        mode = self._verification
        if mode == "off":
            return
        if self._verifier is None:
            # joserfc and cryptography cost 10 MB and 0.1 s, which only those pay who verify.
            from proxy.verifier import Verifier  # noqa: PLC0415 - as said

            self._verifier = Verifier(
                self._oauth, self._provider, self._metrics, self._log, clock=self._clock, random=self._random
            )
        if mode == "warn":
            await self._verifier.warn(response)
        else:
            await self._verifier.require(response, patience=min(JWKS_LAG, lease.usable_for))

    def _obtained(self, response: TokenResponse, lease: Lease, now: Now) -> None:
        todo = self._life.fetched(lease, now)
        self._refusal = None
        if self._life.lease is lease:
            self._adopt(response, lease)
        self._metrics.client_last_used.labels(self._client.name).set(now.wall)
        self._apply(todo, now)

    def _adopt(self, response: TokenResponse, lease: Lease) -> None:
        generation = self._life.generation
        line = f"Authorization: Bearer {response.access_token.reveal()}\r\n".encode()
        self._token = _Token(response, lease, Credential(line, generation))
        self._metrics.token_generation.set(generation)
        self._metrics.token_issued.set(lease.sent.wall)
        self._metrics.token_expiry.set(lease.expires_at)

    def _refused(self, refusal: Refusal, now: Now) -> None:
        self._refusal = refusal
        self._refused_at = now.wall
        self._apply(self._life.failed(refusal.kind, refusal.retry_after, self._random(), now), now)

    def _wake_waiters(self) -> None:
        self._flight_ended.set()
        self._flight_ended.clear()

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
            client=self._client.name,
            generation=token.credential.generation,
            lifetime=token.lease.lifetime,
            lifetime_assumed=token.response.is_lifetime_unknown,
            scope=token.response.scope,
            scope_asked=self._oauth.scope,
            verification=self._verification,
        )

    def _report_refusal(self, refusal: Refusal, *, usable: bool) -> None:
        write = self._log.warning if usable else self._log.error
        write(
            "token_refresh_failed" if usable else "token_unavailable",
            client=self._client.name,
            result=refusal.result,
            reason=refusal.description,
            hint=_HINTS.get(refusal.result),
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
