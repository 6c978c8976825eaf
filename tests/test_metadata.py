import pytest

from proxy.metadata import Endpoints, configured_endpoints, endpoints_in
from proxy.settings import AuthMethod, ClientTls, OAuth, Verify

ISSUER = "https://idp.example/tenant"
TOKEN_URL = "https://idp.example/token"
JWKS_URL = "https://keys.example/jwks"
METADATA: dict[str, object] = {"issuer": ISSUER, "token_endpoint": TOKEN_URL, "jwks_uri": JWKS_URL}
OAUTH = OAuth(issuer=ISSUER)
CERTIFICATE = ClientTls(cert_file="cert.pem", key_file="key.pem")
ALIAS = "https://mtls.idp.example/token"


@pytest.mark.parametrize(
    "oauth, expected",
    [
        (OAuth(token_url=TOKEN_URL), Endpoints(TOKEN_URL, None)),
        (OAuth(token_url=TOKEN_URL, jwks_url=JWKS_URL), Endpoints(TOKEN_URL, JWKS_URL)),
        (OAuth(token_url=TOKEN_URL, jwks_url=JWKS_URL, issuer=ISSUER), Endpoints(TOKEN_URL, JWKS_URL)),
        (OAuth(token_url=TOKEN_URL, issuer=ISSUER, verify=Verify(mode="off")), Endpoints(TOKEN_URL, None)),
        (OAuth(token_url=TOKEN_URL, issuer=ISSUER), None),
        (OAuth(issuer=ISSUER, jwks_url=JWKS_URL), None),
    ],
)
def test_need_of_metadata(oauth: OAuth, expected: Endpoints | None) -> None:
    """The issuer is asked where a URL is missing that is needed, and only there (R106)."""
    assert configured_endpoints(oauth) == expected


def test_endpoints() -> None:
    """What is configured comes first, the metadata fills in the rest (R106)."""
    assert endpoints_in(METADATA, OAUTH) == Endpoints(TOKEN_URL, JWKS_URL)
    configured = OAuth(issuer=ISSUER, token_url="https://mine.example/token")
    assert endpoints_in(METADATA, configured) == Endpoints("https://mine.example/token", JWKS_URL)
    assert endpoints_in({"issuer": ISSUER, "token_endpoint": TOKEN_URL}, OAUTH) == Endpoints(TOKEN_URL, None)


@pytest.mark.parametrize(
    "issuer",
    ["https://idp.example/tenant/", "https://idp.example", "HTTPS://idp.example/tenant", None, [ISSUER], {"a": ISSUER}],
)
def test_metadata_of_another_issuer(issuer: object) -> None:
    """The issuer in the document is the configured one, character by character (R106)."""
    with pytest.raises(ValueError, match="is that of another issuer"):
        endpoints_in(METADATA | {"issuer": issuer}, OAUTH)


def test_metadata_without_a_token_endpoint() -> None:
    """A provider that only signs users in gives no tokens (R106)."""
    with pytest.raises(ValueError, match="names no token_endpoint"):
        endpoints_in({"issuer": ISSUER}, OAUTH)


@pytest.mark.parametrize("name", ["token_endpoint", "jwks_uri"])
@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example/x",
        "ftp://idp.example/x",
        "//idp.example/x",
        "idp.example",
        "https://",
        "https:///x",
        "https://idp.example:99999/x",
        "https://user:secret@idp.example/x",
        "https://[::1",
        "https://a b/x",
        "",
        1,
        ["https://idp.example/x"],
        # this machine
        "https://localhost/x",
        "https://LOCALHOST/x",
        "https://127.0.0.1/x",
        "http://127.0.0.1/x",
        "https://127.9.9.9:8443/x",
        "https://[::1]/x",
        "https://0.0.0.0/x",
        "https://[::]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[::ffff:7f00:1]/x",
        # this network, where clouds have their metadata services
        "https://169.254.169.254/latest",
        "https://[fe80::1]/x",
        "https://[::ffff:169.254.169.254]/x",
    ],
)
def test_endpoint_that_is_not_acceptable(name: str, url: object) -> None:
    """Endpoints are https, without credentials, and not where only we can be turned to (R41, R106)."""
    with pytest.raises(ValueError, match=f"^has a {name} that is not an https URL"):
        endpoints_in(METADATA | {name: url}, OAUTH)


@pytest.mark.parametrize(
    "issuer, url",
    [
        ("https://idp.example", "https://10.0.0.7/token"),
        ("https://idp.example", "https://[2001:db8::1]:8443/token?tenant=1"),
        ("https://idp.example", "https://169.254.example/token"),
        ("http://127.0.0.1:4444", "http://localhost:4444/token"),
        ("http://[::1]:4444", "https://127.0.0.1:4445/token"),
        ("http://localhost:4444", "https://idp.example/token"),
        ("https://169.254.1.2", "https://169.254.1.2:8443/token"),
    ],
)
def test_endpoint_that_is_acceptable(issuer: str, url: str) -> None:
    """A private network is a provider's as good as any; a local issuer may name local endpoints (R106)."""
    found = endpoints_in({"issuer": issuer, "token_endpoint": url}, OAuth(issuer=issuer))

    assert found.token_url == url


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:4444", "https://idp.example"])
def test_other_local_place(issuer: str) -> None:
    """An issuer on this machine does not speak for the network, and plain http is for this machine only (R106)."""
    for url in ("https://169.254.169.254/x", "http://169.254.169.254/x", "http://10.0.0.7/x"):
        with pytest.raises(ValueError, match="token_endpoint"):
            endpoints_in({"issuer": issuer, "token_endpoint": url}, OAuth(issuer=issuer))


@pytest.mark.parametrize(
    "aliases, tls, expected",
    [
        ({"token_endpoint": ALIAS}, CERTIFICATE, ALIAS),
        ({"token_endpoint": ALIAS}, ClientTls(), TOKEN_URL),
        ({"revocation_endpoint": ALIAS}, CERTIFICATE, TOKEN_URL),
        ({}, CERTIFICATE, TOKEN_URL),
        (None, CERTIFICATE, TOKEN_URL),
        ([ALIAS], CERTIFICATE, TOKEN_URL),
    ],
)
def test_aliases_for_mutual_tls(aliases: object, tls: ClientTls, expected: str) -> None:
    """Who has a certificate goes where the provider asks for it (RFC 8705 §5, R103)."""
    oauth = OAuth(issuer=ISSUER, tls=tls, auth_method="tls_client_auth")

    assert endpoints_in(METADATA | {"mtls_endpoint_aliases": aliases}, oauth).token_url == expected


def test_alias_that_is_not_acceptable() -> None:
    """An alias is held to what every endpoint is held to (R103, R106)."""
    metadata = METADATA | {"mtls_endpoint_aliases": {"token_endpoint": "https://169.254.169.254/token"}}

    with pytest.raises(ValueError, match="token_endpoint"):
        endpoints_in(metadata, OAuth(issuer=ISSUER, tls=CERTIFICATE))


@pytest.mark.parametrize(
    "method, listed, refused",
    [
        ("client_secret_basic", ["client_secret_basic"], False),
        ("client_secret_basic_raw", ["client_secret_basic"], False),
        ("client_secret_post", ["client_secret_basic", "private_key_jwt"], True),
        ("private_key_jwt", ["private_key_jwt"], False),
        ("federated", ["private_key_jwt"], False),
        ("federated", ["client_secret_post"], True),
        ("tls_client_auth", ["self_signed_tls_client_auth"], False),
        ("tls_client_auth", ["client_secret_post"], True),
        ("client_secret_post", [], True),
        ("client_secret_post", None, False),
        ("client_secret_post", "client_secret_basic", False),
        ("client_secret_post", [{}, 1, None], True),
    ],
)
def test_methods_that_are_listed(method: AuthMethod, listed: object, refused: bool) -> None:
    """Whether the provider lists the configured method is known, and decides nothing (RFC 8414 §2, R106)."""
    metadata = METADATA | {"token_endpoint_auth_methods_supported": listed}

    assert endpoints_in(metadata, OAuth(issuer=ISSUER, auth_method=method)).refuses_method == refused
