"""Each way in which a client shows the provider who it is, through the real process."""

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Backstage, Launcher, Proxy, until
from tests.mutual import CertificateWatcher, asking_for_certificates
from tests.peers import OK, Received, Upstream

KEY = ECKey.generate_key("P-256")
CLIENT_SECRET = "oauth.clients=[{client_id: demo, client_secret: {env: THG_CLIENT_SECRET}}]"
KEY_FILE = "oauth.clients=[{client_id: demo, client_secret: {file: key.pem}, key_id: k-1}]"
ASSERTION_FILE = "oauth.clients=[{client_id: demo, client_secret: {file: assertion}}]"


def assertion(provider: DemoProvider, number: int) -> str:
    """Of somebody who is trusted to say who the client is."""
    now = int(time.time())
    claims = {"iss": "demo", "sub": "demo", "aud": provider.issuer, "jti": str(number), "iat": now, "exp": now + 600}
    return jwt.encode({"alg": "ES256"}, claims, KEY)


def write_secret(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def serves(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> bool:
    """Does a request arrive with the provider's newest token?"""
    with proxy.connect() as client:
        assert client.get().status == 200
    return upstream.requests[-1].values(b"Authorization") == [b"Bearer " + provider.tokens[-1].encode()]


@pytest.mark.parametrize(
    "method, override",
    [
        ("client_secret_basic", CLIENT_SECRET),
        ("client_secret_post", CLIENT_SECRET),
        ("client_secret_jwt", CLIENT_SECRET),
        ("private_key_jwt", KEY_FILE),
    ],
)
def test_secrets_and_keys(
    launch: Launcher, upstream: Upstream, provider: DemoProvider, tmp_path: Path, method: str, override: str
) -> None:
    """Whatever the client shows, requests arrive with a token, and no secret is in the log (R73, R74, R101, R145)."""
    (registered,) = provider.clients.values()
    registered.auth_method, registered.key = method, KEY if method == "private_key_jwt" else None
    pem = KEY.as_pem(private=True).decode()
    write_secret(tmp_path / "key.pem", pem)

    proxy = launch(upstream, f"oauth.issuer={provider.issuer}", f"oauth.auth_method={method}", override)

    assert serves(proxy, upstream, provider)
    for secret in (registered.client_secret, *pem.splitlines()[1:-1], *provider.tokens):
        assert secret not in proxy.log


def test_federated_assertion(launch: Launcher, upstream: Upstream, provider: DemoProvider, tmp_path: Path) -> None:
    """An assertion of somebody else is read for each token request: who wrote it may have replaced it (R101)."""
    (registered,) = provider.clients.values()
    registered.auth_method, registered.key = "private_key_jwt", KEY
    file = tmp_path / "assertion"
    write_secret(file, assertion(provider, 1))
    floor = f"oauth.refresh.min_interval={MIN_INTERVAL}"
    proxy = launch(upstream, "oauth.auth_method=federated", ASSERTION_FILE, floor)

    write_secret(file, assertion(provider, 2) + "\n")
    until(lambda: proxy.token_age > MIN_INTERVAL)
    assert proxy.admin("/refresh", "POST")[0] == 200

    assert provider.minted == 2
    assert serves(proxy, upstream, provider)
    assert assertion(provider, 2).partition(".")[0] not in proxy.log


@pytest.fixture
def watched(backstage: Backstage, authority: CertificateAuthority) -> Iterator[CertificateWatcher]:
    provider = CertificateWatcher()
    backstage.run(provider.start(ssl_context=asking_for_certificates(authority)))
    yield provider
    backstage.run(provider.stop())


def by_certificate(authority: CertificateAuthority, provider: CertificateWatcher) -> list[str]:
    own = authority.issue("demo")
    return [
        f"oauth.issuer={provider.issuer}",
        f"oauth.token_url={provider.token_url}",
        "oauth.auth_method=tls_client_auth",
        "oauth.clients=[{client_id: demo}]",
        f"oauth.tls.ca_file={authority.ca_file}",
        f"oauth.tls.cert_file={own.cert_file}",
        f"oauth.tls.key_file={own.key_file}",
        f"upstream.tls.ca_file={authority.ca_file}",
    ]


def test_certificate(launch: Launcher, watched: CertificateWatcher, authority: CertificateAuthority) -> None:
    """A certificate needs no secret beside it, and only the token endpoint gets to see it (R74, R103)."""
    api_saw = []

    def answer(received: Received, sock: ssl.SSLSocket) -> bool:
        api_saw.append(sock.getpeercert())
        sock.sendall(OK)
        return True

    with Upstream(answer=answer, tls=asking_for_certificates(authority, "localhost")) as api:  # type: ignore[arg-type]
        proxy = launch(api, *by_certificate(authority, watched), environment={"THG_CLIENT_SECRET": ""})
        assert serves(proxy, api, watched)

    assert api_saw == [None]
    certificates = dict(watched.shown)
    assert certificates.pop("/oauth2/token") == "demo"
    assert set(certificates.values()) == {None}
    (form,) = [received.body for received in watched.received if received.path == "/oauth2/token"]
    assert parse_qs(form.decode()) == {"grant_type": ["client_credentials"], "client_id": ["demo"]}


def test_nobody_asks_for_the_certificate(
    launch: Launcher, authority: CertificateAuthority, backstage: Backstage
) -> None:
    """A provider that does not ask for a certificate is shown none, and refuses the client (R103)."""
    provider = CertificateWatcher()
    backstage.run(provider.start(ssl_context=authority.server_context("127.0.0.1")))
    proxy = launch(f"https://localhost:{provider.port}", *by_certificate(authority, provider), ready=False)

    until(lambda: proxy.log_lines("token_unavailable"))
    backstage.run(provider.stop())

    assert {name for _, name in provider.shown} == {None}
    assert proxy.log_lines("token_unavailable")[0]["result"] == "invalid_client"


def test_token_that_is_bound_to_another_certificate(
    launch: Launcher, watched: CertificateWatcher, authority: CertificateAuthority
) -> None:
    """The API sees the certificate of upstream.tls; what it refuses for good is not fetched again and again (R104)."""
    own = authority.issue("api-client")
    api_saw = []

    def answer(_received: Received, sock: ssl.SSLSocket) -> bool:
        api_saw.append(sock.getpeercert())
        sock.sendall(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 0\r\n\r\n')
        return True

    with Upstream(answer=answer, tls=asking_for_certificates(authority, "localhost")) as api:  # type: ignore[arg-type]
        tls = f"upstream.tls.cert_file={own.cert_file}", f"upstream.tls.key_file={own.key_file}"
        proxy = launch(api, *by_certificate(authority, watched), *tls, "oauth.refresh.min_interval=1h")
        with proxy.connect() as client:
            assert [client.get().status for _ in range(5)] == [401] * 5

    assert ["api-client" in str(shown) for shown in api_saw] == [True] * 5
    assert watched.minted == 1
