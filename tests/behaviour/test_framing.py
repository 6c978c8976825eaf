"""Where one message ends and the next begins, as seen by the upstream."""

import json
from contextlib import suppress

import pytest

from tests.behaviour.running import Launcher, Proxy
from tests.peers import TIMEOUT, Upstream, request


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS"])
def test_body_that_looks_like_a_request(proxy: Proxy, upstream: Upstream, method: bytes) -> None:
    """A body on a method that rarely has one is a body (R29)."""
    body = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    with proxy.connect() as client:
        client.send(request(method, b"/a", body=body))
        assert client.response(to_head=method == b"HEAD").status == 200
        assert client.get(b"/b").status == 200

    assert [received.target for received in upstream.requests] == [b"/a", b"/b"]
    assert upstream.requests[0].body == body


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
def test_refused_request_with_a_body(proxy: Proxy, upstream: Upstream, framing: bytes) -> None:
    """After an early answer nothing of the body is taken for a request (R30)."""
    body = (b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30_000)[:1_000_000]
    if framing.startswith(b"Transfer"):
        body = b"f4240\r\n" + body + b"\r\n0\r\n\r\n"
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a#fragment", framing) + body)
        client.send(request(b"GET", b"/second"))
        assert client.response().status == 400
        assert client.rest() == b""

    assert upstream.requests == []


def test_refused_request_without_a_body(proxy: Proxy, upstream: Upstream) -> None:
    """A refusal alone does not cost the connection (R30)."""
    with proxy.connect() as client:
        assert client.get(b"/a#fragment").status == 400
        assert client.get(b"/b").status == 200

    assert [received.target for received in upstream.requests] == [b"/b"]


def test_python_parser_is_refused(launch: Launcher, upstream: Upstream) -> None:
    """aiohttp's pure-Python parser accepts what the C parser refuses: the proxy does not start on it (R31)."""
    process = launch.spawn(upstream, environment={"AIOHTTP_NO_EXTENSIONS": "1"})
    _, errors = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 1
    assert b"AIOHTTP_NO_EXTENSIONS" in errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\nx",
        b"GET /a HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: localhost\r\nX-A : b\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: localhost\r\nX-A: a\x00b\r\n\r\n",
        b"GET /a HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"GET /a\r\n\r\n",
        b"BAD\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_malformed_heads(proxy: Proxy, upstream: Upstream, sent: bytes) -> None:
    """One problem document, then the end: no further byte of that connection counts (R1, R2, R13, R14, R21, R27)."""
    with proxy.connect() as client:
        client.send(sent + request(b"GET", b"/smuggled"))
        response = client.response()
        assert client.rest() == b""

    assert response.status == 400
    assert response.values(b"Connection") == [b"close"]
    assert json.loads(response.body)["code"] == "bad_request"
    assert upstream.requests == []


@pytest.mark.parametrize("sent", [b"G\r\n0\r\n\r\n", b"-1\r\n", b"5\r\nhelloXX0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\n"])
def test_malformed_chunks(proxy: Proxy, upstream: Upstream, sent: bytes) -> None:
    """A body that breaks off into nonsense is refused, and its upstream exchange is cut (R9, R10)."""
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
        client.send(sent)
        assert client.response().status == 400
        assert client.rest() == b""

    assert upstream.requests == []


@pytest.mark.parametrize(
    "fields", [(b"X: " + b"x" * 40_000,), tuple(b"X-%d: y" % n for n in range(200)), (b"X: " + b"x" * 20_000,) * 2]
)
def test_too_large_header(proxy: Proxy, upstream: Upstream, fields: tuple[bytes, ...]) -> None:
    """A head that is too large, or has too many fields, is 431 (R25)."""
    with proxy.connect() as client:
        response = client.get(b"/a", *fields)

    assert (response.status, json.loads(response.body)["code"]) == (431, "header_too_large")
    assert upstream.requests == []


@pytest.mark.parametrize("piece", [b"X: " + b"x" * 1000 + b"\r\n", b"x" * 1000])
def test_large_header_in_pieces(proxy: Proxy, upstream: Upstream, piece: bytes) -> None:
    """A head that grows and grows is 431 as soon as it is too large, whether a field or their number grows (R25)."""
    sent = 0
    with proxy.connect() as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: localhost\r\nX: ")
        client.sock.settimeout(0.02)  # the pace
        head = b""
        while not head:
            client.send(piece)
            sent += len(piece)
            with suppress(TimeoutError):
                head = client.sock.recv(100)

    assert head.startswith(b"HTTP/1.1 431 ")
    assert sent < 64 << 10
    assert upstream.requests == []


def test_body_limit(launch: Launcher, upstream: Upstream) -> None:
    """limits.max_body holds for a declared length, and for chunks, of which the upstream sees no end (R158)."""
    proxy = launch(upstream, "limits.max_body=10")
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", body=b"0123456789"))
        assert client.response().status == 200
        client.send(request(b"POST", b"/b", b"Content-Length: 11"))
        assert client.response().status == 413
    with proxy.connect() as client:
        client.send(request(b"POST", b"/c", b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
        client.send(b"6\r\n world\r\n")
        assert client.response().status == 413
    assert upstream.cut.wait(TIMEOUT)

    assert [received.target for received in upstream.requests] == [b"/a"]


def test_slow_head(launch: Launcher, upstream: Upstream) -> None:
    """A head that does not arrive in time is 408, though bytes keep coming (R155)."""
    proxy = launch(upstream, "listen.header_timeout=300ms")
    with proxy.connect() as client:
        client.send(b"GET /a HTTP/1.1\r\n")
        response = client.response()

    assert (response.status, json.loads(response.body)["code"]) == (408, "request_timeout")


def test_idle_client(launch: Launcher, upstream: Upstream) -> None:
    """A connection that asks nothing is closed after listen.keepalive_timeout (R155)."""
    proxy = launch(upstream, "listen.keepalive_timeout=300ms")
    with proxy.connect() as silent, proxy.connect() as client:
        assert client.get().status == 200
        assert client.is_closed
        assert silent.is_closed
