import asyncio
import gzip
import json
import socket
import ssl
import time
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from joserfc.jwk import ECKey

from proxy.core.client_auth import ClientCredentials
from proxy.core.grant import MAX_RETRY_AFTER, Refusal, TokenResponse
from proxy.core.jwt import parse_jwks
from proxy.core.secret import Secret
from proxy.demo import faults
from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import JWKS_PATH, TOKEN_PATH, DemoProvider, Received
from proxy.demo.server import Handler, LoopbackServer
from proxy.errors import ConfigError
from proxy.idp import Provider
from proxy.metadata import Endpoints
from proxy.settings import Assertion, ClientTls, Duration, OAuth, Verify
from tests.mutual import CertificateWatcher, asking_for_certificates
from tests.proofs import ProofChecker, binding

T = TypeVar("T")
OIDC = "/.well-known/openid-configuration"
RFC8414 = "/.well-known/oauth-authorization-server"
REFUSING = faults.answer(401, b'{"error": "invalid_client"}')
OPAQUE = json.dumps({"access_token": "abc", "token_type": "bearer"}).encode()


CLIENT = ClientCredentials(Secret("demo"), Secret("demo-secret"))


class Trap(LoopbackServer):
    """Nothing must arrive here."""


def ask(
    oauth: Callable[[DemoProvider], OAuth],
    use: Callable[[Provider], Awaitable[T]],
    *clients: RegisteredClient,
    **misbehaving: Handler,
) -> T:
    """What `use` makes of a provider on loopback that knows `clients` and has these faults."""

    async def run() -> T:
        async with DemoProvider(*clients).running() as peer:
            for name, fault in misbehaving.items():
                setattr(peer.faults, name, fault)
            provider = Provider(oauth(peer))
            try:
                return await use(provider)
            finally:
                await provider.close()

    return asyncio.run(run())


def with_token_url(peer: DemoProvider) -> OAuth:
    return OAuth(token_url=peer.token_url, jwks_url=peer.jwks_url, timeout=Duration(5))


def impatient(peer: DemoProvider) -> OAuth:
    return OAuth(token_url=peer.token_url, jwks_url=peer.jwks_url, timeout=Duration(0.2))


def with_issuer(peer: DemoProvider) -> OAuth:
    return OAuth(issuer=peer.issuer)


def mint(provider: Provider) -> Awaitable[TokenResponse | Refusal]:
    return provider.request_token(CLIENT)


def keys(provider: Provider) -> Awaitable[bytes | Refusal]:
    return provider.fetch_jwks()


def labels(answer: object) -> tuple[str, str]:
    assert isinstance(answer, Refusal), answer
    return answer.kind, answer.result


def test_token() -> None:
    """A token comes of one POST; nothing but the form and the client is in it (R72)."""
    peer = DemoProvider()

    async def run() -> TokenResponse | Refusal:
        async with peer.running():
            provider = Provider(
                OAuth(token_url=peer.token_url, scope="fleet.read", params={"audience": "https://api.example"})
            )
            try:
                return await provider.request_token(CLIENT)
            finally:
                await provider.close()

    response = asyncio.run(run())

    assert isinstance(response, TokenResponse)
    assert response.access_token.reveal() == peer.tokens[-1]
    assert response.scope == "fleet.read"
    assert 86390 < response.lifetime(time.time()) <= 86400
    (received,) = peer.received
    assert (received.method, received.path, received.query) == ("POST", TOKEN_PATH, "")
    assert received.headers["User-Agent"].startswith("thg-proxy/")
    assert not {"Cookie", "Referer"} & set(received.headers)


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_secret_that_needs_encoding(method: str) -> None:
    """Ids and secrets with every kind of character are understood by a provider that follows RFC 6749 (R73, R74)."""
    registered = RegisteredClient("app:1 é", "p%Q+ /=:é&~", method)
    client = ClientCredentials(Secret(registered.client_id), Secret(registered.client_secret))

    response = ask(
        lambda peer: OAuth(token_url=peer.token_url, auth_method=registered.auth_method),  # type: ignore[arg-type]
        lambda provider: provider.request_token(client),
        registered,
    )

    assert isinstance(response, TokenResponse)


EC = ECKey.generate_key("P-256", {"kid": "registered"})
BY_KEY = ClientCredentials(Secret("demo"), Secret(EC.as_pem(private=True).decode()), "registered")


LONG = Secret("a secret of more than 14 bytes")
BY_SECRET = ClientCredentials(Secret("demo"), LONG)


def claims_in(received: Received) -> dict[str, Any]:
    """Of the assertion in a token request, which has no other authentication."""
    assert "Authorization" not in received.headers
    form = dict(parse_qsl(received.body.decode()))
    assert form.keys() == {"grant_type", "client_id", "client_assertion_type", "client_assertion"}
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(form["client_assertion"].split(".")[1] + "==="))
    return claims


@pytest.mark.parametrize(
    "registered, client",
    [
        (RegisteredClient(client_secret=LONG.reveal(), auth_method="client_secret_jwt"), BY_SECRET),
        (RegisteredClient(auth_method="private_key_jwt", key=EC), BY_KEY),
    ],
    ids=["client_secret_jwt", "private_key_jwt"],
)
def test_signed_assertions(registered: RegisteredClient, client: ClientCredentials) -> None:
    """A provider that verifies them accepts one assertion after another, each with a jti of its own (R101, R102)."""
    peer = DemoProvider(registered)

    async def run() -> list[TokenResponse | Refusal]:
        async with peer.running():
            provider = Provider(OAuth(issuer=peer.issuer, auth_method=registered.auth_method))  # type: ignore[arg-type]
            answers = [await provider.request_token(client) for _ in range(3)]
            await provider.close()
            return answers

    answers = asyncio.run(run())

    assert all(isinstance(answer, TokenResponse) for answer in answers), answers
    claims = [claims_in(received) for received in peer.received if received.method == "POST"]
    assert {claim["aud"] for claim in claims} == {peer.issuer}
    assert len({claim["jti"] for claim in claims}) == 3


def test_audience_of_an_assertion() -> None:
    """Without an issuer the audience is the token URL; a configured one comes before both (R102)."""
    peer = DemoProvider(RegisteredClient(auth_method="private_key_jwt", key=EC))

    async def run() -> None:
        async with peer.running():
            for assertion in (Assertion(), Assertion(audience="https://other.example")):
                provider = Provider(OAuth(token_url=peer.token_url, auth_method="private_key_jwt", assertion=assertion))
                await provider.request_token(BY_KEY)
                await provider.close()

    asyncio.run(run())

    audiences = [claims_in(received)["aud"] for received in peer.received]
    assert audiences == [peer.token_url, "https://other.example"]


def test_assertion_by_the_providers_clock() -> None:
    """After one answer the times in an assertion are those of the provider's clock (R101, F20)."""
    peer = DemoProvider(RegisteredClient(auth_method="private_key_jwt", key=EC))

    async def run() -> list[TokenResponse | Refusal]:
        async with peer.running():
            provider = Provider(
                OAuth(token_url=peer.token_url, auth_method="private_key_jwt"),
                wall_clock=lambda: time.time() - 600,
            )
            answers = [await provider.request_token(BY_KEY) for _ in range(2)]
            await provider.close()
            return answers

    early, corrected = asyncio.run(run())

    assert labels(early) == ("rejected", "invalid_client")
    assert isinstance(corrected, TokenResponse)


def test_key_that_can_not_be_used() -> None:
    """What is no private key is said, and nothing is sent (R101, R145)."""
    peer = DemoProvider()

    async def run() -> TokenResponse | Refusal:
        async with peer.running():
            provider = Provider(OAuth(token_url=peer.token_url, auth_method="private_key_jwt"))
            try:
                return await provider.request_token(CLIENT)
            finally:
                await provider.close()

    refusal = asyncio.run(run())

    assert labels(refusal) == ("rejected", "secret_unreadable")
    assert "demo-secret" not in repr(refusal)
    assert not peer.received


def test_method_that_the_provider_does_not_list() -> None:
    """A refused client is told that its way of authentication is not one that the metadata lists (R106)."""
    metadata = describing(token_endpoint_auth_methods_supported=["private_key_jwt", "<script>"])
    unlisted = ask(with_issuer, mint, RegisteredClient(client_secret="other"), discovery=metadata, token=REFUSING)
    listed = ask(with_issuer, mint, RegisteredClient(client_secret="other"), token=REFUSING)

    assert labels(unlisted) == labels(listed) == ("rejected", "invalid_client")
    assert isinstance(unlisted, Refusal)
    assert isinstance(listed, Refusal)
    hint = "; the provider's metadata does not list oauth.auth_method client_secret_basic"
    assert unlisted.description == listed.description + hint


@pytest.mark.parametrize("nonce", [None, "as-nonce"])
def test_dpop(nonce: str | None) -> None:
    """Proofs that hold in every point; a nonce is asked for once and then remembered (R105, RFC 9449 §8)."""
    peer, checker = DemoProvider(), ProofChecker(nonce)
    peer.faults.token = binding(peer, checker)

    async def run() -> list[TokenResponse | Refusal]:
        async with peer.running():
            provider = Provider(OAuth(token_url=peer.token_url, dpop=True))
            answers = [await mint(provider) for _ in range(2)]
            await provider.close()
            return answers

    answers = asyncio.run(run())

    assert all(isinstance(answer, TokenResponse) for answer in answers), answers
    assert peer.requests == (2 if nonce is None else 3)


def test_nonce_of_dpop_that_changes_all_the_time() -> None:
    """A provider that is never content is asked twice, and not for ever (R105)."""
    peer = DemoProvider()
    peer.faults.token = binding(peer, ProofChecker(), fickle=True)

    async def run() -> TokenResponse | Refusal:
        async with peer.running():
            provider = Provider(OAuth(token_url=peer.token_url, dpop=True))
            try:
                return await mint(provider)
            finally:
                await provider.close()

    assert labels(asyncio.run(run())) == ("transient", "use_dpop_nonce")
    assert peer.requests == 2


def test_dpop_that_the_provider_ignores() -> None:
    """A token that is not bound is not taken for one that is (R105, RFC 9449 §5)."""
    refusal = ask(lambda peer: OAuth(token_url=peer.token_url, dpop=True), mint)

    assert labels(refusal) == ("malformed", "invalid_response")


def test_dpop_of_which_nobody_knows() -> None:
    """Without `oauth.dpop`, no proof is made and a nonce is not answered (R105)."""
    peer = DemoProvider()
    peer.faults.token = faults.answer(400, b'{"error": "use_dpop_nonce"}', {"DPoP-Nonce": "n"})

    async def run() -> TokenResponse | Refusal:
        async with peer.running():
            provider = Provider(OAuth(token_url=peer.token_url))
            try:
                return await mint(provider)
            finally:
                await provider.close()

    assert labels(asyncio.run(run())) == ("transient", "use_dpop_nonce")
    (received,) = peer.received
    assert "DPoP" not in received.headers


@pytest.mark.parametrize(
    "fault, expected",
    [
        (faults.answer(500, b"<html>"), ("transient", "http_5xx")),
        (faults.answer(429, headers={"Retry-After": "120"}), ("transient", "rate_limited")),
        (faults.answer(200, b"<html>"), ("malformed", "invalid_response")),
        (faults.answer(200, b"[" * 100_000), ("malformed", "invalid_response")),
        (faults.answer(200, OPAQUE + b" " * 2_000_000), ("malformed", "invalid_response")),
        (
            faults.answer(200, gzip.compress(OPAQUE), {"Content-Encoding": "gzip"}),
            ("malformed", "invalid_response"),
        ),
        (faults.raw([]), ("transient", "network")),
        (faults.raw([b"SSH-2.0-OpenSSH_9.2\r\n"]), ("malformed", "invalid_response")),
        (faults.raw([b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"]), ("malformed", "invalid_response")),
        (faults.raw([b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"]), ("malformed", "invalid_response")),
        (
            faults.raw(
                [
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                    *repeat(b"10000\r\n" + b" " * 65536 + b"\r\n", 64),
                ]
            ),
            ("malformed", "invalid_response"),
        ),
    ],
)
def test_bad_answers(fault: Handler, expected: tuple[str, str]) -> None:
    """Whatever the token endpoint answers, in bounded memory, comes back as a refusal (R76, R78, F5, F6, F9)."""
    assert labels(ask(with_token_url, mint, token=fault)) == expected


@pytest.mark.parametrize(
    "fault",
    [
        faults.hang,
        faults.raw([b"HTTP/1.1 200 OK\r\nX: ", *repeat(b"x", 10**3)], pause=0.01),
        faults.raw([b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", *repeat(b" ", 10**3)], pause=0.01),
    ],
)
def test_slow_answers(fault: Handler) -> None:
    """Silence and dribbled bytes, before or inside the answer, end with the timeout (R86, F1, F2, F15)."""
    refusal = ask(impatient, mint, token=fault)

    assert labels(refusal) == ("transient", "timeout")
    assert isinstance(refusal, Refusal)
    assert refusal.description == "no complete answer within 200ms"


def test_retry_after_reaches_the_caller() -> None:
    """What the provider asks for is handed on, capped (R83, F6)."""
    refusal = ask(with_token_url, mint, token=faults.answer(503, headers={"Retry-After": "99999"}))

    assert isinstance(refusal, Refusal)
    assert refusal.retry_after == MAX_RETRY_AFTER


def test_provider_is_down() -> None:
    """A refused connection is a network failure, and the next request works when the provider is back (F3, F4)."""

    async def run() -> list[object]:
        peer = DemoProvider()
        await peer.start()
        provider = Provider(with_token_url(peer))
        await peer.stop()
        answers: list[object] = [await mint(provider)]
        await peer.start(port=peer.port)
        answers.append(await mint(provider))
        await provider.close()
        await peer.stop()
        return answers

    down, up = asyncio.run(run())

    assert labels(down) == ("transient", "network")
    assert isinstance(up, TokenResponse)


def test_name_that_does_not_exist() -> None:
    """A name without an address is a network failure (F3)."""
    refusal = ask(lambda _: OAuth(token_url="https://idp.invalid/token"), mint)

    assert labels(refusal) == ("transient", "network")
    assert isinstance(refusal, Refusal)
    assert refusal.description == "DNS: the name can't be resolved"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """The secret goes to the configured endpoint and to no other (R39, F13)."""

    async def run() -> tuple[TokenResponse | Refusal, int]:
        async with Trap().running() as trap, DemoProvider().running() as peer:
            peer.faults.token = faults.answer(status, OPAQUE, {"Location": f"{trap.url}/token"})
            provider = Provider(with_token_url(peer))
            try:
                return await mint(provider), trap.requests
            finally:
                await provider.close()

    refusal, trapped = asyncio.run(run())

    assert trapped == 0
    assert isinstance(refusal, Refusal)
    assert refusal.description.startswith(f"status {status}, a redirect, which is not followed")


def test_environment_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Proxies, netrc and key logs of the environment change nothing (R40, R150)."""
    netrc, keylog = tmp_path / "netrc", tmp_path / "keys"
    netrc.write_text("machine 127.0.0.1 login evil password evil\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("SSLKEYLOGFILE", str(keylog))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert isinstance(ask(with_token_url, mint), TokenResponse)
    assert not keylog.exists()


def test_cookies_are_not_kept() -> None:
    """What a provider sets is not sent back (R71)."""
    peer = DemoProvider()
    peer.faults.token = faults.answer(200, OPAQUE, {"Set-Cookie": "sid=1"})

    async def run() -> None:
        async with peer.running():
            # Of a bare address aiohttp would keep no cookie anyway.
            provider = Provider(OAuth(token_url=peer.token_url.replace("127.0.0.1", "localhost")))
            await mint(provider)
            await mint(provider)
            await provider.close()

    asyncio.run(run())

    assert [received.headers.get("Cookie") for received in peer.received] == [None, None]


def test_egress_proxy_is_used() -> None:
    """With `oauth.egress_proxy` the request goes through it, and its refusal is told apart."""

    async def run() -> tuple[Refusal | TokenResponse, Refusal | TokenResponse]:
        async with DemoProvider().running() as peer:
            peer.faults.token = faults.answer(200, OPAQUE)
            plain = Provider(OAuth(token_url=f"http://idp.invalid{TOKEN_PATH}", egress_proxy=peer.url))
            tls = Provider(OAuth(token_url=f"https://idp.invalid{TOKEN_PATH}", egress_proxy=peer.url))
            answers = await mint(plain), await mint(tls)
            await plain.close()
            await tls.close()
            return answers

    through, refused = asyncio.run(run())

    assert isinstance(through, TokenResponse)
    assert labels(refused) == ("transient", "network")
    assert isinstance(refused, Refusal)
    assert refused.description.startswith("oauth.egress_proxy answers with status")


def over_tls(
    tls: ClientTls, context: ssl.SSLContext, *, host: str = "127.0.0.1"
) -> tuple[TokenResponse | Refusal, int]:
    async def run() -> tuple[TokenResponse | Refusal, int]:
        async with DemoProvider().running(ssl_context=context) as peer:
            provider = Provider(OAuth(token_url=f"https://{host}:{peer.port}{TOKEN_PATH}", tls=tls))
            try:
                return await mint(provider), peer.requests
            finally:
                await provider.close()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


def test_tls(authority: CertificateAuthority) -> None:
    """A certificate of the configured authority, for the right name, is accepted (R41)."""
    answer, _ = over_tls(ClientTls(ca_file=str(authority.ca_file)), authority.server_context("127.0.0.1"))

    assert isinstance(answer, TokenResponse)


def tls_1_1(authority: CertificateAuthority) -> ssl.SSLContext:
    context = authority.server_context("127.0.0.1")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@pytest.mark.parametrize(
    "trusted, server, words",
    [
        (
            False,
            lambda ca: ca.server_context("127.0.0.1"),
            "TLS: the certificate is not accepted: unable to get local issuer",
        ),
        (
            True,
            lambda ca: ca.server_context("127.0.0.1", expired=True),
            "TLS: the certificate is not accepted: certificate has expired",
        ),
        (
            True,
            lambda ca: ca.server_context("idp.example"),
            "TLS: the certificate is not accepted: IP address mismatch",
        ),
        (True, tls_1_1, ""),
    ],
    ids=["untrusted", "expired", "other name", "TLS 1.1"],
)
def test_bad_tls(
    authority: CertificateAuthority,
    trusted: bool,
    server: Callable[[CertificateAuthority], ssl.SSLContext],
    words: str,
) -> None:
    """Without a good certificate and TLS 1.2 nothing is sent (R41, F14)."""
    tls = ClientTls(ca_file=str(authority.ca_file) if trusted else None)

    refusal, arrived = over_tls(tls, server(authority))

    assert arrived == 0
    assert labels(refusal) == ("transient", "network")
    assert isinstance(refusal, Refusal)
    assert refusal.description.startswith(words)


def test_tls_handshake_that_stalls() -> None:
    """A peer that accepts and then says nothing ends with the timeout (F14)."""

    async def run() -> TokenResponse | Refusal:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
            provider = Provider(OAuth(token_url=url, timeout=Duration(0.2)))
            try:
                return await mint(provider)
            finally:
                await provider.close()

    assert labels(asyncio.run(run())) == ("transient", "timeout")


def with_certificate(authority: CertificateAuthority, name: str = "demo") -> ClientTls:
    own = authority.issue(name)
    return ClientTls(ca_file=str(authority.ca_file), cert_file=str(own.cert_file), key_file=str(own.key_file))


BY_CERTIFICATE = ClientCredentials(Secret("demo"), None)


def test_certificate_is_for_the_token_endpoint(authority: CertificateAuthority) -> None:
    """With tls_client_auth the certificate is all that is shown, and nobody else gets to see it (R74, R103)."""
    peer = CertificateWatcher()

    async def run() -> TokenResponse | Refusal:
        async with peer.running(ssl_context=asking_for_certificates(authority)):
            oauth = OAuth(issuer=peer.issuer, auth_method="tls_client_auth", tls=with_certificate(authority))
            provider = Provider(oauth)
            answer = await provider.request_token(BY_CERTIFICATE)
            assert isinstance(await keys(provider), bytes)
            await provider.close()
            return answer

    assert isinstance(asyncio.run(run()), TokenResponse)
    assert peer.shown == [(RFC8414, None), (TOKEN_PATH, "demo"), (JWKS_PATH, None)]
    (form,) = [received.body for received in peer.received if received.path == TOKEN_PATH]
    assert form == b"grant_type=client_credentials&client_id=demo"


def test_certificate_of_another_client(authority: CertificateAuthority) -> None:
    """The provider decides whose certificate it is (R103)."""
    peer = CertificateWatcher()

    async def run() -> TokenResponse | Refusal:
        async with peer.running(ssl_context=asking_for_certificates(authority)):
            tls = with_certificate(authority, "somebody")
            provider = Provider(OAuth(token_url=peer.token_url, auth_method="tls_client_auth", tls=tls))
            try:
                return await provider.request_token(BY_CERTIFICATE)
            finally:
                await provider.close()

    assert labels(asyncio.run(run())) == ("rejected", "invalid_client")


def test_alias_for_mutual_tls(authority: CertificateAuthority) -> None:
    """The certificate goes to the alias of the token endpoint, where the metadata has one (RFC 8705 §5, R103)."""
    conventional, mutual = CertificateWatcher(), CertificateWatcher()

    async def run() -> TokenResponse | Refusal:
        context = asking_for_certificates(authority)
        async with conventional.running(ssl_context=context), mutual.running(ssl_context=context):
            conventional.faults.discovery = describing(
                issuer=conventional.issuer,
                token_endpoint=conventional.token_url,
                jwks_uri=conventional.jwks_url,
                mtls_endpoint_aliases={"token_endpoint": mutual.token_url},
            )
            oauth = OAuth(issuer=conventional.issuer, auth_method="tls_client_auth", tls=with_certificate(authority))
            provider = Provider(oauth)
            try:
                return await provider.request_token(BY_CERTIFICATE)
            finally:
                await provider.close()

    assert isinstance(asyncio.run(run()), TokenResponse)
    assert conventional.shown == [(RFC8414, None)]
    assert mutual.shown == [(TOKEN_PATH, "demo")]


def test_client_certificate(authority: CertificateAuthority) -> None:
    """A configured client certificate is presented to a provider that asks for one."""
    own = authority.issue("client")
    context = authority.server_context("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca_file)
    tls = ClientTls(ca_file=str(authority.ca_file), cert_file=str(own.cert_file), key_file=str(own.key_file))

    assert isinstance(over_tls(tls, context)[0], TokenResponse)
    assert isinstance(over_tls(ClientTls(ca_file=tls.ca_file), context)[0], Refusal)


@pytest.mark.parametrize(
    "oauth",
    [
        OAuth(),
        OAuth(token_url="https://idp.example/token", tls=ClientTls(ca_file="/nowhere/ca.pem")),
        OAuth(token_url="https://idp.example/token", tls=ClientTls(cert_file="/nowhere/cert.pem")),
    ],
)
def test_settings_that_can_not_work(oauth: OAuth) -> None:
    """What no provider could make work is an error at start (R165)."""
    with pytest.raises(ConfigError):
        Provider(oauth)


def test_keys() -> None:
    """The published keys are fetched."""
    found = ask(with_token_url, keys)

    assert isinstance(found, bytes)
    assert len(parse_jwks(found).keys) == 1


@pytest.mark.parametrize(
    "fault, expected",
    [
        (faults.answer(500), ("transient", "http_5xx")),
        (faults.answer(401), ("malformed", "invalid_response")),
        (faults.answer(404), ("malformed", "invalid_response")),
        (faults.answer(302, headers={"Location": "/"}), ("malformed", "invalid_response")),
        (faults.answer(200, b" " * 10_000_000), ("malformed", "invalid_response")),
        (faults.raw([]), ("transient", "network")),
        (faults.hang, ("transient", "timeout")),
    ],
)
def test_keys_are_not_to_be_had(fault: Handler, expected: tuple[str, str]) -> None:
    """Whatever the key set's URL answers comes back as a refusal (R113, F22)."""
    assert labels(ask(impatient, keys, jwks=fault)) == expected


@pytest.mark.parametrize("path", ["", "/tenant", "/tenant/"])
def test_discovery(path: str) -> None:
    """The issuer's metadata names the endpoints; RFC 8414's place is asked first, OpenID's second (R106)."""

    async def run() -> tuple[Endpoints | Refusal, list[str]]:
        asked = []

        class Peer(LoopbackServer):
            async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
                asked.append(request.path)
                if not request.path.endswith(OIDC):
                    return await faults.answer(404)(request)
                metadata = {"issuer": self.url + path, "token_endpoint": f"{self.url}/t", "jwks_uri": f"{self.url}/k"}
                return await faults.answer(200, json.dumps(metadata).encode())(request)

        async with Peer().running() as peer:
            provider = Provider(OAuth(issuer=peer.url + path))
            try:
                found = await provider.discover()
                assert provider.jwks_url == f"{peer.url}/k"
                assert found == Endpoints(f"{peer.url}/t", f"{peer.url}/k")
                return await provider.discover(), asked
            finally:
                await provider.close()

    _, asked = asyncio.run(run())

    assert asked == [RFC8414 + path.rstrip("/"), path.rstrip("/") + OIDC]


def test_token_and_keys_of_a_discovered_provider() -> None:
    """With an issuer alone, both are found."""

    async def use(provider: Provider) -> tuple[str | None, object, object, str | None]:
        return provider.jwks_url, await mint(provider), await keys(provider), provider.jwks_url

    before, token, found, after = ask(with_issuer, use)

    assert before is None
    assert isinstance(token, TokenResponse)
    assert isinstance(found, bytes)
    assert str(after).endswith(JWKS_PATH)


def describing(**changes: object) -> Handler:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        url = f"http://{request.host}"
        metadata = {"issuer": url, "token_endpoint": url + TOKEN_PATH, "jwks_uri": url + JWKS_PATH} | changes
        return await faults.answer(200, json.dumps(metadata).encode())(request)

    return handle


@pytest.mark.parametrize(
    "fault",
    [
        describing(issuer="https://evil.example"),
        describing(issuer=None),
        describing(issuer=["http://127.0.0.1"]),
        describing(token_endpoint="http://idp.example/token"),
        describing(token_endpoint=None),
        describing(jwks_uri="http://idp.example/keys"),
        faults.answer(404),
        faults.answer(200, b"<html>"),
        faults.answer(302, headers={"Location": "/"}),
    ],
)
def test_bad_metadata(fault: Handler) -> None:
    """Metadata of another issuer, or with endpoints that are not secure, are not used (R106)."""
    assert labels(ask(with_issuer, mint, discovery=fault)) == ("malformed", "invalid_response")


def test_issuer_with_a_slash_too_many() -> None:
    """Issuers are compared as they are (R106)."""
    assert labels(ask(lambda peer: OAuth(issuer=peer.issuer + "/"), mint)) == ("malformed", "invalid_response")


def test_metadata_is_asked_for_until_it_came() -> None:
    """A provider that is down at first is discovered later, and then not asked again."""

    async def run() -> tuple[list[object], int]:
        async with DemoProvider().running() as peer:
            provider = Provider(with_issuer(peer))
            peer.faults.discovery = faults.answer(503)
            answers: list[object] = [await provider.discover()]
            peer.faults.discovery = None
            answers += [await provider.discover(), await provider.discover()]
            await provider.close()
            return answers, peer.requests

    (down, *up), requests = asyncio.run(run())

    assert labels(down) == ("transient", "http_5xx")
    assert all(isinstance(found, Endpoints) for found in up)
    assert requests == 2


def test_configured_urls_come_first() -> None:
    """The metadata completes what is configured, and replaces none of it."""

    def oauth(peer: DemoProvider) -> OAuth:
        return OAuth(issuer=peer.issuer, token_url="http://127.0.0.1:1/mine")

    found = ask(oauth, lambda provider: provider.discover())

    assert isinstance(found, Endpoints)
    assert found.token_url == "http://127.0.0.1:1/mine"
    assert str(found.jwks_url).endswith(JWKS_PATH)


def test_nothing_is_discovered_without_need() -> None:
    """With a token URL and verification off, the issuer is not asked."""

    def oauth(peer: DemoProvider) -> OAuth:
        return OAuth(issuer="http://127.0.0.1:1", token_url=peer.token_url, verify=Verify(mode="off"))

    assert isinstance(ask(oauth, mint), TokenResponse)


def test_provider_without_keys() -> None:
    """Where no key set is known, none is fetched."""
    assert labels(ask(lambda peer: OAuth(token_url=peer.token_url), keys)) == ("malformed", "invalid_response")
