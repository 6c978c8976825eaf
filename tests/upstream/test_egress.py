"""Connections through an egress proxy: what it sees, what it may answer, and what becomes of its failures."""

import gc
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from proxy.core.connect import MAX_ANSWER
from proxy.demo.certificates import CertificateAuthority
from proxy.errors import Stopping, UpstreamError, UpstreamProtocol, UpstreamTimeout, UpstreamTls, UpstreamUnreachable
from proxy.settings import Duration
from proxy.settings import UpstreamTls as TlsSettings
from tests.egress import GRANTED, EgressProxy, tls_records
from tests.peers import Upstream, blackhole, free_port, trap
from tests.upstream.stage import Directory, begin, cancel, exchange, failure, play, pool_to, resolving, until

CONNECT = b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n"


def tls(authority: CertificateAuthority, **more: Any) -> TlsSettings:
    return TlsSettings(ca_file=str(authority.ca_file), **more)


# The way.


def test_what_the_egress_proxy_sees(authority: CertificateAuthority) -> None:
    """It gets CONNECT with the name, which nobody looks up here, and then nothing but TLS (R41, R68)."""

    async def scene(directory: Directory) -> None:
        directory.addresses = []  # who asks for the address of api.example never hears of it
        with (
            Upstream(tls=authority.server_context("api.example")) as upstream,
            EgressProxy(leads_to=upstream.port) as egress,
        ):
            async with pool_to("https://api.example", tls=tls(authority), egress_proxy=egress.url) as pool:
                assert await exchange(await pool.acquire()) == b"ok"
            assert bytes(egress.raw_bytes) == CONNECT
            assert egress.heads == [CONNECT]
            (sent,) = egress.tunnels
            assert tls_records(bytes(sent))
            assert len(upstream.requests) == 1

    resolving(scene)


@pytest.mark.parametrize(
    "url, target",
    [
        ("http://api.example", b"api.example:80"),
        ("http://API.example:8080/base", b"api.example:8080"),
        ("http://192.0.2.1", b"192.0.2.1:80"),
        ("http://[2001:db8::1]:81", b"[2001:db8::1]:81"),
    ],
)
def test_plain_http(url: str, target: bytes) -> None:
    """Plain http goes through a tunnel, too: an egress proxy gets no request to read, cache or answer itself."""

    async def scene() -> None:
        with Upstream() as upstream, EgressProxy(leads_to=upstream.port) as egress:
            async with pool_to(url, egress_proxy=egress.url) as pool:
                assert await exchange(await pool.acquire()) == b"ok"
            assert egress.asked_for == [target]
            assert upstream.requests[0].head.startswith(b"GET /a ")

    play(scene)


def test_reuse(authority: CertificateAuthority) -> None:
    """A tunnel is kept, as any other connection is: one CONNECT for many exchanges."""

    async def scene() -> None:
        with Upstream(tls=authority.server_context("localhost")) as upstream, EgressProxy() as egress:
            async with pool_to(upstream.url, tls=tls(authority), egress_proxy=egress.url) as pool:
                for _ in range(3):
                    connection = await pool.acquire()
                    assert await exchange(connection) == b"ok"
                    pool.release(connection)
                assert pool.counts() == {"idle": 1, "active": 0}
                assert pool._traffic.connects == {"ok": 1}
            assert (egress.connections, upstream.connections, len(upstream.requests)) == (1, 1, 3)

    play(scene)


def test_tls_settings(authority: CertificateAuthority) -> None:
    """The CA, the client certificate and the name are those of `upstream.tls`, for the upstream (R37, R41)."""
    asked: list[str] = []
    context = authority.server_context("api.example")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca_file)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    ours = authority.issue("client.example")
    files = tls(authority, server_name="api.example", cert_file=str(ours.cert_file), key_file=str(ours.key_file))

    async def scene() -> None:
        with Upstream(tls=context) as upstream, EgressProxy() as egress:
            async with pool_to(upstream.url, tls=files, egress_proxy=egress.url) as pool:
                assert await exchange(await pool.acquire()) == b"ok"

    play(scene)
    assert asked == ["api.example"]


def test_a_dead_address_before_a_live_one() -> None:
    """An egress proxy with several addresses is reached by the first that works (RFC 8305)."""

    async def scene(directory: Directory) -> None:
        with Upstream() as upstream, EgressProxy() as egress, blackhole() as dead:
            for first in (("::1", egress.port), ("127.0.0.1", dead)):
                directory.addresses = [first, ("127.0.0.1", egress.port)]
                async with pool_to(upstream.url, egress_proxy="http://api.example:3128") as pool:
                    assert await exchange(await pool.acquire()) == b"ok"

    resolving(scene)


def test_the_environment_chooses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and its like stand in for no egress proxy, and NO_PROXY leads past none (R40)."""
    with trap() as elsewhere, Upstream() as upstream, EgressProxy() as egress:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{elsewhere.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "*")

        async def scene() -> None:
            async with pool_to(upstream.url, egress_proxy=egress.url) as pool:
                assert await exchange(await pool.acquire()) == b"ok"

        play(scene)
        assert (elsewhere.hits, egress.connections) == (0, 1)


# Its answers.

ACCEPTED = [
    GRANTED,
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"HTTP/1.1 200 connection established\r\nVia: 1.1 egress\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    # RFC 9110 §9.3.6: what these say is to be ignored.
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    # Interim ones come before it.
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + GRANTED,
]


def in_pieces(answer: bytes, then: Callable[[socket.socket], object] | None = None) -> Callable[..., bool]:
    """Sends an answer byte by byte."""

    def answering(_head: bytes, sock: socket.socket) -> bool:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in answer:
            sock.sendall(bytes([byte]))
        if then is not None:
            then(sock)
        return True

    return answering


@pytest.mark.parametrize("answer", ACCEPTED, ids=repr)
def test_accepted(answer: bytes) -> None:
    """Any 2xx opens the tunnel, whatever else its head says, and however it comes (RFC 9110 §9.3.6)."""

    def speak(sock: socket.socket) -> None:
        assert sock.recv(65536).startswith(b"GET /a ")
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        sock.recv(1)

    async def scene() -> None:
        with Upstream(when_head=in_pieces(answer, speak)) as egress:
            async with pool_to("http://api.example", egress_proxy=egress.url) as pool:
                assert await exchange(await pool.acquire()) == b"ok"

    play(scene)


DENIED = "http_request_denied", "proxy_refused"
FAILED = "destination_unavailable", "proxy_refused"
NONSENSE = "http_protocol_error", "proxy_protocol"
CLOSED = "connection_terminated", "network"
REFUSED: dict[bytes, tuple[str, str]] = {
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=canary\r\n\r\n": DENIED,
    b"HTTP/1.1 403 canary\r\nContent-Length: 6\r\n\r\ncanary": DENIED,
    b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n\r\n": DENIED,
    b"HTTP/1.1 302 Found\r\nLocation: http://canary.example/login\r\n\r\n": DENIED,
    b"HTTP/1.1 500 Unable to connect\r\n\r\n<html>canary</html>": FAILED,
    b"HTTP/1.0 502 Bad Gateway\r\n\r\n": FAILED,
    b"HTTP/1.1 503 canary\r\nRetry-After: 7\r\n\r\n": FAILED,
    b"HTTP/1.1 504 Gateway Timeout\r\n\r\n": FAILED,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\n\r\n": DENIED,
    b"SSH-2.0-canary\r\n": NONSENSE,
    b"\x15\x03\x01\x00\x02\x02\x46": NONSENSE,
    b"HTTP/2 200\r\n\r\n": NONSENSE,
    b"HTTP/1.1 OK\r\n\r\n": NONSENSE,
    b"HTTP/1.1 200 OK\r\ncanary\r\n\r\n": NONSENSE,
    b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n": NONSENSE,
    b"HTTP/1.1 200 OK\nA: b\n\n\r\n\r\n": NONSENSE,
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: canary\r\n\r\n": NONSENSE,
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n": NONSENSE,
    b"HTTP/1.1 200 OK\r\nA: " + b"a" * MAX_ANSWER + b"\r\n\r\n": NONSENSE,
    b"HTTP/1.1 100 Continue\r\n\r\n" * 1000: NONSENSE,
    GRANTED + b"canary": NONSENSE,
    GRANTED + GRANTED: NONSENSE,
    b"": CLOSED,
    b"HTTP/1.1 200 OK\r\nA: b": CLOSED,
    b"HTTP/1.1 100 Continue\r\n\r\n": CLOSED,
}


@pytest.mark.parametrize("answer", REFUSED, ids=lambda answer: repr(answer[:60]))
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_refused(scheme: str, answer: bytes) -> None:
    """No other answer opens a tunnel, each failure has its name, and nothing that was said is repeated (R129)."""

    def answering(_head: bytes, sock: socket.socket) -> bool:
        sock.sendall(answer)
        return True

    with Upstream(when_head=answering) as egress:
        error, result = failure(f"{scheme}://api.example", egress_proxy=egress.url)
        assert egress.raw_bytes.startswith(b"CONNECT api.example:")
        assert egress.raw_bytes.endswith(b"\r\n\r\n")
    assert (type(error), error.proxy_status, result) == (UpstreamUnreachable, *REFUSED[answer])
    assert "upstream.egress_proxy" in error.detail
    assert "canary" not in error.detail


def test_bytes_behind_a_head_that_was_read(authority: CertificateAuthority) -> None:
    """Bytes in the tunnel that nobody asked for end it, be it before TLS or on a connection that is idle (R118)."""
    asked: list[socket.socket] = []

    def late(head: bytes, sock: socket.socket) -> bool:
        asked.append(sock)
        sock.sendall(GRANTED)
        if b":443 " in head:
            sock.recv(1, socket.MSG_PEEK)  # the tunnel is open on the other side
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        wait_for_the_end(sock)
        return True

    with Upstream(when_head=late) as egress:
        error, result = failure("https://api.example", tls=tls(authority), egress_proxy=egress.url)
        assert (type(error), error.proxy_status, result) == (UpstreamTls, "tls_protocol_error", "tls")

        async def scene() -> None:
            async with pool_to("http://api.example", egress_proxy=egress.url) as pool:
                connection = await pool.acquire()
                asked[-1].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await until(lambda: connection.closed)
                await until(lambda: pool.counts() == {"idle": 0, "active": 0})
                assert isinstance(connection.error, UpstreamProtocol)

        play(scene)


# Failures on the way.


def test_nobody_listens() -> None:
    """An egress proxy that is down is told from an upstream that is (R129, F25)."""
    error, result = failure("https://api.example", egress_proxy=f"http://127.0.0.1:{free_port()}")
    assert (type(error), error.proxy_status, result) == (UpstreamUnreachable, "connection_refused", "refused")
    assert "upstream.egress_proxy" in error.detail


@pytest.mark.parametrize("host", ["nonexistent.invalid", "a" * 64 + ".invalid"])
def test_no_such_name(host: str) -> None:
    """The name that has no address is that of the egress proxy (R129, F27)."""
    error, result = failure("https://api.example", egress_proxy=f"http://{host}:3128")
    assert (type(error), error.proxy_status, result) == (UpstreamUnreachable, "dns_error", "dns")
    assert "upstream.egress_proxy" in error.detail


def wait_for_the_end(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def hint(sock: socket.socket) -> None:
    """An interim answer, and no final one."""
    sock.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    wait_for_the_end(sock)


def open_and_be_silent(sock: socket.socket) -> None:
    sock.sendall(GRANTED)
    wait_for_the_end(sock)


@pytest.mark.parametrize("slow", [wait_for_the_end, hint, open_and_be_silent])
def test_too_slow(slow: Callable[[socket.socket], None]) -> None:
    """`connect_timeout` is for all of it: the whole answer, and the handshake behind it (R129, F26)."""

    def answering(_head: bytes, sock: socket.socket) -> bool:
        slow(sock)
        return True

    with Upstream(when_head=answering) as egress:
        error, result = failure("https://api.example", egress_proxy=egress.url, connect_timeout=Duration(0.1))
    assert (type(error), error.proxy_status, result) == (UpstreamTimeout, "connection_timeout", "timeout")


def test_no_answer_to_the_connect() -> None:
    """An egress proxy that nobody can connect to is given up after `connect_timeout` (R129, F26)."""
    with blackhole() as port:
        error, result = failure(
            "https://api.example", egress_proxy=f"http://127.0.0.1:{port}", connect_timeout=Duration(0.1)
        )
    assert (type(error), error.proxy_status, result) == (UpstreamTimeout, "connection_timeout", "timeout")


def test_a_name_that_tls_cannot_ask_for(authority: CertificateAuthority) -> None:
    """A tunnel that was opened in vain is closed."""
    settings = tls(authority, server_name="ab." * 100 + "example")
    with Upstream() as upstream, EgressProxy(leads_to=upstream.port) as egress:
        error, result = failure("https://api.example", tls=settings, egress_proxy=egress.url)
    assert (type(error), error.proxy_status, result) == (UpstreamTls, "tls_protocol_error", "tls")


def test_reset() -> None:
    """A reset in place of an answer is a connection that was lost (R129)."""

    def reset(_head: bytes, sock: socket.socket) -> bool:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return True

    with Upstream(when_head=reset) as egress:
        error, result = failure("https://api.example", egress_proxy=egress.url)
    assert (type(error), error.proxy_status, result) == (UpstreamUnreachable, *CLOSED)


@pytest.mark.parametrize("case", ["wrong name", "expired", "untrusted by default"])
def test_bad_certificates(authority: CertificateAuthority, case: str) -> None:
    """A tunnel to somebody who can't prove to be the upstream gets no byte of HTTP (R41, R68, F36)."""
    context = authority.server_context(
        "other.example" if case == "wrong name" else "localhost", expired=case == "expired"
    )
    settings = TlsSettings() if case == "untrusted by default" else tls(authority)
    with Upstream(tls=context) as upstream, EgressProxy() as egress:
        error, result = failure(upstream.url, tls=settings, egress_proxy=egress.url)
        assert (type(error), error.proxy_status, result) == (UpstreamTls, "tls_certificate_error", "tls")
        assert not upstream.raw_bytes


def test_an_egress_proxy_in_the_place_of_the_upstream() -> None:
    """One that answers the handshake itself, in the clear, gets no byte of HTTP (R68)."""

    def impersonate(_head: bytes, sock: socket.socket) -> bool:
        sock.sendall(GRANTED)
        got.append(sock.recv(65536))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        got.append(sock.recv(65536))
        return True

    got: list[bytes] = []
    with Upstream(when_head=impersonate) as egress:
        error, _ = failure("https://api.example", egress_proxy=egress.url)
    assert (type(error), error.proxy_status) == (UpstreamTls, "tls_protocol_error")
    assert tls_records(b"".join(got))


# Sockets.


@pytest.mark.parametrize("secure", [False, True])
def test_no_moment_to_cancel_loses_a_socket(authority: CertificateAuthority, *, secure: bool) -> None:
    """Whenever a request is cancelled, the tunnel that was opened for it is kept, and serves another (R125)."""

    async def scene() -> None:
        with (
            Upstream(tls=authority.server_context("localhost") if secure else None) as upstream,
            EgressProxy() as egress,
        ):
            for turns in range(80):
                async with pool_to(upstream.url, tls=tls(authority), egress_proxy=egress.url) as pool:
                    await cancel(pool, turns)
        # A socket that was lost is a ResourceWarning, which is an error.
        gc.collect()

    play(scene)


@pytest.mark.parametrize("secure", [False, True])
def test_no_moment_to_close_loses_a_socket(authority: CertificateAuthority, *, secure: bool) -> None:
    """Whenever the proxy stops, what it was dialling ends: the egress proxy sees all its connections closed."""

    async def scene() -> None:
        with (
            Upstream(tls=authority.server_context("localhost") if secure else None) as upstream,
            EgressProxy() as egress,
        ):
            for turns in range(80):
                async with pool_to(upstream.url, tls=tls(authority), egress_proxy=egress.url) as pool:
                    connecting = await begin(pool, turns)
                    pool.close()
                    with suppress(Stopping, UpstreamError):
                        assert (await connecting).closed
            await until(lambda: not egress._sockets)
        gc.collect()

    play(scene)
