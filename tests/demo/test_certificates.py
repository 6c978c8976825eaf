"""The demo's certificates, as OpenSSL judges them."""

import asyncio
import ssl
import stat
from pathlib import Path

import pytest
from aiohttp import ClientConnectorCertificateError, ClientSession, web

from proxy.demo.certificates import CertificateAuthority
from proxy.demo.server import LoopbackServer


class Hello(LoopbackServer):
    async def respond(self, _request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="hello")


def fetch(server_context: ssl.SSLContext, client_context: ssl.SSLContext, server_name: str | None = None) -> str:
    async def scene() -> str:
        async with Hello().running(server_context) as server, ClientSession() as session:
            response = await session.get(server.url, ssl=client_context, server_hostname=server_name)
            return await response.text()

    return asyncio.run(scene())


def trusting(authority: CertificateAuthority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.ca_file)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@pytest.mark.parametrize("server_name", [None, "localhost"])
def test_a_certificate_is_valid_for_its_hosts(authority: CertificateAuthority, server_name: str | None) -> None:
    """A client that trusts the CA accepts the address and the name (R41)."""
    assert fetch(authority.server_context("127.0.0.1", "localhost"), trusting(authority), server_name) == "hello"


def test_it_satisfies_the_strict_rules(authority: CertificateAuthority) -> None:
    """The chain passes the RFC 5280 checks that newer Pythons make by default (R41)."""
    context = trusting(authority)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert fetch(authority.server_context("127.0.0.1"), context) == "hello"


@pytest.mark.parametrize(
    "hosts, expired, reason",
    [(("wrong.example",), False, "mismatch"), (("127.0.0.1",), True, "expired")],
)
def test_a_wrong_certificate_is_refused(
    authority: CertificateAuthority, hosts: tuple[str, ...], expired: bool, reason: str
) -> None:
    """Another host's certificate fails, and so does one that has expired (R41, F14)."""
    with pytest.raises(ClientConnectorCertificateError, match=reason):
        fetch(authority.server_context(*hosts, expired=expired), trusting(authority))


def test_another_authority_is_not_trusted(authority: CertificateAuthority, tmp_path: Path) -> None:
    """A certificate of an authority that the client does not know fails (R41, F14)."""
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    other = CertificateAuthority(elsewhere)
    with pytest.raises(ClientConnectorCertificateError, match="verify failed"):
        fetch(other.server_context("127.0.0.1"), trusting(authority))


def test_a_client_can_prove_itself(authority: CertificateAuthority) -> None:
    """An issued certificate is good for a client too (R103)."""
    server_context = authority.server_context("127.0.0.1")
    server_context.load_verify_locations(authority.ca_file)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_context = trusting(authority)
    files = authority.issue("client")
    client_context.load_cert_chain(files.cert_file, files.key_file)
    assert fetch(server_context, client_context) == "hello"


def test_keys_are_for_their_owner_alone(authority: CertificateAuthority) -> None:
    """A key file has mode 0600, and the authority's own key is in no file (R148)."""
    files = authority.issue("localhost")
    assert stat.S_IMODE(files.key_file.stat().st_mode) == 0o600
    assert b"PRIVATE" not in authority.ca_file.read_bytes() + files.cert_file.read_bytes()
