"""What others get to see of the token: what goes on the wire, and what operators may know."""

from dataclasses import dataclass
from typing import NamedTuple


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
