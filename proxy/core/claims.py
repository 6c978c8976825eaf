"""What an access token says of itself, before anybody has verified it (RFC 7519 §4.1)."""

from base64 import urlsafe_b64decode
from typing import Any, NamedTuple

from proxy.core.document import json_object

# A JWS in compact form: header, payload, signature (RFC 7515 §7.1).
_PARTS = 3
# Past this, floats skip seconds; NaN and infinity are past it, too.
_MAX_TIME = 2**53


class Times(NamedTuple):
    """Unix seconds, as the token says (RFC 7519 §4.1.4-6); None where it says nothing."""

    exp: float | None = None
    iat: float | None = None
    nbf: float | None = None


class Jwt(NamedTuple):
    header: dict[str, Any]
    claims: dict[str, Any]


def unverified(token: str) -> Jwt | None:
    """What is in a token that nobody has checked; None where it is not a JWT."""
    parts = token.split(".")
    if len(parts) != _PARTS:
        return None
    try:
        return Jwt(*(json_object(urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2]))
    except ValueError:
        return None


def unverified_times(token: str) -> Times:
    """The times in a token that nobody has checked; none where the token is not a JWT."""
    jwt = unverified(token)
    return Times() if jwt is None else Times(*(_numeric_date(jwt.claims.get(name)) for name in Times._fields))


def _numeric_date(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < _MAX_TIME else None
