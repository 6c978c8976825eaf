"""The client credentials grant as bytes: the token request (RFC 6749 §4.4.2), and what its answer means (§5)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import inf
from typing import Any, Literal

from authlib.common.urls import add_params_to_qs
from authlib.oauth2.rfc6749.parameters import prepare_token_request

from proxy.core.claims import unverified_times
from proxy.core.client_auth import AUTH_METHODS, ClientCredentials
from proxy.core.document import json_object
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable

Kind = Literal["transient", "rejected", "malformed"]

DEFAULT_LIFETIME = 300.0
MAX_LIFETIME = 30 * 86400.0
MAX_RETRY_AFTER = 600.0
# Servers take header fields of 8 KiB (nginx, Apache httpd) to 16 KiB (Node.js) by default.
MAX_TOKEN = 16 * 1024
MAX_PEER_TEXT = 256
# `Date` has whole seconds, and the answer was on its way for a while: less than this says nothing about the clocks.
CLOCK_NOISE = 2.0

# RFC 6749 §5.2 and §4.1.2.1, RFC 8707 §2: asking again with the same credentials and form gives the same answer.
_PERMANENT = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "access_denied",
        "invalid_target",
    }
)
# The last two are of RFC 9449 §5 and §8: another proof is another try.
_TRANSIENT = frozenset({"temporarily_unavailable", "server_error", "invalid_dpop_proof", "use_dpop_nonce"})

_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 §2.1
_SCOPE = re.compile(r"[\x20-\x7e]{0,1024}")  # RFC 6749 §3.3
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What is posted to the token endpoint."""

    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    # Each form in which the secret is in the request, so that an answer that repeats one is noticed.
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A token, as the provider describes it.

    `expires_in`: seconds. `exp`: the JWT's own end, in Unix seconds of the provider's clock, which is `clock_skew`
    seconds ahead of ours. `scope`: the granted one, None where the answer does not say (it is the one asked for).
    """

    access_token: Secret
    expires_in: float | None
    exp: float | None
    scope: str | None
    clock_skew: float

    @property
    def is_lifetime_unknown(self) -> bool:
        return self.expires_in is None and self.exp is None

    def lifetime(self, sent_at: float) -> float:
        """Seconds that the token lives from `sent_at` (Unix, our clock), when it was asked for; <= 0 if it is over."""
        ends = [] if self.expires_in is None else [self.expires_in]
        if self.exp is not None:
            ends.append(self.exp - self.clock_skew - sent_at)
        return min(*ends, MAX_LIFETIME) if ends else DEFAULT_LIFETIME


@dataclass(frozen=True, slots=True)
class Refusal:
    """No token (or no key set) came of a request.

    `result`: the value of the metric's label. `description`: for the log only; a peer's words in it are quoted and cut.
    `retry_after`: seconds that the provider asks us to wait.
    """

    kind: Kind
    result: str
    description: str
    retry_after: float | None = None


def token_request(
    auth_method: str,
    credentials: ClientCredentials,
    *,
    assertion: str = "",
    scope: str | None = None,
    audience: str | None = None,
    resource: str | None = None,
    params: Mapping[str, str] | None = None,
) -> TokenRequest:
    """The request for a token; empty parameters are left out (RFC 6749 §3.2).

    `auth_method`: a key of AUTH_METHODS. `assertion`: what client_secret_jwt and private_key_jwt have signed. Raises
    SecretUnreadable where the credentials can't be sent in that way.
    """
    form = prepare_token_request("client_credentials", scope=scope, audience=audience, resource=resource)
    try:
        shown = AUTH_METHODS[auth_method](credentials, assertion)
        extra = [(name, value) for name, value in (params or {}).items() if value]
        form = add_params_to_qs(form, [*extra, *shown.form])
    except UnicodeEncodeError:
        # `from None`: the encoder's error holds the secret.
        raise SecretUnreadable("the client id or the client secret is not UTF-8 text") from None
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json", **shown.headers}
    return TokenRequest(headers, form.encode(), tuple(filter(None, shown.secrets)))


def parse_response(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    dpop: bool = False,
    secrets: tuple[str, ...] = (),
) -> TokenResponse | Refusal:
    """What the token endpoint's answer, complete at `now` (Unix seconds), means.

    `headers` are looked up as `Date` and `Retry-After`. `dpop`: the token must be bound to a key (RFC 9449 §5). A text
    that holds one of `secrets` is not passed on.
    """
    try:
        members = json_object(body)
    except ValueError as exc:
        members, problem = {}, f"the body {exc}"
    else:
        problem = ""
    if status == HTTPStatus.OK and members and "error" not in members:
        return _token(members, headers, "DPoP" if dpop else "Bearer", now)
    error = members.get("error")
    if not isinstance(error, str):
        # RFC 6749 §5.2 has this status for one error only.
        error = "invalid_client" if status == HTTPStatus.UNAUTHORIZED else ""
    kind, result = _classify(status, error)
    said = [members[name] for name in ("error", "error_description") if isinstance(members.get(name), str)]
    description = "; ".join(filter(None, (_status(status), problem, _quoted(said, secrets))))
    return Refusal(kind, result, description, retry_after(headers, now))


def refused_status(status: int, headers: Mapping[str, str], now: float) -> Refusal:
    """An answer, not of the token endpoint, whose status is not 200; its body says nothing to us."""
    kind, result = _classify(status, "")
    return Refusal(kind, result, _status(status), retry_after(headers, now))


def _status(status: int) -> str:
    redirected = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
    return f"status {status}, a redirect, which is not followed" if redirected else f"status {status}"


def _classify(status: int, error: str) -> tuple[Kind, str]:
    """By `error` before status: providers put the codes of RFC 6749 §5.2 on various statuses."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "transient", "rate_limited"
    if error in _PERMANENT:
        return "rejected", error
    if error in _TRANSIENT:
        return "transient", error
    return (
        ("transient", "http_5xx") if status >= HTTPStatus.INTERNAL_SERVER_ERROR else ("malformed", "invalid_response")
    )


def _quoted(said: list[str], secrets: tuple[str, ...]) -> str:
    if any(secret in text for text in said for secret in secrets):
        return "the provider's words repeat the credentials, and are left out"
    # repr() escapes what is not printable: controls, ESC, line ends, bidi marks.
    return ", ".join(repr(text[:MAX_PEER_TEXT]) for text in said)[:MAX_PEER_TEXT]


def _token(
    members: Mapping[str, Any], headers: Mapping[str, str], expected_type: str, now: float
) -> TokenResponse | Refusal:
    token, token_type, scope = (members.get(name) for name in ("access_token", "token_type", "scope"))
    # The token becomes a part of a header field: nothing but b64token may reach it.
    if not isinstance(token, str) or len(token) > MAX_TOKEN or not _B64TOKEN.fullmatch(token):
        return _invalid("access_token is not a token of at most 16 KiB that fits a header field")
    if not isinstance(token_type, str) or token_type.lower() != expected_type.lower():
        return _invalid(f"token_type is not {expected_type}")
    try:
        expires_in = _seconds(members.get("expires_in"))
    except ValueError:
        return _invalid("expires_in is not a number of seconds above zero")
    return TokenResponse(
        Secret(token),
        expires_in,
        unverified_times(token).exp,
        scope if isinstance(scope, str) and _SCOPE.fullmatch(scope) else None,
        clock_skew(headers, now),
    )


def _invalid(description: str) -> Refusal:
    return Refusal("malformed", "invalid_response", description)


def _seconds(value: object) -> float | None:
    """`expires_in`, which some providers send as text; ValueError where it is no positive number."""
    if value is None:
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < inf:
        raise ValueError
    return float(min(value, MAX_LIFETIME))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from `now` (Unix) that Retry-After asks for (RFC 9110 §10.2.3), at most MAX_RETRY_AFTER."""
    value = headers.get("Retry-After", "").strip()
    seconds = float(value) if value.isascii() and value.isdigit() else _http_date(value) - now
    return min(seconds, MAX_RETRY_AFTER) if seconds > 0 else None


def clock_skew(headers: Mapping[str, str], now: float) -> float:
    """Seconds by which the clock of who sent `Date` is ahead of `now` (Unix); 0 where the field does not tell."""
    skew = _http_date(headers.get("Date", "")) - now
    return skew if abs(skew) > CLOCK_NOISE and skew > -inf else 0.0


def _http_date(value: str) -> float:
    """Unix seconds, or -inf where `value` is no date (RFC 9110 §5.6.7)."""
    try:
        moment = parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return -inf
