"""The rules of the token endpoint, without a server around it."""

import base64
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OctKey

from proxy.demo.authorization import Client, TokenEndpoint

FORM = "application/x-www-form-urlencoded"
GRANT = "grant_type=client_credentials"
HARD_SECRET = "p%Q+ /=:é&~"


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def ask(
    body: str = GRANT,
    headers: Mapping[str, str] | None = None,
    *,
    client: Client | None = None,
    content_type: str = FORM,
    legacy_errors: bool = False,
) -> tuple[int, dict[str, Any]]:
    """The status and the JSON for a request that is right but for what is given."""
    client = client or Client("id", "secret")
    endpoint = TokenEndpoint(
        {client.client_id: client},
        lambda _client, scopes, audiences: {"scopes": scopes, "audiences": audiences},
        audiences=lambda: [AUDIENCE],
        legacy_errors=legacy_errors,
    )
    fields = {"Authorization": basic("id:secret")} if headers is None else headers
    answer = endpoint.answer("http://127.0.0.1/oauth2/token", {"Content-Type": content_type, **fields}, body.encode())
    assert isinstance(answer.body, bytes)
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize(
    "secret, sent",
    [
        ("secret", "id:secret"),
        (HARD_SECRET, "id:p%25Q%2B+%2F%3D%3A%C3%A9%26~"),
        (HARD_SECRET, "id:p%25Q%2B%20%2f%3D:%C3%A9&~"),
    ],
)
def test_basic_credentials_are_form_decoded(secret: str, sent: str) -> None:
    """The id and the secret of Basic are decoded as Hydra decodes them (R73)."""
    status, _ = ask(headers={"Authorization": basic(sent)}, client=Client("id", secret))
    assert status == 200


@pytest.mark.parametrize("sent", ["id:100%", "id:%zz", "%:secret"])
def test_a_bad_escape_is_an_invalid_request(sent: str) -> None:
    """Credentials that are not form-encoded are refused with invalid_request, not taken literally (R73)."""
    status, answer = ask(headers={"Authorization": basic(sent)})
    assert (status, answer["error"]) == (400, "invalid_request")


def test_a_plus_that_was_not_encoded_becomes_a_space() -> None:
    """A raw `+` in Basic credentials is read as a space, so an unencoded secret fails (R73)."""
    status, answer = ask(headers={"Authorization": basic("id:a+b")}, client=Client("id", "a+b"))
    assert (status, answer["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    "registered, body, authorization",
    [
        ("client_secret_basic", f"{GRANT}&client_id=id&client_secret=secret", basic("id:secret")),
        ("client_secret_post", f"{GRANT}&client_id=id&client_secret=secret", basic("id:secret")),
        ("client_secret_basic", f"{GRANT}&client_id=id&client_secret=secret", None),
        ("client_secret_post", GRANT, basic("id:secret")),
        ("client_secret_basic", GRANT, None),
        ("client_secret_basic", f"{GRANT}&client_id=id", None),
        ("client_secret_basic", GRANT, basic("id:wrong")),
        ("client_secret_basic", GRANT, basic("id:")),
        ("client_secret_basic", GRANT, basic("other:secret")),
        ("client_secret_basic", GRANT, basic("id")),
        ("client_secret_basic", GRANT, "Basic !!!"),
        ("client_secret_basic", GRANT, "Bearer token"),
    ],
)
def test_a_client_proves_itself_by_its_registered_method_alone(
    registered: str, body: str, authorization: str | None
) -> None:
    """Both methods at once, the wrong one, none, or a wrong secret: invalid_client with 401 (R74)."""
    headers = {} if authorization is None else {"Authorization": authorization}
    status, answer = ask(body, headers, client=Client("id", "secret", registered))
    assert (status, answer["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    "registered, body, headers",
    [
        ("client_secret_basic", GRANT, {"Authorization": basic("id:secret")}),
        ("client_secret_basic", f"{GRANT}&client_id=id", {"Authorization": basic("id:secret")}),
        ("client_secret_post", f"{GRANT}&client_id=id&client_secret=secret", {}),
    ],
)
def test_the_registered_method_is_accepted(registered: str, body: str, headers: dict[str, str]) -> None:
    """One method, the one that the client is registered for, is what it takes (R74)."""
    status, _ = ask(body, headers, client=Client("id", "secret", registered))
    assert status == 200


KEY = ECKey.generate_key("P-256")
SECRET = "a secret of more than 14 bytes"
AUDIENCE = "http://127.0.0.1/oauth2/token"


def asserted(key: Key, alg: str, **claims: object) -> str:
    """A form with an assertion that is right but for `claims`."""
    times = {"iat": int(time.time()), "exp": int(time.time()) + 60}
    good = {"iss": "id", "sub": "id", "aud": AUDIENCE, "jti": str(time.time_ns()), **times}
    token = jwt.encode({"alg": alg}, {**good, **claims}, key)
    return (
        f"{GRANT}&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion={token}"
    )


BY_KEY = Client("id", "secret", "private_key_jwt", KEY)


@pytest.mark.parametrize(
    "client, body, status",
    [
        (BY_KEY, lambda: asserted(KEY, "ES256"), 200),
        (BY_KEY, lambda: asserted(KEY, "ES256") + "&client_id=id", 200),
        (Client("id", SECRET, "client_secret_jwt"), lambda: asserted(OctKey.import_key(SECRET), "HS256"), 200),
        (BY_KEY, lambda: asserted(KEY, "ES256") + "&client_id=other", 401),
        (BY_KEY, lambda: asserted(KEY, "ES256") + "&client_secret=secret", 400),
        (BY_KEY, lambda: asserted(ECKey.generate_key("P-256"), "ES256"), 400),
        (BY_KEY, lambda: asserted(KEY, "ES256", aud="http://other"), 400),
        (BY_KEY, lambda: asserted(KEY, "ES256", exp=int(time.time()) - 300), 400),
        (BY_KEY, lambda: asserted(KEY, "ES256", iss="other"), 400),
        (Client("id", SECRET), lambda: asserted(OctKey.import_key(SECRET), "HS256"), 401),
        (Client("id", SECRET, "private_key_jwt", KEY), lambda: asserted(OctKey.import_key(SECRET), "HS256"), 400),
    ],
)
def test_assertions(client: Client, body: Callable[[], str], status: int) -> None:
    """An assertion is taken if it says what RFC 7523 §3 wants, and comes alone (R74, R101)."""
    assert ask(body(), {}, client=client)[0] == status


def test_an_assertion_is_good_once() -> None:
    """The same assertion again is refused (R101)."""
    endpoint = TokenEndpoint({"id": BY_KEY}, lambda *_: {}, audiences=lambda: [AUDIENCE])
    body = asserted(KEY, "ES256").encode()
    answers = [endpoint.answer(AUDIENCE, {"Content-Type": FORM}, body) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 400]


@pytest.mark.parametrize("peer, status", [("id", 200), ("other", 401), (None, 401)])
def test_certificates(peer: str | None, status: int) -> None:
    """A client is the one whose certificate it has shown (R103)."""
    endpoint = TokenEndpoint({"id": Client("id", auth_method="tls_client_auth")}, lambda *_: {})
    answer = endpoint.answer(AUDIENCE, {"Content-Type": FORM}, f"{GRANT}&client_id=id".encode(), peer)
    assert answer.status == status


@pytest.mark.parametrize(
    "body, granted",
    [
        (GRANT, {"scopes": [], "audiences": []}),
        (f"{GRANT}&scope=b+a", {"scopes": ["a", "b"], "audiences": []}),
        (f"{GRANT}&scope=a&audience=https%3A%2F%2Fx", {"scopes": ["a"], "audiences": ["https://x"]}),
        (f"{GRANT}&resource=urn%3Aa&resource=urn%3Ab", {"scopes": [], "audiences": []}),
    ],
)
def test_what_is_asked_for_is_granted_and_nothing_else(body: str, granted: dict[str, list[str]]) -> None:
    """A scope or an audience that is not asked for is not granted (R75)."""
    client = Client("id", "secret", scopes={"a", "b"}, audiences={"https://x"})
    assert ask(body, client=client) == (200, granted)


@pytest.mark.parametrize(
    "body, error",
    [
        (f"{GRANT}&scope=a+unknown", "invalid_scope"),
        (f"{GRANT}&audience=https%3A%2F%2Funknown", "invalid_request"),
        (f"{GRANT}&scope=a&scope=b", "invalid_request"),
        (f"{GRANT}&{GRANT}", "invalid_request"),
        ("scope=a", "invalid_request"),
        ("", "invalid_request"),
        ("grant_type=password", "unsupported_grant_type"),
        ("grant_type=", "unsupported_grant_type"),
    ],
)
def test_a_wrong_request_has_its_error(body: str, error: str) -> None:
    """Each mistake is answered with 400 and its RFC 6749 code (R75, R81)."""
    status, answer = ask(body, client=Client("id", "secret", scopes={"a", "b"}))
    assert (status, answer["error"]) == (400, error)


def test_a_body_that_is_not_a_form_is_refused() -> None:
    """The parameters must come as a form (R72)."""
    status, answer = ask(content_type="application/json")
    assert (status, answer["error"]) == (400, "invalid_request")


def test_a_client_without_the_grant_is_unauthorized() -> None:
    """A client that may not use client credentials gets unauthorized_client (R81)."""
    status, answer = ask(client=Client("id", "secret", grant_types=set()))
    assert (status, answer["error"]) == (400, "unauthorized_client")


def test_legacy_errors_have_more_members() -> None:
    """Old versions of Hydra tell the status, a hint and debug text in members of their own (R80)."""
    status, answer = ask(headers={}, legacy_errors=True)
    assert status == 401
    assert answer == {
        "error": "invalid_client",
        "error_description": "Client authentication failed.",
        "error_hint": "",
        "error_debug": "",
        "status_code": 401,
    }
