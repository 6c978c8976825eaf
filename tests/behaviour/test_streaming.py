"""Bodies pass as they come: at once, in any size, and in little memory."""

import itertools
import socket
import ssl
import threading
from typing import cast

import pytest

from proxy.demo.certificates import CertificateAuthority
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import OK, TIMEOUT, Client, Reader, Received, Upstream, flood, request

PIECE = bytes(range(256)) * 4096
PIECES = 64  # more than all the sockets on the way take in
WHOLE = PIECE * PIECES
EVENTS = [b"data: %d\n\n" % number for number in range(20)]
MEMORY = 16 << 20  # bytes that the process may grow by, whatever passes


def resident(proxy: Proxy) -> float:
    return proxy.metric("process_resident_memory_bytes")


def chunks(body: bytes) -> bytes:
    """The body in chunks of many sizes."""
    sizes = itertools.cycle((1, 100, 70_000, len(PIECE)))
    pieces: list[bytes] = []
    at = 0
    while at < len(body):
        piece = body[at : at + next(sizes)]
        pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at += len(piece)
    return b"".join(pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Connection: close"])
def test_events(proxy: Proxy, upstream: Upstream, framing: bytes) -> None:
    """Each event of a stream is with the client before the next one is made (R123)."""
    seen = threading.Semaphore(0)
    chunked = framing.startswith(b"Transfer")

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n\r\n")
        for event in EVENTS:
            sock.sendall(b"%x\r\n%b\r\n" % (len(event), event) if chunked else event)
            assert seen.acquire(timeout=TIMEOUT)
        sock.sendall(b"0\r\n\r\n" if chunked else b"")
        return chunked

    upstream.answer = answer
    with proxy.connect() as client:
        client.send(request(b"GET", b"/events", b"Accept: text/event-stream"))
        assert b"\r\nContent-Type: text/event-stream\r\n" in client.head()
        for event in EVENTS:
            assert client.chunk() == event
            seen.release()
        assert client.chunk() == b""


def test_upload_as_it_is_made(proxy: Proxy, upstream: Upstream) -> None:
    """Each piece of an upload is with the API before the next one is made (R123)."""
    seen = threading.Semaphore(0)

    def take_body(reader: Reader, sock: socket.socket) -> bool:
        for event in EVENTS:
            assert reader.exactly(len(event)) == event
            seen.release()
        sock.sendall(OK)
        return True

    upstream.take_body = take_body
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", b"Content-Length: %d" % sum(map(len, EVENTS))))
        for event in EVENTS:
            client.send(event)
            assert seen.acquire(timeout=TIMEOUT)
        assert client.response().status == 200


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d" % len(WHOLE), b"Transfer-Encoding: chunked", b"Connection: close"]
)
def test_large_download(launch: Launcher, authority: CertificateAuthority, framing: bytes, *, tls: bool) -> None:
    """A large response waits for a slow client in little memory, and arrives whole (R122, R123)."""
    stalled = threading.Event()
    chunked = framing.startswith(b"Transfer")

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        flood(sock, chunks(WHOLE) if chunked else WHOLE, stalled)
        if tls:
            cast(ssl.SSLSocket, sock).unwrap()
        return False

    with Upstream(answer, tls=authority.server_context("localhost") if tls else None) as upstream:
        proxy = launch(upstream, *([f"upstream.tls.ca_file={authority.ca_file}"] if tls else []))
        before = resident(proxy)
        with proxy.connect() as client:
            client.send(request(b"GET", b"/a"))
            assert stalled.wait(TIMEOUT)
            assert resident(proxy) - before < MEMORY
            assert_whole(client, client.head())


def assert_whole(client: Client, head: bytes) -> None:
    if b"Transfer-Encoding: chunked" in head:
        body = b"".join(iter(client.chunk, b""))
        assert body == WHOLE
    else:
        assert all(client.receive(len(PIECE)) == PIECE for _ in range(PIECES))


@pytest.mark.parametrize("chunked", [False, True])
def test_large_upload(proxy: Proxy, upstream: Upstream, *, chunked: bool) -> None:
    """A large request waits for a slow API in little memory, and arrives whole (R123)."""
    stalled = threading.Event()

    def take_body(reader: Reader, sock: socket.socket) -> bool:
        stalled.wait(TIMEOUT)
        body = b"".join(iter(reader.chunk, b"")) if chunked else reader.exactly(len(WHOLE))
        assert body == WHOLE
        sock.sendall(OK)
        return True

    upstream.take_body = take_body
    before = resident(proxy)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(WHOLE)
    body = chunks(WHOLE) if chunked else WHOLE
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", framing))
        sender = threading.Thread(target=flood, args=(client.sock, body, stalled))
        sender.start()
        assert stalled.wait(TIMEOUT)
        assert resident(proxy) - before < MEMORY
        sender.join(TIMEOUT)
        assert client.response().status == 200

    until(lambda: proxy.metric("thg_proxy_request_bytes_total") == len(WHOLE))


def test_trailers_of_a_response(proxy: Proxy, upstream: Upstream) -> None:
    """The trailers of a response are dropped, and are no part of the body."""
    upstream.answer = (
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    with proxy.connect() as client:
        response = client.get()
        assert client.get().status == 200

    assert response.body == b"ok"
    assert response.values(b"Trailer") == response.values(b"X-Sum") == []


def test_trailers_of_a_request(proxy: Proxy, upstream: Upstream) -> None:
    """The trailers of a request are dropped, and never become fields of one (R12)."""
    trailers = b"0\r\nX-Sum: 1\r\nAuthorization: Bearer evil\r\nContent-Length: 10\r\n\r\n"
    with proxy.connect() as client:
        client.send(
            request(b"POST", b"/a", b"Trailer: X-Sum", b"Transfer-Encoding: chunked") + b"4\r\nbody\r\n" + trailers
        )
        assert client.response().status in (200, 400)
        client.send(request(b"GET", b"/b"))
        client.rest()

    for received in upstream.requests:
        assert b"evil" not in received.head
        assert received.values(b"X-Sum") == received.values(b"Trailer") == []
