"""The access token that requests are sent with: fetched ahead of need, verified, kept through the provider's outages.

`core.lifecycle` decides; `TokenSource` does what it says, on the event loop that called `start`.
"""

import asyncio
import contextlib
import itertools
import random as random_numbers
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from proxy.core.grant import Refusal, TokenResponse
from proxy.core.jwt import BadJwt, Expected, KeySet, UnknownKey, verify
from proxy.core.lifecycle import Lease, Lifecycle, Now, Timing, Todo, backoff
from proxy.deadline import Deadline
from proxy.errors import ClientRejected, Stopping, TokenUnavailable, Unavailable
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.settings import OAuth, Refresh

# An idle proxy looks at its clocks this often: no timer fires because the wall clock jumped or the machine slept.
CLOCK_CHECK = 30.0
# A token with an unknown key has the key set fetched again at once, unless that was done a moment ago.
JWKS_COOLDOWN = 30.0
# Providers sign with a key up to a minute before they publish it; a token waits this long for its key.
JWKS_LAG = 300.0
# The last good key set serves this long while no newer one can be had.
JWKS_GRACE = 86400.0

_HINTS = {
    "invalid_client": "the client was deactivated (4 weeks without use), deleted (12 weeks without use), or its secret"
    " is wrong: look in the Customer Portal, API Settings",
}


class Clock(Protocol):
    """What the module `time` has."""

    def monotonic(self) -> float: ...

    def time(self) -> float: ...


class Credential(NamedTuple):
    """`line`: the whole header field, ready for the wire. `generation` counts the tokens."""

    line: bytes
    generation: int

    def __repr__(self) -> str:
        return f"Credential(***, generation={self.generation})"


@dataclass(frozen=True, slots=True)
class JwksStatus:
    """The cached key set. `fetched_at`: Unix seconds. `last_error`: of the last fetch, None where it succeeded."""

    keys: int
    fetched_at: float | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """What operators see; all times are Unix seconds.

    `last_error` (a value of the metric's label `result`) and `retry_after` (seconds) are None unless the last token
    request failed; `last_error_at` stays. `scope`: the one that the provider names. `verification`: off, warn or
    require, as it is in force.
    """

    state: str
    usable: bool
    ever_obtained: bool
    client: str | None
    generation: int
    issued_at: float | None
    expires_at: float | None
    refresh_at: float | None
    last_error: str | None
    last_error_at: float | None
    retry_after: float | None
    scope: str | None
    verification: str
    jwks: JwksStatus | None


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
        self._verifier = Verifier(oauth, provider, metrics, log, clock=clock, random=random)
        self._token: _Token | None = None
        self._refusal: Refusal | None = None
        self._refused_at: float | None = None
        self._reported: tuple[bool, str | None] | None = None
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
        now = _read(self._clock)
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
        now = _read(self._clock)
        self._apply(self._life.refresh_demanded(now), now)
        if not self._life.stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._flight_ended.wait(), self._oauth.timeout)
        return self._life.generation > before

    def status(self) -> TokenStatus:
        now, life, lease = _read(self._clock), self._life, self._life.lease
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
            verification=self._verifier.mode,
            jwks=self._verifier.status(),
        )

    def _decide(self) -> None:
        now = _read(self._clock)
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
        return error(retry_after=self._life.retry_in(_read(self._clock)))

    async def _fly(self, sent: Now) -> None:
        """One token request and what comes of it."""
        try:
            outcome = await self._mint(sent)
        except Exception as exc:  # noqa: BLE001 - nobody must wait for ever for a flight that a bug has ended
            outcome = Refusal("malformed", "invalid_response", f"internal error: {type(exc).__name__}")
        self._flight = None
        now = _read(self._clock)
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
            await self._verifier.check(response, patience=min(JWKS_LAG, lease.usable_for))
        except BadJwt as exc:
            return Refusal("malformed", "rejected_token", exc.detail)
        if not lease.is_usable(_read(self._clock)):
            return Refusal("malformed", "rejected_token", "the token is over when it arrives")
        return response, lease

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
        """One line when the token becomes good, when its refresh begins to fail, and when there is none because of it.

        The moment between a short token and its successor is none of these.
        """
        refusal = self._refusal
        condition = usable, refusal.result if refusal else None
        if condition in (self._reported, (False, None)):
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
            verification=self._verifier.mode,
        )

    def _report_refusal(self, refusal: Refusal, *, usable: bool) -> None:
        write = self._log.warning if usable else self._log.error
        write(
            "token_refresh_failed" if usable else "token_unavailable",
            client=self._client.name,
            result=refusal.result,
            reason=refusal.description,
            hint=_HINTS.get(refusal.result),
            retry_in=round(self._life.retry_in(_read(self._clock)), 1),
        )


class Verifier:
    """Checks tokens, one at a time, by the provider's signing keys, which it keeps and renews."""

    def __init__(
        self, oauth: OAuth, provider: Provider, metrics: Metrics, log: Log, *, clock: Clock, random: Callable[[], float]
    ) -> None:
        self._settings = oauth.verify
        self._backoff = oauth.refresh.backoff
        self._expected = Expected(
            oauth.verify.algorithms,
            # RFC 9068 §4: tokens name the issuer that the metadata names.
            oauth.verify.issuer or oauth.issuer,
            oauth.verify.audience,
            oauth.verify.leeway,
        )
        self._provider = provider
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._random = random
        self._keys = KeySet(())
        self._fetched = Now(-inf, -inf)
        self._asked_at = -inf
        self._error: str | None = None
        self._warned: str | None = None

    @property
    def mode(self) -> str:
        """off, warn or require; `auto` is resolved by whether the provider publishes keys."""
        if self._settings.mode != "auto":
            return self._settings.mode
        return "off" if self._provider.jwks_url is None else "require"

    def status(self) -> JwksStatus | None:
        if self.mode == "off":
            return None
        fetched_at = self._fetched.wall if self._keys.keys else None
        return JwksStatus(len(self._keys.keys), fetched_at, self._error)

    async def check(self, response: TokenResponse, patience: float) -> None:
        """Returns if the token may be used, after up to `patience` seconds in which its key is published. Or BadJwt."""
        mode = self.mode
        if mode == "off":
            return
        try:
            await self._check(response, patience if mode == "require" else 0.0)
            self._warned = None
        except BadJwt as exc:
            if mode == "require":
                raise
            if exc.detail != self._warned:
                self._log.warning("token_not_verified", reason=exc.detail)
            self._warned = exc.detail

    async def _check(self, response: TokenResponse, patience: float) -> None:
        gives_up_at = self._clock.monotonic() + patience
        if self._age() > self._settings.jwks_max_age:
            await self._fetch()
        for attempt, delay in enumerate(self._delays()):
            try:
                self._check_now(response)
            except UnknownKey as exc:
                if delay and self._clock.monotonic() + delay > gives_up_at:
                    raise
                if attempt == 1:
                    # A newer key set did not help.
                    self._log.warning("token_waits_for_its_key", reason=exc.detail, jwks=self._error or "ok")
            else:
                return
            await asyncio.sleep(delay)
            await self._fetch()

    def _check_now(self, response: TokenResponse) -> None:
        now = self._clock.time() + response.clock_skew
        verify(response.access_token.reveal(), self._keys, self._expected, now)

    def _delays(self) -> Iterator[float]:
        """Seconds to wait before each new fetch of the key set: none before the first, if the last is long ago."""
        if self._clock.monotonic() - self._asked_at >= JWKS_COOLDOWN:
            yield 0.0
        for failures in itertools.count():
            yield backoff(self._backoff.initial, self._backoff.max, failures, self._random())

    async def _fetch(self) -> None:
        answer = await self._provider.fetch_jwks()
        self._asked_at = self._clock.monotonic()
        if isinstance(answer, KeySet):
            self._keys, self._fetched, self._error = answer, _read(self._clock), None
        else:
            self._error = answer.result
            if self._age() > JWKS_GRACE:
                self._keys = KeySet(())
        self._metrics.jwks_fetches.labels(self._error or "ok").inc()

    def _age(self) -> float:
        now = _read(self._clock)
        return max(now.mono - self._fetched.mono, now.wall - self._fetched.wall)


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


def _read(clock: Clock) -> Now:
    return Now(clock.monotonic(), clock.time())
