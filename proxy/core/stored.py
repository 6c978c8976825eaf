"""What the processes that share a token know, as the bytes that a store keeps."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from operator import attrgetter
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from proxy.core.document import json_object
from proxy.core.grant import MAX_LIFETIME, MAX_TOKEN, TokenResponse
from proxy.core.secret import Secret

# The longest token, and room for the rest.
MAX_DOCUMENT = 2 * MAX_TOKEN
# The end of the year 9999: what is past it is no time, but damage.
_MAX_TIME = 253402300799
# What core.claims takes for a time of a token.
_MAX_CLAIM = 2**53

# More than anybody configures.
_MAX_CLIENTS = 32

_Time = Annotated[float, Meta(ge=0, le=_MAX_TIME)]
_Client = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]


@dataclass(frozen=True, slots=True)
class StoredToken:
    """`sent_at`: when it was asked for, in Unix seconds. `client`: which of the configured clients obtained it."""

    response: TokenResponse
    sent_at: float
    client: str


class Shared(NamedTuple):
    """What the processes that share a store know.

    `asked_at`: the latest token request of any of them, whatever came of it, in Unix seconds. `used`: when each client
    obtained its latest token, by its name.
    """

    token: StoredToken | None = None
    asked_at: float | None = None
    used: Mapping[str, float] = MappingProxyType({})


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_token: Annotated[str, Meta(pattern=r"^[A-Za-z0-9\-._~+/]+=*\Z", max_length=MAX_TOKEN)]  # RFC 6750 §2.1
    expires_in: Annotated[float, Meta(gt=0, le=MAX_LIFETIME)] | None
    exp: Annotated[float, Meta(gt=-_MAX_CLAIM, lt=_MAX_CLAIM)] | None
    scope: Annotated[str, Meta(pattern=r"^[\x20-\x7e]{0,1024}\Z")] | None  # RFC 6749 §3.3
    clock_skew: Annotated[float, Meta(ge=-_MAX_TIME, le=_MAX_TIME)]
    sent_at: _Time
    client: _Client


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    asked_at: _Time | None
    used: Annotated[dict[_Client, _Time], Meta(max_length=_MAX_CLIENTS)]
    token: _Token | None


def encode(shared: Shared) -> bytes:
    """JSON, with a format version. It holds the token."""
    token = _written(shared.token) if shared.token else None
    return msgspec.json.encode(_Document(1, shared.asked_at, dict(shared.used), token))


def decode(document: bytes) -> Shared:
    """Raises ValueError, which repeats nothing of the document, for everything that `encode` does not write."""
    if len(document) > MAX_DOCUMENT:
        raise ValueError(f"is larger than {MAX_DOCUMENT // 1024} KiB")
    members = json_object(document)
    try:
        read = msgspec.convert(members, _Document)
    except (msgspec.ValidationError, UnicodeEncodeError):
        # `from None`: the cause repeats names of the document.
        raise ValueError("is not what this version writes") from None
    return Shared(_read(read.token) if read.token else None, read.asked_at, read.used)


def newest(*known: Shared) -> Shared:
    """What all of these know together: the token that was asked for last, and the latest requests."""
    tokens = [shared.token for shared in known if shared.token is not None]
    times = [shared.asked_at for shared in known if shared.asked_at is not None]
    used: dict[str, float] = {}
    for name, at in (item for shared in known for item in shared.used.items()):
        used[name] = max(at, used.get(name, at))
    return Shared(max(tokens, key=attrgetter("sent_at"), default=None), max(times, default=None), used)


def store_key(
    *, provider: str, client_id: Secret, scope: str | None, audience: str | None, resource: str | None
) -> str:
    """Names one kind of token: 64 hexadecimal digits, from which nothing can be read.

    `provider`: the URL that says where tokens come from.
    """
    # JSON keeps apart what concatenation would not: a boundary that moves, an empty text and none.
    parts = ["thg-proxy token", provider, client_id.reveal(), scope, audience, resource]
    return sha256(json.dumps(parts).encode()).hexdigest()


def _written(token: StoredToken) -> _Token:
    response = token.response
    return _Token(
        response.access_token.reveal(),
        response.expires_in,
        response.exp,
        response.scope,
        response.clock_skew,
        token.sent_at,
        token.client,
    )


def _read(token: _Token) -> StoredToken:
    access_token = Secret(token.access_token)
    response = TokenResponse(access_token, token.expires_in, token.exp, token.scope, token.clock_skew)
    return StoredToken(response, token.sent_at, token.client)
