"""Is a token one that the provider's published keys have signed?"""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from math import inf

from proxy.clock import Clock, read
from proxy.core.grant import Refusal, TokenResponse
from proxy.core.jwt import Expected, KeySet, parse_jwks, verify
from proxy.core.lifecycle import Now, backoff
from proxy.credential import JwksStatus
from proxy.errors import BadJwt, BadKeySet, UnknownKey
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.settings import OAuth

# A token with an unknown key has the key set fetched again at once, unless that was done a moment ago.
JWKS_COOLDOWN = 30.0
# The last good key set serves this long while no newer one can be had.
JWKS_GRACE = 86400.0


def expected_of(oauth: OAuth) -> Expected:
    """What tokens must say, by the configuration."""
    return Expected(
        oauth.verify.algorithms,
        # RFC 9068 §4: tokens name the issuer that the metadata names.
        oauth.verify.issuer or oauth.issuer,
        oauth.verify.audience,
        oauth.verify.leeway,
        oauth.verify.type,
    )


class Verifier:
    """Checks tokens, one at a time, by the provider's signing keys, which it keeps and renews."""

    def __init__(
        self, oauth: OAuth, provider: Provider, metrics: Metrics, log: Log, *, clock: Clock, random: Callable[[], float]
    ) -> None:
        self._settings = oauth.verify
        self._backoff = oauth.refresh.backoff
        self._expected = expected_of(oauth)
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

    def status(self) -> JwksStatus:
        fetched_at = self._fetched.wall if self._keys.keys else None
        return JwksStatus(len(self._keys.keys), fetched_at, self._error)

    async def require(self, response: TokenResponse, patience: float) -> None:
        """Returns if the token may be used. Raises BadJwt; its key may take `patience` seconds to be published."""
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

    async def warn(self, response: TokenResponse) -> None:
        """Logs what is wrong with the token, once for each thing, and returns."""
        try:
            await self.require(response, patience=0.0)
            self._warned = None
        except BadJwt as exc:
            if exc.detail != self._warned:
                self._log.warning("token_not_verified", reason=exc.detail)
            self._warned = exc.detail

    async def is_withdrawn(self, response: TokenResponse) -> bool:
        """Fetches the key set: does it no longer vouch for the token, for which an earlier one did?"""
        await self._fetch()
        try:
            self._check_now(response)
        except BadJwt:
            return True
        return False

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
        self._error = answer.result if isinstance(answer, Refusal) else self._take(answer)
        if self._error is not None and self._age() > JWKS_GRACE:
            self._keys = KeySet(())
        self._metrics.jwks_fetches.labels(self._error or "ok").inc()

    def _take(self, document: bytes) -> str | None:
        try:
            self._keys = parse_jwks(document)
        except BadKeySet as exc:
            self._log.warning("key_set_refused", reason=exc.detail)
            return "invalid_response"
        self._fetched = read(self._clock)
        return None

    def _age(self) -> float:
        now = read(self._clock)
        return max(now.mono - self._fetched.mono, now.wall - self._fetched.wall)
