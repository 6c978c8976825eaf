"""The end of a proxy at every moment: with clients on it, before it has a token, and while it fetches another.

Each is that of one process, and of several that serve one port.
"""

import json
import signal
import socket
import sys
import threading
from contextlib import suppress
from http.client import HTTPException

import pytest

from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo import faults
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, until
from tests.behaviour.test_process import refuses
from tests.peers import TIMEOUT, BodyCut, Client, Received, Upstream, request

STOPS = [signal.SIGTERM, signal.SIGINT]

pytestmark = pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=pytest.mark.skipif(sys.platform != "linux", reason="needs SO_REUSEPORT"))]
)


def is_stopping(proxy: Proxy) -> bool:
    code, body = proxy.admin("/readyz")
    return code == 503 and json.loads(body)["status"] == "stopping"


def test_delay(launch: Launcher, upstream: Upstream, workers: int) -> None:
    """For shutdown.delay /readyz says 503, and who has not heard of it yet is served as before (R162)."""
    proxy = launch(upstream, f"workers={workers}", "shutdown.delay=1h")
    with proxy.connect() as kept:
        kept.get()
        proxy.process.send_signal(signal.SIGTERM)
        until(lambda: is_stopping(proxy))
        assert proxy.is_live
        for client in (kept, proxy.connect()):
            response = client.get()
            assert (response.status, response.values(b"Connection")) == (200, [])
            client.sock.close()

    proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.wait(TIMEOUT) == 0


def test_after_the_delay(launch: Launcher, upstream: Upstream, workers: int) -> None:
    """Then nobody can connect; a kept connection gets its answer with `Connection: close` (R162, RFC 9112 §9.6)."""
    release = threading.Event()

    def slow(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        release.wait(TIMEOUT)
        sock.sendall(b"cd")
        return True

    proxy = launch(upstream, f"workers={workers}", "shutdown.delay=300ms")
    with proxy.connect() as kept, proxy.connect() as busy:
        kept.get()
        upstream.answer = slow
        busy.send(request(b"GET", b"/slow"))
        upstream.wait_for(2)
        proxy.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(proxy.port))
        release.set()
        response = kept.get()
        assert (response.status, response.values(b"Connection")) == (200, [b"close"])
        assert kept.is_closed
        assert busy.response().body == b"abcd"
    assert proxy.process.wait(TIMEOUT) == 0


class Callers:
    """Ten clients that keep their connection and ten that open one for each request: 200 requests a second together.

    They go on until they can't connect, or, those that open one for each, until they are sent `away`. `failures`:
    whatever became of a request that has no whole answer.
    """

    PACE = 0.1  # seconds between an answer and the next request

    def __init__(self, port: int) -> None:
        self._port = port
        self._never = threading.Event()
        self.away = threading.Event()
        self.answers: list[bytes] = []
        self.failures: list[str] = []
        work = [self._keep, self._reconnect] * 10
        self._workers = [threading.Thread(target=each, daemon=True) for each in work]
        for worker in self._workers:
            worker.start()

    def join(self) -> None:
        for worker in self._workers:
            worker.join(TIMEOUT)

    def _keep(self) -> None:
        with suppress(ConnectionRefusedError):
            while True:
                with Client(self._port) as client:
                    while self._exchange(client):
                        self._never.wait(self.PACE)

    def _reconnect(self) -> None:
        with suppress(ConnectionRefusedError):
            while not self.away.wait(self.PACE):
                with Client(self._port) as client:
                    self._exchange(client)

    def _exchange(self, client: Client) -> bool:
        """One request; False where its connection can't be used for another."""
        try:
            response = client.get()
        except (OSError, BodyCut) as exc:
            self.failures.append(repr(exc))
            return False
        if not response.head.startswith(b"HTTP/1.1 200 "):
            self.failures.append(repr(response))
            return False
        self.answers.append(response.body)
        return response.values(b"Connection") != [b"close"]


@pytest.mark.parametrize("number", STOPS)
def test_no_request_is_lost(launch: Launcher, upstream: Upstream, workers: int, number: signal.Signals) -> None:
    """At 200 requests a second a stop costs none of them its answer, until nobody can connect (R162, F44)."""
    proxy = launch(upstream, f"workers={workers}", "shutdown.delay=2s")
    callers = Callers(proxy.port)
    upstream.wait_for(100)
    proxy.process.send_signal(number)
    until(lambda: is_stopping(proxy))
    upstream.wait_for(len(upstream.requests) + 100)
    if sys.platform != "linux":
        # Only Linux can close a listener without a reset for whoever connects in that very moment.
        callers.away.set()
    callers.join()

    assert proxy.process.wait(TIMEOUT) == 0
    assert callers.failures == []
    assert callers.answers == [b"ok"] * len(upstream.requests)


@pytest.mark.parametrize("number", STOPS)
def test_while_a_token_is_fetched(
    launch: Launcher, upstream: Upstream, workers: int, provider: DemoProvider, number: signal.Signals
) -> None:
    """A stop waits for no token: a fetch that hangs ends with the proxy (R162, F44)."""
    proxy = launch(upstream, f"workers={workers}", "oauth.timeout=1h", f"oauth.refresh.min_interval={MIN_INTERVAL}")
    until(lambda: proxy.token_age > MIN_INTERVAL)
    provider.faults.token = faults.hang
    seen = len(provider.received)

    def ask_for_a_token() -> None:
        with suppress(OSError, HTTPException):  # the proxy ends without an answer
            proxy.admin("/refresh", "POST")

    operator = threading.Thread(target=ask_for_a_token, daemon=True)
    operator.start()
    until(lambda: len(provider.received) > seen)
    proxy.process.send_signal(number)

    assert proxy.process.wait(TIMEOUT) == 0
    operator.join(TIMEOUT)


@pytest.mark.parametrize("number", STOPS)
def test_cold_start(
    launch: Launcher, upstream: Upstream, workers: int, provider: DemoProvider, number: signal.Signals
) -> None:
    """A request that waits for the first token gets an answer, or its end, within shutdown.grace (R162, F44)."""
    provider.faults.token = faults.hang
    proxy = launch(
        upstream, f"workers={workers}", "oauth.timeout=1h", "oauth.refresh.wait=1h", "shutdown.grace=300ms", ready=False
    )
    until(lambda: len(provider.received) == 1)
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a"))
        until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 1)
        proxy.process.send_signal(number)
        assert proxy.process.wait(TIMEOUT) == 0
        client.rest()
    assert upstream.requests == []


@pytest.mark.parametrize("number", STOPS)
def test_second_signal(launch: Launcher, upstream: Upstream, workers: int, number: signal.Signals) -> None:
    """Asked twice, it waits neither for the delay nor for a request; the exit is clean (R162, F44)."""
    silence = threading.Event()
    upstream.answer = lambda _received, _sock: silence.wait(TIMEOUT)
    proxy = launch(upstream, f"workers={workers}", "shutdown.delay=1h", "shutdown.grace=1h")
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a"))
        upstream.wait_for(1)
        proxy.process.send_signal(number)
        until(lambda: is_stopping(proxy))
        proxy.process.send_signal(number)
        assert proxy.process.wait(TIMEOUT) == 0
        assert client.rest() == b""
    silence.set()
