from base64 import b64decode
from typing import get_args
from urllib.parse import parse_qsl, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.client_auth import AUTH_METHODS, ClientCredentials
from proxy.core.grant import TokenRequest, token_request
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable
from proxy.settings import AuthMethod

SECRET = Secret("p%Q+ /=:é&~")
CLIENT = ClientCredentials(Secret("client"), SECRET)
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
FEDERATED = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"


def request(method: str, client: ClientCredentials = CLIENT) -> TokenRequest:
    return token_request(method, client, assertion="sig.n.ed")


def form(request: TokenRequest) -> list[tuple[str, str]]:
    return parse_qsl(request.body.decode(), keep_blank_values=True)


def basic(request: TokenRequest) -> str:
    scheme, _, blob = request.headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    return b64decode(blob).decode()


def test_basic_credentials_are_form_encoded() -> None:
    """RFC 6749 §2.3.1: form encoding first, then Basic (R73)."""
    assert basic(request("client_secret_basic")) == "client:p%25Q%2B+%2F%3D%3A%C3%A9%26~"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(st.characters(exclude_categories=["Cs"])))
def test_basic_credentials_survive(client_id: str, secret: str) -> None:
    """A server that decodes as RFC 6749 says gets the very id and secret (R73)."""
    text = basic(request("client_secret_basic", ClientCredentials(Secret(client_id), Secret(secret))))

    assert [unquote_plus(part) for part in text.split(":")] == [client_id, secret]


def test_basic_raw_credentials_are_not_encoded() -> None:
    """`client_secret_basic_raw` sends id and secret as they are, in UTF-8 (R73)."""
    assert basic(request("client_secret_basic_raw")) == "client:p%Q+ /=:é&~"


ASSERTION = [("client_id", "client"), ("client_assertion_type", JWT_BEARER)]


@pytest.mark.parametrize(
    "method, secret, shown",
    [
        ("client_secret_basic", SECRET, []),
        ("client_secret_basic_raw", SECRET, []),
        ("client_secret_post", SECRET, [("client_id", "client"), ("client_secret", SECRET.reveal())]),
        ("client_secret_jwt", SECRET, [*ASSERTION, ("client_assertion", "sig.n.ed")]),
        ("private_key_jwt", Secret("PEM"), [*ASSERTION, ("client_assertion", "sig.n.ed")]),
        ("federated", Secret(FEDERATED), [*ASSERTION, ("client_assertion", FEDERATED)]),
        ("tls_client_auth", None, [("client_id", "client")]),
    ],
)
def test_one_method_per_request(method: str, secret: Secret | None, shown: list[tuple[str, str]]) -> None:
    """The client is shown in the header or in the form, in the one way that is configured (R74, R101, R103)."""
    sent = request(method, ClientCredentials(Secret("client"), secret))

    assert ("Authorization" in sent.headers) == method.startswith("client_secret_basic")
    assert form(sent) == [("grant_type", "client_credentials"), *shown]


def test_every_method_is_known() -> None:
    """Each method that the configuration accepts is one that the token request knows."""
    assert set(AUTH_METHODS) == set(get_args(AuthMethod))


@pytest.mark.parametrize(
    "method, client_id, secret",
    [
        ("client_secret_basic", "client", "\udce9"),
        ("client_secret_basic_raw", "client", "\udce9"),
        ("client_secret_post", "client", "\udce9"),
        ("client_secret_basic_raw", "my:client", "pa55"),
        ("federated", "client", "not-a-jwt"),
        ("federated", "client", "two.parts"),
        ("federated", "client", "a.b.c.d.e"),
        ("federated", "client", ".b.c"),
        ("federated", "client", "a..c"),
        ("federated", "client", "a.b."),
        ("federated", "client", "a.b.c\n"),
        ("federated", "client", "a.b.c&scope=all"),
        ("federated", "client", "a.b." + "c" * 16384),
    ],
)
def test_credentials_that_can_not_be_sent(method: str, client_id: str, secret: str) -> None:
    """What is no text, or no assertion, or has no room in the form: said, without showing it (R73, R145)."""
    with pytest.raises(SecretUnreadable) as caught:
        request(method, ClientCredentials(Secret(client_id), Secret(secret)))

    assert caught.value.__cause__ is None
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "method, client_id, secret, sentence",
    [
        (
            "client_secret_basic_raw",
            "my:client",
            "pa55",
            "the client id has a colon, which client_secret_basic_raw can't carry (RFC 7617 §2)",
        ),
        ("federated", "client", "not-a-jwt", "the assertion is not a signed JWT of at most 16 KiB"),
    ],
)
def test_why_credentials_can_not_be_sent(method: str, client_id: str, secret: str, sentence: str) -> None:
    """The operator reads what is wrong with what was configured."""
    with pytest.raises(SecretUnreadable) as caught:
        request(method, ClientCredentials(Secret(client_id), Secret(secret)))

    assert caught.value.detail == sentence


def test_assertion_as_large_as_may_be() -> None:
    """An assertion of 16 KiB is sent."""
    largest = "aZ09-_.bZ09-_." + "c" * (16 * 1024 - 14)

    assert ("client_assertion", largest) in form(request("federated", ClientCredentials(Secret("c"), Secret(largest))))


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "federated"])
def test_secret_that_is_not_there(method: str) -> None:
    """Without a secret, nothing goes out that needs one (R145)."""
    with pytest.raises(SecretUnreadable):
        request(method, ClientCredentials(Secret("client"), None))


@pytest.mark.parametrize(
    "method", ["client_secret_basic", "client_secret_basic_raw", "client_secret_post", "client_secret_jwt"]
)
def test_each_form_of_the_secret_is_noticed(method: str) -> None:
    """Plain, encoded, or the Basic blob: a request knows in what forms it carries the secret (R145)."""
    sent = request(method)
    credentials = sent.headers.get("Authorization", "").removeprefix("Basic ")

    assert {SECRET.reveal(), "p%25Q%2B+%2F%3D%3A%C3%A9%26~"} <= set(sent.secrets)
    assert not credentials or credentials in sent.secrets


def test_an_assertion_is_a_secret() -> None:
    """Whoever has an assertion can use it while it lives (R145)."""
    assert "sig.n.ed" in request("private_key_jwt").secrets
    assert FEDERATED in request("federated", ClientCredentials(Secret("client"), Secret(FEDERATED))).secrets


def test_credentials_print_nothing() -> None:
    """The repr of the credentials shows neither id nor secret (R146)."""
    assert "client" not in repr(CLIENT).replace("client_", "")
    assert SECRET.reveal() not in repr(CLIENT)
