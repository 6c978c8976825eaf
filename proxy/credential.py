"""What others get to see of the token: what goes on the wire, and what operators may know."""

from dataclasses import dataclass
from typing import NamedTuple

from proxy.core.lifecycle import Now
from proxy.core.secret import Secret


class Credential:
    """An access token, ready for the wire. `line`: the `Authorization` field; `generation` counts the tokens."""

    __slots__ = ("generation", "line", "token")

    def __init__(self, token: Secret, generation: int, *, scheme: bytes = b"Bearer") -> None:
        self.token = token.reveal().encode()
        self.generation = generation
        self.line = b"Authorization: %b %b\r\n" % (scheme, self.token)

    def fields(self, _method: str, _origin: bytes, _target: bytes) -> bytes:
        """The finished header fields for one request. `origin`: scheme and authority; `target`: as it is sent."""
        return self.line

    def remember(self, nonce: bytes) -> None:
        """Of `DPoP-Nonce` in a response (RFC 9449 §8.2): nothing to a Bearer token."""

    def __repr__(self) -> str:
        return f"Credential(***, generation={self.generation})"


class Loan(NamedTuple):
    """An access token for somebody else to send, `until` then by either clock."""

    token: Secret
    generation: int
    until: Now


@dataclass(frozen=True, slots=True)
class JwksStatus:
    """The cached key set. `fetched_at`: Unix seconds. `last_error`: of the last fetch, None where it succeeded."""

    keys: int
    fetched_at: float | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """A registered client. `state`: active, standby or rejected. `last_used`: Unix seconds; `last_error`: of its last
    token request, None where that succeeded.
    """

    name: str
    state: str
    last_used: float | None
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
    clients: tuple[ClientStatus, ...]
