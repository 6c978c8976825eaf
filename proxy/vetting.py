"""May a token be used? As `oauth.verify` says, by the keys that the provider publishes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.clock import Clock, read
from proxy.core.grant import TokenResponse
from proxy.core.lifecycle import Lease
from proxy.credential import JwksStatus
from proxy.errors import BadJwt
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.settings import OAuth

if TYPE_CHECKING:
    from proxy.verifier import Verifier

# Providers sign with a key up to a minute before they publish it; a token waits for its key until it is this old.
JWKS_LAG = 300.0


class Vetting:
    """Tokens are verified one at a time."""

    def __init__(
        self, oauth: OAuth, provider: Provider, metrics: Metrics, log: Log, *, clock: Clock, random: Callable[[], float]
    ) -> None:
        self._oauth = oauth
        self._provider = provider
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._random = random
        self._verifier: Verifier | None = None

    @property
    def mode(self) -> str:
        """off, warn or require; `auto` is resolved by whether the provider publishes keys."""
        mode = self._oauth.verify.mode
        if mode != "auto":
            return mode
        return "off" if self._provider.jwks_url is None else "require"

    def jwks(self) -> JwksStatus | None:
        return self._verifier.status() if self._verifier else None

    async def approve(self, response: TokenResponse, lease: Lease) -> None:
        """Returns if the token may be used. Raises BadJwt."""
        mode = self.mode
        if mode == "require":
            age = -lease.left(0.0, read(self._clock))
            await self._verifying().require(response, patience=min(JWKS_LAG - age, lease.usable_for))
        elif mode == "warn":
            await self._verifying().warn(response)
        if not lease.is_usable(read(self._clock)):
            raise BadJwt("The token is over when it arrives.")

    async def is_withdrawn(self, response: TokenResponse) -> bool:
        """Has the key of this token, which was approved, left the set that the provider publishes?

        Where a token need not be verified, nobody knows whether its key was ever in it.
        """
        return self.mode == "require" and await self._verifying().is_withdrawn(response)

    def _verifying(self) -> "Verifier":
        if self._verifier is None:
            # joserfc and cryptography cost 10 MB and 0.1 s, which only those pay who verify.
            from proxy.verifier import Verifier  # noqa: PLC0415 - as said

            self._verifier = Verifier(
                self._oauth, self._provider, self._metrics, self._log, clock=self._clock, random=self._random
            )
        return self._verifier
