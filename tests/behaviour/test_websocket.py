"""A WebSocket through the proxy: the handshake gets the token, then bytes go both ways as they are."""

import queue
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Origin, Subprotocol

from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import OK, STALL, TIMEOUT, Reader, Received, Upstream, flood, request

WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket")
KEY = (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
HANDSHAKE = request(b"GET", b"/socket", *WEBSOCKET, *KEY)
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
CHAT = Subprotocol("chat")
PIECE = bytes(range(256)) * 4096
PIECES = 64  # more than all the sockets on the way take in


def echo(_received: Received, sock: socket.socket) -> bool:
    """Accepts the handshake, and gives back what comes until the end."""
    sock.sendall(SWITCHING)
    while data := sock.recv(65536):
        sock.sendall(data)
    return False


def resident(proxy: Proxy) -> float:
    return proxy.metric("process_resident_memory_bytes")


def test_handshake(proxy: Proxy, upstream: Upstream) -> None:
    """The handshake arrives as the client made it, with the token, and the 101 as the upstream made it (R59)."""
    upstream.answer = echo
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        response = client.response()

    assert sorted(response.head.split(b"\r\n")) == sorted(SWITCHING.split(b"\r\n"))
    (received,) = upstream.requests
    (authorization,) = received.values(b"Authorization")
    assert authorization.startswith(b"Bearer ey")
    assert received.values(b"Connection") == [b"Upgrade"]
    assert received.values(b"Upgrade") == [b"websocket"]
    assert [line for line in received.lines if line.startswith(b"Sec-")] == list(KEY)


@pytest.mark.parametrize("data", [b"\x81\x05hello", b"GET /a HTTP/1.1\r\n\r\n", PIECE, b"\0"])
def test_bytes(proxy: Proxy, upstream: Upstream, data: bytes) -> None:
    """Bytes pass as they are, whatever they look like (R59)."""
    upstream.answer = echo
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        assert client.response().status == 101
        client.send(data)
        assert client.receive(len(data)) == data


def test_early_bytes(proxy: Proxy, upstream: Upstream) -> None:
    """What the client sends behind its handshake, and the upstream behind its 101, arrives in order (R59)."""

    def greet(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(SWITCHING + b"welcome")
        sock.sendall(sock.recv(5))
        return False

    upstream.answer = greet
    with proxy.connect() as client:
        client.send(HANDSHAKE + b"early")
        assert client.response().status == 101
        assert client.receive(12) == b"welcomeearly"


def test_behind_a_request(proxy: Proxy, upstream: Upstream) -> None:
    """A handshake may follow a request on the same connection, even in one piece with it (R26, R59)."""

    def answer(received: Received, sock: socket.socket) -> bool:
        if received.target == b"/socket":
            return echo(received, sock)
        sock.sendall(OK)
        return True

    upstream.answer = answer
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a") + HANDSHAKE + b"early")
        assert client.response().body == b"ok"
        assert client.response().status == 101
        assert client.receive(5) == b"early"


def test_idle_tunnel(launch: Launcher, upstream: Upstream) -> None:
    """A tunnel in which nobody speaks outlives every timeout of requests and of kept connections (R59)."""
    upstream.answer = echo
    timeouts = ("upstream.response_timeout", "upstream.idle_timeout", "upstream.keepalive_timeout")
    proxy = launch(upstream, *(f"{key}=200ms" for key in (*timeouts, "listen.keepalive_timeout")))
    with proxy.connect() as client:
        client.send(HANDSHAKE + b"a")
        assert client.response().status == 101
        assert client.receive(1) == b"a"
        for _ in range(5):
            with proxy.connect() as idle:
                assert idle.is_closed
        client.send(b"b")
        assert client.receive(1) == b"b"


def test_slow_client(proxy: Proxy, upstream: Upstream) -> None:
    """A client that does not read holds its upstream back: little waits in the proxy, and nothing is lost (R123)."""
    stalled = threading.Event()

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(SWITCHING)
        flood(sock, PIECE * PIECES, stalled)
        return False

    upstream.answer = answer
    before = resident(proxy)
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        assert client.response().status == 101
        assert stalled.wait(TIMEOUT)
        assert resident(proxy) - before < 8 << 20
        assert all(client.receive(len(PIECE)) == PIECE for _ in range(PIECES))


def test_slow_upstream(proxy: Proxy, upstream: Upstream) -> None:
    """An upstream that does not read holds its client back in the same way (R123)."""
    stalled, whole = threading.Event(), threading.Event()

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(SWITCHING)
        stalled.wait(TIMEOUT)
        reader = Reader(sock)
        if all(reader.exactly(len(PIECE)) == PIECE for _ in range(PIECES)):
            whole.set()
        return False

    upstream.answer = answer
    before = resident(proxy)
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        assert client.response().status == 101
        sender = threading.Thread(target=flood, args=(client.sock, PIECE * PIECES, stalled))
        sender.start()
        assert stalled.wait(TIMEOUT)
        assert resident(proxy) - before < 8 << 20
        sender.join(TIMEOUT)
        assert whole.wait(TIMEOUT)


def fill(sock: socket.socket) -> int:
    """Sends until the peer takes no more; returns how many bytes."""
    sock.settimeout(STALL)
    sent = 0
    with suppress(TimeoutError):
        while True:
            sent += sock.send(PIECE)
    return sent


def test_last_bytes_to_a_slow_upstream(proxy: Proxy, upstream: Upstream) -> None:
    """What a client has sent before it closed arrives, however late the upstream reads it (R59)."""
    left, arrived = threading.Event(), queue.SimpleQueue[int]()

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(SWITCHING)
        left.wait(TIMEOUT)
        arrived.put(len(Reader(sock).rest()))
        return False

    upstream.answer = answer
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        assert client.response().status == 101
        sent = fill(client.sock)
    left.set()

    assert arrived.get(timeout=TIMEOUT) == sent
    until(lambda: proxy.metric("thg_proxy_requests_total", method="GET", status="101", outcome="ok") == 1)
    assert proxy.metric("thg_proxy_request_bytes_total") == sent
    until(lambda: proxy.metric("thg_proxy_upstream_connections", state="active") == 0)


def test_last_bytes_to_a_slow_client(proxy: Proxy, upstream: Upstream) -> None:
    """What an upstream has sent before it closed arrives, however late the client reads it (R59)."""
    sent = queue.SimpleQueue[int]()

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(SWITCHING)
        sent.put(fill(sock))
        return False

    upstream.answer = answer
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        assert client.response().status == 101
        count = sent.get(timeout=TIMEOUT)
        assert len(client.rest()) == count

    until(lambda: proxy.metric("thg_proxy_requests_total", method="GET", status="101", outcome="ok") == 1)
    assert proxy.metric("thg_proxy_response_bytes_total") == count


@pytest.mark.parametrize("stalled", ["client", "upstream"])
@pytest.mark.parametrize("leaves", [True, False])
def test_last_bytes_that_nobody_takes(launch: Launcher, upstream: Upstream, stalled: str, *, leaves: bool) -> None:
    """A side that does not take what the other has sent is cut after upstream.idle_timeout (R59, R156)."""
    stopped = threading.Event()

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(SWITCHING)
        if stalled == "client":
            fill(sock)
        if stalled == "upstream" or not leaves:
            stopped.wait(TIMEOUT)
        return False

    upstream.answer = answer
    proxy = launch(upstream, "upstream.idle_timeout=1s")
    before = proxy.metric("process_open_fds")
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        assert client.response().status == 101
        if stalled == "upstream":
            fill(client.sock)
            if leaves:
                client.sock.close()
        until(lambda: proxy.metric("thg_proxy_upstream_connections", state="active") == 0)
        until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 0)
        until(lambda: proxy.metric("process_open_fds") <= before)
    stopped.set()


@pytest.mark.parametrize("who, outcome", [("client", "client_gone"), ("upstream", "aborted")])
def test_reset(proxy: Proxy, upstream: Upstream, who: str, outcome: str) -> None:
    """A tunnel that is torn by a reset did not end well, and the record says whose fault it was (R125)."""

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(SWITCHING)
        if who == "client":
            assert sock.recv(1) == b""
        else:
            reset(sock)
        return False

    upstream.answer = answer
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        assert client.response().status == 101
        if who == "client":
            reset(client.sock)
        else:
            assert client.is_closed

    until(lambda: proxy.metric("thg_proxy_requests_total", method="GET", status="101", outcome=outcome) == 1)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_the_account_of_a_tunnel(launch: Launcher, upstream: Upstream) -> None:
    """When either side closes in peace, the tunnel is a request that went well, and its bytes are counted."""
    upstream.answer = echo
    proxy = launch(upstream, "log.access=all")
    with proxy.connect() as client:
        client.send(HANDSHAKE + b"early")
        assert client.response().status == 101
        assert client.receive(5) == b"early"
        client.send(PIECE)
        assert client.receive(len(PIECE)) == PIECE

    (line,) = until(lambda: proxy.log_lines("request"))
    assert (line["status"], line["outcome"], line["code"]) == (101, "ok", "")
    assert line["bytes_in"] == line["bytes_out"] == 5 + len(PIECE)


def test_client_leaves(proxy: Proxy, upstream: Upstream) -> None:
    """When the client closes, the upstream's side is closed with it (R125)."""
    left = threading.Event()

    def answer(received: Received, sock: socket.socket) -> bool:
        echo(received, sock)
        left.set()
        return False

    upstream.answer = answer
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        assert client.response().status == 101

    assert left.wait(TIMEOUT)
    until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 0)
    until(lambda: proxy.metric("thg_proxy_upstream_connections", state="active") == 0)


def test_upstream_leaves(proxy: Proxy, upstream: Upstream) -> None:
    """When the upstream closes, the client gets its last bytes, and the end (R59)."""

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(SWITCHING + PIECE)
        return False

    upstream.answer = answer
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        assert client.response().status == 101
        assert client.rest() == PIECE

    until(lambda: proxy.metric("thg_proxy_requests_total", method="GET", status="101", outcome="ok") == 1)


def test_refused_handshake(proxy: Proxy, upstream: Upstream) -> None:
    """An upstream that refuses the handshake is heard like any other, and nothing behind it is a request (R30, R59)."""
    upstream.answer = b"HTTP/1.1 403 Forbidden\r\nX-Why: because\r\nContent-Length: 4\r\n\r\nnope"
    with proxy.connect() as client:
        client.send(HANDSHAKE + request(b"GET", b"/smuggled"))
        response = client.response()
        assert client.is_closed

    assert len(upstream.requests) == 1
    assert (response.status, response.body) == (403, b"nope")
    assert response.values(b"X-Why") == [b"because"]
    assert response.values(b"Connection") == [b"close"]


def test_handshake_with_a_refused_token(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """A handshake that gets 401 is repeated with another token, as any request (R93)."""

    def answer(received: Received, sock: socket.socket) -> bool:
        if provider.tokens[0].encode() in received.head:
            sock.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            return True
        return echo(received, sock)

    upstream.answer = answer
    proxy = launch(upstream, f"oauth.refresh.min_interval={MIN_INTERVAL}")
    until(lambda: proxy.token_age > MIN_INTERVAL)
    with proxy.connect() as client:
        client.send(HANDSHAKE + b"hello")
        response = client.response()
        assert response.status == 101
        assert response.values(b"Proxy-Status") == [b"thg-proxy; received-status=401"]
        assert client.receive(5) == b"hello"


@pytest.mark.parametrize(
    "method, fields, body",
    [
        (b"GET", (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"), b""),
        (b"POST", (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), b"body"),
        (b"GET", (b"Connection: Upgrade", b"Upgrade: TLS/1.2"), b""),
        (b"GET", (b"Connection: keep-alive", b"Upgrade: websocket"), b""),
    ],
)
def test_other_upgrades(
    proxy: Proxy, upstream: Upstream, method: bytes, fields: tuple[bytes, ...], body: bytes
) -> None:
    """Any other upgrade is dropped, and the connection goes on with the next request (R48, R59)."""
    with proxy.connect() as client:
        client.send(request(method, b"/a", *fields, body=body))
        assert client.response().body == b"ok"
        assert client.get(b"/b").body == b"ok"

    first, second = upstream.requests
    assert (first.body, second.target) == (body, b"/b")
    assert first.values(b"Upgrade") == first.values(b"Connection") == first.values(b"HTTP2-Settings") == []


@pytest.mark.parametrize(
    "sent",
    [
        request(b"POST", b"/a", *WEBSOCKET, *KEY),
        request(b"POST", b"/a", *WEBSOCKET, *KEY, body=b"body"),
        request(b"GET", b"/a", *WEBSOCKET, *KEY, body=b"body"),
        request(b"GET", b"/a", *WEBSOCKET, *KEY, b"Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n\r\n",
        request(b"GET", b"/a", *WEBSOCKET, b"Upgrade: h2c", *KEY),
        request(b"GET", b"/a", *WEBSOCKET, *KEY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["POST", "POST with a body", "GET with a body", "GET with chunks", "two protocols", "HTTP/1.0"],
)
@pytest.mark.parametrize("in_one_piece", [True, False])
def test_what_only_looks_like_a_handshake(proxy: Proxy, upstream: Upstream, sent: bytes, *, in_one_piece: bool) -> None:
    """It is a request without an upgrade and the last on its connection: nothing behind it is one (R30, R59)."""
    smuggled = request(b"GET", b"/smuggled")
    head, empty_line, body = sent.partition(b"\r\n\r\n")
    pieces = [sent + smuggled] if in_one_piece else [head + empty_line, body, smuggled]
    with proxy.connect() as client:
        client.send(pieces[0])
        if pieces[1:]:
            until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 1 or upstream.requests)
        for piece in pieces[1:]:
            client.send(piece)
        response = client.response()
        assert client.rest() == b""

    assert response.status == 200
    (received,) = upstream.requests
    assert received.values(b"Upgrade") == []


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket, h2c", b"TLS/1.2"])
def test_switch_to_something_else(proxy: Proxy, upstream: Upstream, protocol: bytes) -> None:
    """A 101 to a protocol that was not asked for is a broken upstream, and no tunnel (R59, F39, RFC 9110 §7.8)."""
    upstream.answer = SWITCHING.replace(b"websocket", protocol)
    with proxy.connect() as client:
        client.send(HANDSHAKE)
        response = client.response()
        assert client.is_closed

    assert response.status == 502
    assert response.values(b"Proxy-Status") == [b"thg-proxy; error=http_protocol_error"]


@pytest.mark.parametrize("answer", [SWITCHING, SWITCHING.replace(b"websocket", b"h2c")])
def test_unasked_switch(proxy: Proxy, upstream: Upstream, answer: bytes) -> None:
    """A 101 that nobody asked for is a broken upstream, and its connection is not used again (R59, F39)."""
    upstream.answer = answer
    with proxy.connect() as client:
        response = client.get()
        upstream.answer = OK
        assert client.get(b"/b").body == b"ok"

    assert response.status == 502
    assert response.values(b"Proxy-Status") == [b"thg-proxy; error=http_protocol_error"]
    assert upstream.connections == 2


def test_drain(launch: Launcher, upstream: Upstream) -> None:
    """A stop lets requests end first, with tunnels working beside them, and closes the tunnels last (R162)."""
    release = threading.Event()

    def answer(received: Received, sock: socket.socket) -> bool:
        if received.target == b"/socket":
            return echo(received, sock)
        release.wait(TIMEOUT)
        sock.sendall(OK)
        return True

    upstream.answer = answer
    proxy = launch(upstream)
    with proxy.connect() as tunnel, proxy.connect() as client:
        tunnel.send(HANDSHAKE)
        assert tunnel.response().status == 101
        client.send(request(b"GET", b"/a"))
        upstream.wait_for(2)
        proxy.process.send_signal(signal.SIGTERM)
        until(lambda: proxy.log_lines("stopping"))
        tunnel.send(b"still here")
        assert tunnel.receive(10) == b"still here"
        release.set()
        assert client.response().body == b"ok"
        assert tunnel.rest() == b""
        assert proxy.process.wait(TIMEOUT) == 0


@contextmanager
def websocket_api(handle: Callable[[ServerConnection], None]) -> Iterator[str]:
    """A WebSocket server of another make; gives its URL for `upstream.url`."""
    with serve(handle, "127.0.0.1", 0, max_size=None, subprotocols=[CHAT]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(TIMEOUT)


def test_a_real_client_and_server(launch: Launcher) -> None:
    """Large compressed frames, fragments, pings, a subprotocol and a close code pass between two real peers (R59)."""

    def handle(server: ServerConnection) -> None:
        assert server.request is not None
        assert server.request.headers["Authorization"].startswith("Bearer ey")
        for message in server:
            server.send(message)
            if message == "bye":
                server.close(4001, "so long")

    frame = PIECE * 10
    with websocket_api(handle) as url:
        proxy = launch(url)
        with connect(f"ws://127.0.0.1:{proxy.port}/chat", max_size=None, subprotocols=[CHAT]) as client:
            assert client.subprotocol == "chat"
            client.send(frame)
            assert client.recv(TIMEOUT) == frame
            client.send(iter(["frag", "ments"]))
            assert client.recv(TIMEOUT) == "fragments"
            assert client.ping().wait(TIMEOUT)
            client.send("bye")
            assert client.recv(TIMEOUT) == "bye"
            with pytest.raises(ConnectionClosedError) as closed:
                client.recv(TIMEOUT)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "so long")


def test_a_program_can_connect(proxy: Proxy, upstream: Upstream) -> None:
    """The WebSocket of Node.js says `Sec-Fetch-Mode: websocket`, and no Origin: no browser does that (R136)."""
    upstream.answer = echo
    with proxy.connect() as client:
        client.send(request(b"GET", b"/socket", *WEBSOCKET, *KEY, b"Sec-Fetch-Mode: websocket"))
        assert client.response().status == 101


def test_a_page_can_not_connect(launch: Launcher) -> None:
    """A handshake from a page is refused before the upstream hears of it: it would carry our token (R135)."""
    with websocket_api(lambda server: server.close()) as url:
        proxy = launch(url)
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{proxy.port}/chat", origin=Origin("https://evil.example"))

    assert refused.value.response.status_code == 403
    assert proxy.metric("thg_proxy_upstream_connects_total", result="ok") == 0
