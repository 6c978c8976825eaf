"""Connections to real servers on loopback, made directly: to whom they go, and what a failure is called."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.certificates import CertificateAuthority
from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamTls, UpstreamUnreachable
from proxy.settings import Duration
from proxy.settings import Upstream as Settings
from proxy.settings import UpstreamTls as TlsSettings
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.dial import Dialer
from tests.egress import EgressProxy
from tests.peers import Upstream, blackhole, free_port, trap
from tests.upstream.stage import Directory, exchange, failure, play, pool_to, resolving


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_refused(host: str) -> None:
    """Where nobody listens, the connection is refused (R129, F25)."""
    error, result = failure(f"http://{host}:{free_port()}")
    assert (type(error), error.proxy_status, result) == (UpstreamUnreachable, "connection_refused", "refused")


@pytest.mark.parametrize("host", ["nonexistent.invalid", "a..b", "a" * 64 + ".invalid"])
def test_no_such_name(host: str) -> None:
    """A name that does not resolve, or that could never, is an error of DNS (R129, F27)."""
    error, result = failure(f"http://{host}")
    assert (type(error), error.proxy_status, result) == (UpstreamUnreachable, "dns_error", "dns")


def test_a_dead_address_before_a_live_one() -> None:
    """Where IPv6 refuses, or the first address takes nothing, the next one is used (F27, RFC 8305)."""

    async def scene(directory: Directory) -> None:
        with Upstream() as upstream, blackhole() as dead:
            for first in (("::1", upstream.port), ("127.0.0.1", dead)):
                directory.addresses = [first, ("127.0.0.1", upstream.port)]
                async with pool_to("http://api.example") as pool:
                    assert await exchange(await pool.acquire()) == b"ok"

    resolving(scene)


def test_another_address() -> None:
    """A name is resolved for each connection: one that moves is followed (F27)."""

    async def scene(directory: Directory) -> None:
        with Upstream() as old, Upstream() as new:
            async with pool_to("http://api.example") as pool:
                for upstream in (old, new):
                    directory.addresses = [("127.0.0.1", upstream.port)]
                    connection = await pool.acquire()
                    assert await exchange(connection) == b"ok"
                    connection.abort()
            assert (old.connections, new.connections) == (1, 1)

    resolving(scene)


def test_a_slow_resolver() -> None:
    """A name that nobody resolves is given up after `connect_timeout` (F27)."""

    async def scene(directory: Directory) -> None:
        directory.addresses = []
        async with pool_to("http://api.example", connect_timeout=Duration(0.05)) as pool:
            with pytest.raises(UpstreamTimeout):
                await pool.acquire()
            assert pool._connecting == 0

    resolving(scene)


def test_no_answer_to_the_handshake() -> None:
    """A peer that never answers the handshake is given up after `connect_timeout` (R129, F26)."""
    with trap() as silent:
        error, result = failure(f"https://localhost:{silent.port}", connect_timeout=Duration(0.05))
    assert (type(error), error.proxy_status, result) == (UpstreamTimeout, "connection_timeout", "timeout")


def tls(authority: CertificateAuthority, **more: Any) -> TlsSettings:
    return TlsSettings(ca_file=str(authority.ca_file), **more)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


def test_a_verified_upstream(authority: CertificateAuthority) -> None:
    """With a chain to `ca_file` and the right name the connection is made, and speaks HTTP/1.1 (R41)."""

    async def scene() -> None:
        context = authority.server_context("localhost")
        context.set_alpn_protocols(["h2", "http/1.1"])
        with Upstream(tls=context) as upstream:
            async with pool_to(upstream.url, tls=tls(authority)) as pool:
                connection = await pool.acquire()
                secured = connection._transport.get_extra_info("ssl_object")
                assert secured.selected_alpn_protocol() == "http/1.1"
                assert await exchange(connection) == b"ok"

    play(scene)


def test_server_name(authority: CertificateAuthority) -> None:
    """The name that is asked for and verified is the host, or `tls.server_name` in its place (R37)."""
    asked: list[str] = []

    async def scene() -> None:
        context = authority.server_context("localhost", "api.example")
        context.sni_callback = lambda _socket, name, _context: asked.append(name)
        with Upstream(tls=context) as upstream:
            for settings in (tls(authority), tls(authority, server_name="api.example")):
                async with pool_to(upstream.url, tls=settings) as pool:
                    assert await exchange(await pool.acquire()) == b"ok"

    play(scene)
    assert asked == ["localhost", "api.example"]


def test_client_certificate(authority: CertificateAuthority) -> None:
    """Where the upstream asks for a certificate it gets the configured one."""
    context = authority.server_context("localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca_file)
    ours = authority.issue("client.example")

    async def scene() -> None:
        with Upstream(tls=context) as upstream:
            files = tls(authority, cert_file=str(ours.cert_file), key_file=str(ours.key_file))
            async with pool_to(upstream.url, tls=files) as pool:
                assert await exchange(await pool.acquire()) == b"ok"

    play(scene)


@pytest.mark.parametrize("case", ["wrong name", "name for an address", "expired", "untrusted", "untrusted by default"])
def test_bad_certificates(authority: CertificateAuthority, tmp_path: Path, case: str) -> None:
    """A certificate that is not valid for the upstream's name ends the connection before a byte of HTTP (R41, F36)."""
    hosts = {"wrong name": "other.example", "name for an address": "127.0.0.1"}
    context = authority.server_context(hosts.get(case, "localhost"), expired=case == "expired")
    (tmp_path / "other").mkdir()
    trusted = CertificateAuthority(tmp_path / "other") if case == "untrusted" else authority
    settings = TlsSettings() if case == "untrusted by default" else tls(trusted)
    with Upstream(tls=context) as upstream:
        error, result = failure(upstream.url, tls=settings)
    assert (type(error), error.proxy_status, result) == (UpstreamTls, "tls_certificate_error", "tls")
    assert not upstream.raw_bytes
    assert not upstream.requests


def test_no_tls_at_all() -> None:
    """A server that speaks something else on the port of an https URL gets no byte of HTTP (R41, F36)."""

    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, pool_to(f"https://127.0.0.1:{port}") as pool:
            with pytest.raises(UpstreamTls) as caught:
                await pool.acquire()
            assert caught.value.proxy_status == "tls_protocol_error"

    play(scene)


def test_a_handshake_that_is_cut() -> None:
    """A peer that closes in the handshake is unreachable, whatever the library calls it (R129, F36)."""

    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def scene() -> None:
        server = await asyncio.start_server(close, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, pool_to(f"https://127.0.0.1:{port}") as pool:
            with pytest.raises(UpstreamError) as caught:
                await pool.acquire()
            assert caught.value.proxy_status in ("connection_terminated", "tls_protocol_error")

    play(scene)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")  # an old server is what is wanted
def test_old_tls(authority: CertificateAuthority) -> None:
    """Nothing below TLS 1.2 is spoken (R41)."""
    context = authority.server_context("localhost")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Upstream(tls=context) as upstream:
        error, result = failure(upstream.url, tls=tls(authority))
    assert (type(error), error.proxy_status, result) == (UpstreamTls, "tls_protocol_error", "tls")
    assert upstream.raw_bytes == b""


def test_the_key_log_of_the_environment_is_ignored(
    monkeypatch: pytest.MonkeyPatch, authority: CertificateAuthority, tmp_path: Path
) -> None:
    """SSLKEYLOGFILE gives the session keys to nobody (R40, R150)."""
    with Upstream(tls=authority.server_context("localhost")) as upstream:
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))

        async def scene() -> None:
            async with pool_to(upstream.url, tls=tls(authority)) as pool:
                assert await exchange(await pool.acquire()) == b"ok"

        play(scene)
    assert not (tmp_path / "keys").exists()


def test_the_environment_chooses_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and its like move no connection elsewhere (R40)."""
    with trap() as elsewhere, Upstream() as upstream:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{elsewhere.port}")

        async def scene() -> None:
            async with pool_to(upstream.url) as pool:
                assert await exchange(await pool.acquire()) == b"ok"

        play(scene)
        assert elsewhere.hits == 0


@pytest.mark.parametrize("through", [False, True], ids=["directly", "through an egress proxy"])
def test_a_deadline_in_the_moment_of_success(authority: CertificateAuthority, *, through: bool) -> None:
    """What is given up in the moment in which it is made reads no more: its descriptor will be another's (R125)."""

    class GivenUp(UpstreamConnection):
        __slots__ = ("descriptor",)

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.descriptor = transport.get_extra_info("socket").fileno()
            dials[0].cancel()

    dials: list[asyncio.Task[None]] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        with Upstream(tls=authority.server_context("localhost")) as upstream, EgressProxy() as egress:
            settings = Settings(url=upstream.url, tls=tls(authority), egress_proxy=egress.url if through else None)
            lost = loop.create_future()
            connection = GivenUp(loop, settings, lost.set_result)
            dials.append(loop.create_task(Dialer(settings).dial(connection)))
            with pytest.raises(asyncio.CancelledError):
                await dials[0]
            assert not loop.remove_reader(connection.descriptor)
            assert await lost is connection

    play(scene)
