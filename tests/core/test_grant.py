import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey

from proxy.core.client_auth import ClientCredentials
from proxy.core.grant import (
    DEFAULT_LIFETIME,
    MAX_LIFETIME,
    MAX_RETRY_AFTER,
    MAX_TOKEN,
    Refusal,
    TokenRequest,
    TokenResponse,
    parse_response,
    refused_status,
    token_request,
)
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT
SECRET = Secret("p%Q+ /=:é&~")
CLIENT = ClientCredentials(Secret("client"), SECRET)


def request() -> TokenRequest:
    return token_request("client_secret_basic", CLIENT)


def answer(status: int = 200, body: object = None, *, dpop: bool = False, **headers: str) -> TokenResponse | Refusal:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse_response(status, named, raw, now=NOW, dpop=dpop, secrets=(SECRET.reveal(),))


def token(**changes: object) -> TokenResponse | Refusal:
    return answer(body={"access_token": "abc", "token_type": "Bearer", "expires_in": 3600} | changes)


def good(response: TokenResponse | Refusal) -> TokenResponse:
    assert isinstance(response, TokenResponse), response
    return response


def bad(response: TokenResponse | Refusal) -> Refusal:
    assert isinstance(response, Refusal), response
    return response


def test_form_of_the_request() -> None:
    """A form that asks for client credentials, and nothing else (R72)."""
    sent = request()

    assert sent.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert sent.headers["Accept"] == "application/json"
    assert sent.body == b"grant_type=client_credentials"


def test_parameters() -> None:
    """Scope, audience, resource and extra parameters are sent once; empty ones are left out (R75)."""
    sent = token_request(
        "client_secret_basic",
        CLIENT,
        scope="a b",
        audience="api",
        resource="https://api.example/",
        params={"tenant": "t&1", "empty": "", "body": "b"},
    )

    assert sent.body == (
        b"grant_type=client_credentials&scope=a+b&audience=api&resource=https%3A%2F%2Fapi.example%2F"
        b"&tenant=t%261&body=b"
    )
    assert token_request("client_secret_basic", CLIENT, scope="", audience="", resource="").body == request().body


def test_credentials_that_are_no_text() -> None:
    """What can't be sent in UTF-8 is said to be so, and not shown (R145)."""
    with pytest.raises(SecretUnreadable, match=r"^the client id or the client secret is not UTF-8 text$"):
        token_request("client_secret_post", ClientCredentials(Secret("client"), Secret("\udce9")))


def test_request_does_not_print_the_secret() -> None:
    """The repr of a request shows neither header nor body (R146)."""
    assert repr(request()) == "TokenRequest()"


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "BEARER"])
def test_token_is_accepted(token_type: str) -> None:
    """The token type is compared without case, unknown members are ignored (R76)."""
    response = good(token(token_type=token_type, expires_in=86399, scope="", unknown=[1]))

    assert response.access_token.reveal() == "abc"
    assert response.lifetime(NOW) == 86399
    assert response.scope == ""
    assert "abc" not in repr(response)


def test_bearer_is_what_is_expected() -> None:
    """Unless the request asked for something else (R76)."""
    body = b'{"access_token": "abc", "token_type": "Bearer", "expires_in": 3600}'

    assert good(parse_response(200, {}, body, now=NOW)).access_token.reveal() == "abc"


def test_token_as_large_as_may_be() -> None:
    """16 KiB fit a header field of most servers (R67)."""
    assert good(token(access_token="a" * MAX_TOKEN)).access_token.reveal() == "a" * MAX_TOKEN


@pytest.mark.parametrize("scope", ["a\nb", "é", "a" * 1025, ["a"], 1])
def test_scope_that_is_none(scope: object) -> None:
    """What is no scope is not taken for one: it goes to the log, and to whoever looks at the status (R151)."""
    assert good(token(scope=scope)).scope is None


@pytest.mark.parametrize("members, is_unknown", [({}, True), ({"expires_in": 60}, False)])
def test_lifetime_that_nobody_tells(members: dict[str, object], is_unknown: bool) -> None:
    """An operator is told that the lifetime is assumed (R77)."""
    response = good(answer(body={"access_token": "abc", "token_type": "Bearer"} | members))

    assert response.is_lifetime_unknown == is_unknown


@pytest.mark.parametrize(
    "status, body",
    [
        (200, b""),
        (200, b"<html>sign in</html>"),
        (204, b""),
        (200, b"[]"),
        (200, b"{}"),
        (200, b"null"),
        (200, b'{"access_token": "abc", "token_type": "Bearer", "expires_in": 3600'),
        (200, b'{"access_token": "abc", "token_type": "Bearer", "expires_in": NaN}'),
        (200, b'{"access_token": "abc", "token_type": "Bearer", "expires_in": ' + b"9" * 5000 + b"}"),
        (200, b'{"access_token": "abc", "access_token": "def", "token_type": "Bearer"}'),
        (200, b'{"access_token": "abc", "token_type": "Bearer", "x": Infinity}'),
        (200, b"\xff\xfe{}"),
        (200, b"[" * 100_000),
        (200, b'{"a":' * 100_000),
        (302, b'{"access_token": "abc", "token_type": "Bearer"}'),
        (307, b""),
        (400, b"no"),
        (404, b"<html>"),
    ],
)
def test_garbage_is_refused(status: int, body: bytes) -> None:
    """Whatever is no complete, unambiguous token response is refused; a redirect is (R39, R76-R79, F9, F13)."""
    refusal = bad(parse_response(status, {}, body, now=NOW))

    assert (refusal.kind, refusal.result) == ("malformed", "invalid_response")


@pytest.mark.parametrize(
    "value", ["", "ab c", "abc\r\nX-Evil: 1", "é", "a" * 16_385, "=", "abc=d", "a\x00b", 123, None, ["a"], {"a": 1}]
)
def test_bad_token_is_refused(value: object) -> None:
    """Only b64token reaches a header field (R67, F10), and the refusal does not show what came instead."""
    refusal = bad(token(access_token=value))

    assert refusal.result == "invalid_response"
    assert "Evil" not in refusal.description


@pytest.mark.parametrize("value", ["mac", "", "DPoP", "Bearer ", None, 1, ["Bearer"]])
def test_unknown_token_type_is_refused(value: object) -> None:
    """A token that is not a Bearer token can't be sent as one (R76)."""
    assert bad(token(token_type=value)).result == "invalid_response"


@pytest.mark.parametrize("token_type, accepted", [("DPoP", True), ("dpop", True), ("Bearer", False), (None, False)])
def test_token_type_with_dpop(token_type: object, accepted: bool) -> None:
    """A provider that does not bind the token has not done what it was asked for (R105, RFC 9449 §5)."""
    response = answer(body={"access_token": "abc", "token_type": token_type}, dpop=True)

    assert isinstance(response, TokenResponse) == accepted


@pytest.mark.parametrize(
    "expires_in, seconds",
    [
        (86399, 86399),
        ("3600", 3600),
        ("3600.5", 3600.5),
        (3600.0, 3600),
        (1, 1),
        (0.001, 0.001),
        (None, DEFAULT_LIFETIME),
        (10**9, MAX_LIFETIME),
        (10**300, MAX_LIFETIME),
        ("9" * 300, MAX_LIFETIME),
    ],
)
def test_lifetime(expires_in: object, seconds: float) -> None:
    """Numbers and texts of seconds are understood, capped, and assumed where there are none (R77, F11)."""
    assert good(token(expires_in=expires_in)).lifetime(NOW) == seconds


@pytest.mark.parametrize(
    "expires_in", [0, -1, "0", "-1", "abc", "", " 5", "5_0", "٣", "1e3", "inf", "9" * 5000, True, [3600], {}]
)
def test_bad_lifetime_is_refused(expires_in: object) -> None:
    """A lifetime that is no number above zero makes the answer worthless (R77, F11)."""
    assert bad(token(expires_in=expires_in)).result == "invalid_response"


def test_infinite_lifetime_is_refused() -> None:
    """`1e999` is infinity to Python's json (R77)."""
    body = b'{"access_token": "abc", "token_type": "Bearer", "expires_in": 1e999}'

    assert bad(answer(body=body)).result == "invalid_response"


def jwt_ending_at(exp: float) -> str:
    return jwt.encode({"alg": "HS256"}, {"exp": exp}, OctKey.generate_key())


@pytest.mark.parametrize(
    "expires_in, exp, date, seconds",
    [
        (None, 600, "", 600),
        (3600, 600, "", 600),
        (300, 600, "", 300),
        (3600, -10, "", -10),
        (None, 10**9, "", MAX_LIFETIME),
        # The provider's clock is an hour ahead, and so is the end that it writes.
        (None, 7200, "Fri, 15 Jan 2027 09:00:00 GMT", 3600),
        # A second says nothing: Date is rounded.
        (None, 600, "Fri, 15 Jan 2027 08:00:01 GMT", 600),
        (None, 600, "yesterday", 600),
    ],
)
def test_end_of_a_jwt(expires_in: float | None, exp: float, date: str, seconds: float) -> None:
    """The earlier of `expires_in` and the token's own end counts, by the provider's clock (R77, R90, F12, F20)."""
    members = {"access_token": jwt_ending_at(NOW + exp), "token_type": "bearer", "expires_in": expires_in}
    response = good(answer(body=members, Date=date))

    assert response.lifetime(NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "date, skew",
    [
        ("Fri, 15 Jan 2027 08:02:00 GMT", 120),
        ("Fri, 15 Jan 2027 07:58:00 GMT", -120),
        ("Fri, 15 Jan 2027 08:00:02 GMT", 0),
        ("Fri, 15 Jan 99999 08:00:02 GMT", 0),
        ("", 0),
    ],
)
def test_clock_skew(date: str, skew: float) -> None:
    """How far the provider's clock is ahead, where `Date` tells (F20)."""
    members = {"access_token": "abc", "token_type": "bearer"}

    assert good(answer(body=members, Date=date)).clock_skew == skew


@pytest.mark.parametrize(
    "status, body, kind, result",
    [
        (401, {"error": "invalid_client"}, "rejected", "invalid_client"),
        (400, {"error": "invalid_client"}, "rejected", "invalid_client"),
        (200, {"error": "invalid_client"}, "rejected", "invalid_client"),
        (500, {"error": "invalid_client"}, "rejected", "invalid_client"),
        (401, b"<html>", "rejected", "invalid_client"),
        (400, {"error": "unauthorized_client"}, "rejected", "unauthorized_client"),
        (400, {"error": "unsupported_grant_type"}, "rejected", "unsupported_grant_type"),
        (400, {"error": "invalid_scope"}, "rejected", "invalid_scope"),
        (400, {"error": "invalid_request"}, "rejected", "invalid_request"),
        (503, {"error": "temporarily_unavailable"}, "transient", "temporarily_unavailable"),
        (500, {"error": "server_error"}, "transient", "server_error"),
        (400, {"error": "use_dpop_nonce"}, "transient", "use_dpop_nonce"),
        (400, {"error": "invalid_dpop_proof"}, "transient", "invalid_dpop_proof"),
        (500, {"error": "error"}, "transient", "http_5xx"),
        (502, b"<html>", "transient", "http_5xx"),
        (503, b"[" * 100_000, "transient", "http_5xx"),
        (429, b"", "transient", "rate_limited"),
        (429, {"error": "invalid_client"}, "transient", "rate_limited"),
        (200, {"error": "x", "access_token": "abc", "token_type": "Bearer"}, "malformed", "invalid_response"),
        (400, {"error": "jti_known"}, "malformed", "invalid_response"),
        (400, {"error": ["invalid_client"]}, "malformed", "invalid_response"),
        (403, b"", "malformed", "invalid_response"),
    ],
)
def test_classes_of_refusal(status: int, body: object, kind: str, result: str) -> None:
    """The error's code counts before the status; only the known codes become a label (R76, R81, F5, F7, F8)."""
    refusal = bad(answer(status, body))

    assert (refusal.kind, refusal.result) == (kind, result)


@pytest.mark.parametrize(
    "members, description",
    [
        ({"access_token": "a b"}, "access_token is not a token of at most 16 KiB that fits a header field"),
        ({"token_type": "mac"}, "token_type is not Bearer"),
        ({"expires_in": 0}, "expires_in is not a number of seconds above zero"),
    ],
)
def test_what_is_wrong_with_a_token(members: dict[str, object], description: str) -> None:
    """The log says which member of the answer can't be used (R76, R77)."""
    assert token(**members) == Refusal("malformed", "invalid_response", description)


def test_what_is_wrong_with_an_unbound_token() -> None:
    """The log says that the token is not bound to our key (R105)."""
    refusal = bad(answer(body={"access_token": "abc", "token_type": "Bearer"}, dpop=True))

    assert refusal.description == "token_type is not DPoP"


@pytest.mark.parametrize(
    "status, description",
    [
        (299, "status 299"),
        (300, "status 300, a redirect, which is not followed"),
        (399, "status 399, a redirect, which is not followed"),
        (400, "status 400"),
    ],
)
def test_redirects(status: int, description: str) -> None:
    """The log says that a redirect is not followed (R39)."""
    assert bad(answer(status, b"")).description == f"{description}; the body is not JSON"


@pytest.mark.parametrize(
    "status, refusal",
    [
        (429, Refusal("transient", "rate_limited", "status 429", 120)),
        (503, Refusal("transient", "http_5xx", "status 503", 120)),
        (404, Refusal("malformed", "invalid_response", "status 404", 120)),
    ],
)
def test_document_that_does_not_come(status: int, refusal: Refusal) -> None:
    """Metadata and keys are refused by their status alone, and asked for again when the provider says (R81, R83)."""
    assert refused_status(status, {"Retry-After": "120"}, NOW) == refusal
    assert refused_status(status, {"Retry-After": "Fri, 15 Jan 2027 08:02:00 GMT"}, NOW) == refusal


def test_words_of_the_provider_stay_on_one_line() -> None:
    """A description is quoted, escaped and cut (R80, R151)."""
    members = {"error": "invalid_client", "error_description": 'a\r\nb\x1b[31m"c"\u202e' + "x" * 1_000_000}
    description = bad(answer(401, members)).description

    assert description.startswith("status 401; 'invalid_client', 'a\\r\\nb\\x1b[31m\"c\"\\u202ex")
    assert description.isprintable()
    assert len(description) < 300


def test_words_that_repeat_the_secret_are_dropped() -> None:
    """A provider that quotes the credentials does not bring them into the log (R145)."""
    description = bad(
        answer(401, {"error": "invalid_client", "error_description": f"no: {SECRET.reveal()}"})
    ).description

    assert description == "status 401; the provider's words repeat the credentials, and are left out"


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("120", 120),
        ("1", 1),
        ("0", None),
        ("-5", None),
        ("abc", None),
        ("", None),
        ("1.5", None),
        ("99999999", MAX_RETRY_AFTER),
        ("9" * 5000, MAX_RETRY_AFTER),
        ("Fri, 15 Jan 2027 08:02:00 GMT", 120),
        ("Fri, 15 Jan 2027 09:02:00 +0100", 120),
        ("Fri, 15 Jan 2027 07:00:00 GMT", None),
        ("Wed, 21 Oct 2099 07:28:00 GMT", MAX_RETRY_AFTER),
        ("Fri, 31 Feb 2027 08:02:00 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(status: int, value: str, seconds: float | None) -> None:
    """Seconds and dates are understood and capped, everything else is ignored (R83, F6)."""
    assert bad(answer(status, b"", Retry_After=value)).retry_after == seconds


def test_dates_are_gmt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A date without a zone, as in the old form of RFC 9110 §5.6.7, is GMT wherever the proxy runs (R83, F51)."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()

    assert bad(answer(503, b"", Retry_After="Fri Jan 15 08:02:00 2027")).retry_after == 120

    monkeypatch.undo()
    time.tzset()


@given(st.sampled_from([200, 302, 401, 429, 503]), st.binary(max_size=50), st.text(max_size=40), st.text(max_size=40))
def test_no_answer_breaks_the_parser(status: int, body: bytes, date: str, wait: str) -> None:
    """Any bytes, with any dates, are a token or a refusal (R77, R78, F9)."""
    parsed = parse_response(status, {"Date": date, "Retry-After": wait}, body, now=NOW)

    assert isinstance(parsed, TokenResponse | Refusal)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("access_token", "token_type", "expires_in", "scope"), json_values)
    )
)
def test_no_members_break_the_parser(members: dict[str, object]) -> None:
    """Any types in any member are a token or a refusal (R76, R77, F9)."""
    parsed = token(**members)

    if isinstance(parsed, TokenResponse):
        assert 0 < parsed.lifetime(NOW) <= MAX_LIFETIME
