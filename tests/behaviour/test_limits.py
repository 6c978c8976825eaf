"""Whatever one client does, the process stays small, and the others are served."""

import itertools
import json
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import OK, TIMEOUT, Client, Received, Upstream, request

PIECE = bytes(1_000_000)
MEMORY = 16 << 20  # bytes that the process may grow by, whatever a client sends


def resident(proxy: Proxy) -> float:
    return proxy.metric("process_resident_memory_bytes")


def in_background(client: Client, sent: bytes) -> threading.Thread:
    """Sends as much as the proxy takes; ends with the connection."""

    def send() -> None:
        try:
            client.send(sent)
        except OSError:
            return

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@contextmanager
def descriptors(limit: int) -> Iterator[None]:
    """For the processes that are started meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def limit_descriptors(proxy: Proxy, limit: int) -> None:
    """While it runs: at its start it takes as many as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (limit, hard))


def test_dribbled_heads(launch: Launcher, upstream: Upstream) -> None:
    """Heads that come byte by byte are 408 in time, however many there are, and others are served (R155, F42)."""
    proxy = launch(upstream, "listen.header_timeout=1s")
    stopped = threading.Event()
    clients = [proxy.connect() for _ in range(50)]

    def dribble() -> None:
        for byte in itertools.cycle(b"GET /a HTTP/1.1\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"):
            if stopped.wait(0.05):  # the pace of the attack
                return
            for client in clients:
                try:
                    client.send(bytes([byte]))
                except OSError:
                    stopped.set()

    attack = threading.Thread(target=dribble)
    attack.start()
    with proxy.connect() as other:
        assert other.get().status == 200
        assert {client.head()[:13] for client in clients} == {b"HTTP/1.1 408 "}
        assert other.get().status == 200
    stopped.set()
    attack.join(TIMEOUT)
    for client in clients:
        client.sock.close()

    assert len(upstream.requests) == 2


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
def test_stalled_upload(launch: Launcher, upstream: Upstream, framing: bytes) -> None:
    """A body that stops coming is 408 after upstream.idle_timeout, and the API sees that it was cut (R156, F42)."""
    proxy = launch(upstream, "upstream.idle_timeout=300ms")
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", framing) + b"1\r\nx\r\n")
        response = client.response()
        assert client.is_closed

    assert (response.status, json.loads(response.body)["code"]) == (408, "request_timeout")
    assert upstream.cut.wait(TIMEOUT)
    assert upstream.requests == []


def test_pipelined_flood(proxy: Proxy, upstream: Upstream) -> None:
    """Ten thousand requests in one piece are answered in order; while nobody reads, few are even sent (R26)."""
    body = b"z" * 10_000

    def answer(received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nX-T: %b\r\nContent-Length: 10000\r\n\r\n%b" % (received.target, body))
        return True

    upstream.answer = answer
    before = resident(proxy)
    with proxy.connect() as client:
        sender = in_background(client, b"".join(request(b"GET", b"/%d" % number) for number in range(10_000)))
        progress = Standstill(lambda: len(upstream.requests))
        until(lambda: progress.reached)
        assert len(upstream.requests) < 2000
        assert resident(proxy) - before < MEMORY
        for number in range(10_000):
            assert client.response().values(b"X-T") == [b"/%d" % number]
        sender.join(TIMEOUT)


class Standstill:
    """A count that has begun, and has not changed in fifty looks at it."""

    def __init__(self, count: Callable[[], float]) -> None:
        self._count = count
        self._seen = 0.0
        self._unchanged = 0

    @property
    def reached(self) -> bool:
        count = self._count()
        self._unchanged = self._unchanged + 1 if count and count == self._seen else 0
        self._seen = count
        return self._unchanged > 50


def test_refusals_that_nobody_reads(proxy: Proxy, upstream: Upstream) -> None:
    """Answers of the proxy's own do not pile up either (R26)."""
    before = resident(proxy)

    def refused() -> float:
        return proxy.metric("thg_proxy_errors_total", code="host_not_allowed")

    with proxy.connect() as client:
        sender = in_background(client, request(b"GET", b"/a", host=b"evil.example") * 200_000)
        progress = Standstill(refused)
        until(lambda: progress.reached)
        assert refused() < 100_000
        assert resident(proxy) - before < MEMORY
        with proxy.connect() as other:
            assert other.get().status == 200
        client.sock.shutdown(socket.SHUT_RDWR)
        sender.join(TIMEOUT)


def test_many_requests_at_once(launch: Launcher, upstream: Upstream) -> None:
    """Of two hundred slow requests the limit is served; the others get 503 at once, and afterwards all (R157, F43)."""
    release = threading.Event()

    def answer(_received: Received, sock: socket.socket) -> bool:
        release.wait(TIMEOUT)
        sock.sendall(OK)
        return True

    upstream.answer = answer
    proxy = launch(upstream, "limits.max_in_flight=50")
    with ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(200)]
        for client in clients:
            client.send(request(b"GET", b"/a"))
        until(lambda: proxy.metric("thg_proxy_errors_total", code="overloaded") == 150)
        assert len(upstream.wait_for(50)) == 50
        release.set()
        responses = [client.response() for client in clients]
        assert sorted(response.status for response in responses) == [200] * 50 + [503] * 150
        refused = [response for response in responses if response.status == 503]
        assert all(response.values(b"Retry-After") == [b"1"] for response in refused)
        assert all(
            response.values(b"Proxy-Status") == [b"thg-proxy; error=connection_limit_reached"] for response in refused
        )
        for client in clients:
            assert client.get().status == 200


def test_tiny_chunks(proxy: Proxy, upstream: Upstream) -> None:
    """A million chunks of a byte cost seconds, not minutes, and others are served meanwhile (R159)."""
    before = resident(proxy)
    with proxy.connect() as client, proxy.connect() as other:
        sender = in_background(
            client, request(b"POST", b"/a", b"Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n"
        )
        served = 0
        while not any(received.target == b"/a" for received in upstream.requests):
            assert other.get(b"/other").status == 200
            served += 1
        assert client.response().status == 200
        sender.join(TIMEOUT)

    assert served > 1
    assert max(len(received.body) for received in upstream.requests) == 1_000_000
    assert proxy.metric("process_cpu_seconds_total") < 10
    assert resident(proxy) - before < MEMORY


def test_overflowing_chunks(launch: Launcher, upstream: Upstream) -> None:
    """A body that grows over limits.max_body is cut upstream, however small its chunks are (R158)."""
    proxy = launch(upstream, "limits.max_body=100KiB")
    with proxy.connect() as client:
        in_background(client, request(b"POST", b"/a", b"Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 200_000).join()
        response = client.response()

    assert (response.status, json.loads(response.body)["code"]) == (413, "body_too_large")
    assert response.values(b"Connection") == [b"close"]
    assert upstream.cut.wait(TIMEOUT)
    assert upstream.requests == []


@pytest.mark.parametrize(
    "head, status",
    [
        (b"GET /a HTTP/1.1\r\nHost: localhost\r\nA B: c\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /a HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (request(b"POST", b"/a", b"Transfer-Encoding: chunked") + b"nonsense\r\n", 400),
        (request(b"POST", b"/a", b"Content-Length: 9000000", host=b"evil.example"), 421),
    ],
    ids=["no head", "a large head", "many fields", "no chunk", "an unwanted body"],
)
def test_refusing_who_goes_on_sending(proxy: Proxy, head: bytes, status: int) -> None:
    """A client that is refused while it sends, and reads later, still gets the answer, and the end (R27, R30)."""
    with proxy.connect() as client:
        client.send(head + PIECE)
        until(lambda: proxy.metric("thg_proxy_request_duration_seconds_count") == 1)
        for _ in range(8):
            client.send(PIECE)
        response = client.response()
        assert client.is_closed

    assert response.status == status
    assert response.values(b"Connection") == [b"close"]


def test_descriptors(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """With 64 file descriptors and 200 clients the first are served and the token is renewed; one line tells of it, and
    the others are served when they go (R160, F48).
    """
    provider.lifetime = 4
    proxy = launch(upstream)
    limit_descriptors(proxy, 64)
    with ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(200)]
        assert clients[0].get().status == 200
        (line,) = until(lambda: proxy.log_lines("accept_paused"))
        assert line["level"] == "warning"
        minted = provider.minted
        until(lambda: provider.minted >= minted + 2)
        assert clients[0].get().status == 200
        assert proxy.is_ready
        last = clients[-1]
        last.send(request(b"GET", b"/a"))
        for client in clients[:-1]:
            client.sock.close()
        assert last.response().status == 200

    assert len(proxy.log_lines("accept_paused")) == 1
    assert proxy.metric("process_cpu_seconds_total") < 10
    until(lambda: proxy.metric("process_open_fds") < 30)


def test_many_operators(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """Connections to the admin port leave descriptors for requests and for the token. When there are as many as there
    may be, the idle ones make way for a probe (R160, F48).
    """
    provider.lifetime = 4
    proxy = launch(upstream)
    limit_descriptors(proxy, 64)
    with ExitStack() as stack:
        idle = [stack.enter_context(Client(proxy.admin_port)) for _ in range(20)]
        until(lambda: proxy.log_lines("accept_paused"))
        clients = [stack.enter_context(proxy.connect()) for _ in range(200)]
        assert clients[0].get().status == 200
        minted = provider.minted
        until(lambda: provider.minted >= minted + 2)
        assert clients[0].get().status == 200
        assert proxy.is_ready
        assert idle[0].is_closed


def test_the_limit_of_descriptors_is_raised(launch: Launcher, upstream: Upstream) -> None:
    """Who starts the proxy with few descriptors, as many do by default, need not know of it (R160)."""
    with descriptors(256):
        proxy = launch(upstream)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    assert proxy.metric("process_max_fds") == min(hard, 1 << 16)
