"""What the admin port tells of the proxy's state, as documents. No token is in what they are made from."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from proxy.credential import JwksStatus, TokenStatus
from proxy.log import one_line
from proxy.metrics import Traffic


class Readiness(NamedTuple):
    status: Literal["ok", "degraded", "starting", "expired", "stopping"]
    reason: str

    @property
    def ready(self) -> bool:
        return self.status in ("ok", "degraded")


def readiness(token: TokenStatus, *, stopping: bool) -> Readiness:
    """Can requests be served? A usable token decides, not whether the upstream is well (R163)."""
    if stopping:
        return Readiness("stopping", "The proxy is stopping.")
    failed = f" The last token request failed: {token.last_error}." if token.last_error else ""
    if token.usable:
        return Readiness("degraded" if failed else "ok", "There is a usable token." + failed)
    if token.ever_obtained:
        return Readiness("expired", "The token has expired." + failed)
    return Readiness("starting", "No token has been obtained yet." + failed)


def _moment(unix: float | None) -> str | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds")


def token_view(token: TokenStatus) -> dict[str, object]:
    return {
        "state": token.state,
        "usable": token.usable,
        "client": token.client,
        "generation": token.generation,
        "scope": token.scope,
        "verification": token.verification,
        "issued_at": _moment(token.issued_at),
        "expires_at": _moment(token.expires_at),
        "refresh_at": _moment(token.refresh_at),
        "last_error": token.last_error,
        "last_error_at": _moment(token.last_error_at),
        "retry_after_seconds": token.retry_after and round(token.retry_after, 1),
    }


def jwks_view(jwks: JwksStatus | None) -> dict[str, object] | None:
    if jwks is None:
        return None
    return {"keys": jwks.keys, "fetched_at": _moment(jwks.fetched_at), "last_error": jwks.last_error}


def request_view(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: one_line(value) if isinstance(value, str) else value for name, value in fields.items()}


def counters(traffic: Traffic) -> dict[str, object]:
    outcomes: Counter[str] = Counter()
    for (_, _, outcome), count in traffic.requests.items():
        outcomes[outcome] += count
    return {
        "requests": outcomes.total(),
        "outcomes": outcomes,
        "errors": traffic.errors,
        "in_flight": traffic.in_flight,
        "request_bytes": traffic.request_bytes,
        "response_bytes": traffic.response_bytes,
        "upstream_connects": traffic.connects,
    }
