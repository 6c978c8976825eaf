"""What is sent twice, and what is not: after a 401, and on a kept connection that turns out to be closed."""

import socket
import threading
import time
from collections.abc import Callable

import pytest

from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo import faults
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, token_calls, until
from tests.peers import OK, TIMEOUT, Received, Upstream, request

CHALLENGE = b'Bearer realm="api",\terror="invalid_token", error_description="a  b"'
UNAUTHORIZED = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: " + CHALLENGE + b"\r\nContent-Length: 7\r\n\r\nexpired"
FIELD = b"thg-proxy; received-status=401"


def refusing(
    provider: DemoProvider, refusal: bytes = UNAUTHORIZED, *, at_once: int = 1
) -> Callable[[Received, socket.socket], bool]:
    """An API that does not take the provider's first token, and says so when it has come in so many requests."""
    together = threading.Barrier(at_once)

    def answer(received: Received, sock: socket.socket) -> bool:
        is_refused = provider.tokens[0].encode() in received.head
        if is_refused:
            together.wait(TIMEOUT)
        sock.sendall(refusal if is_refused else OK)
        return True

    return answer


@pytest.fixture
def proxy(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> Proxy:
    """A proxy whose token the API refuses, and which may fetch another at once."""
    upstream.answer = refusing(provider)
    proxy = launch(upstream, f"oauth.refresh.min_interval={MIN_INTERVAL}")
    until(lambda: proxy.token_age > MIN_INTERVAL)
    return proxy


@pytest.mark.parametrize("challenged", [True, False])
def test_refused_token(proxy: Proxy, upstream: Upstream, provider: DemoProvider, *, challenged: bool) -> None:
    """A 401 costs one token request, and the request is sent again with what that gave (R93, R97, F34)."""
    if not challenged:
        upstream.answer = refusing(provider, b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")
    with proxy.connect() as client:
        response = client.get(b"/a?b", b"X-A: 1")
        after = client.get(b"/after")

    assert (response.status, response.body) == (200, b"ok")
    assert response.values(b"Proxy-Status") == [FIELD]
    assert (after.status, after.values(b"Proxy-Status")) == (200, [])
    assert token_calls(provider) == 2
    assert [received.target for received in upstream.requests] == [b"/a?b", b"/a?b", b"/after"]
    bearers = [received.values(b"Authorization") for received in upstream.requests[:2]]
    assert bearers == [[b"Bearer " + token.encode()] for token in provider.tokens]
    (line,) = until(lambda: proxy.log_lines("request"))
    assert (line["status"], line["replayed"]) == (200, True)
    assert proxy.metric("thg_proxy_replays_total", result="ok") == 1


def test_refused_token_of_many(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> None:
    """A hundred requests that are refused at once share one token request (R93)."""
    upstream.answer = refusing(provider, at_once=100)
    clients = [proxy.connect() for _ in range(100)]
    for client in clients:
        client.send(request(b"GET", b"/a"))
    assert [client.response().status for client in clients] == [200] * 100
    for client in clients:
        client.sock.close()

    assert token_calls(provider) == 2
    assert len(upstream.requests) == 200


@pytest.mark.parametrize("method, chunked", [(b"POST", True), (b"POST", False), (b"PATCH", False), (b"DELETE", False)])
def test_small_body(proxy: Proxy, upstream: Upstream, method: bytes, *, chunked: bool) -> None:
    """A 401 comes before anything is done: a request with a small body is sent again whole, by any method (R94)."""
    body = b"x" * 60_000
    framing = (b"Transfer-Encoding: chunked",) if chunked else ()
    sent = b"ea60\r\n" + body + b"\r\n0\r\n\r\n" if chunked else body
    with proxy.connect() as client:
        client.send(request(method, b"/a", *framing, body=sent))
        assert client.response().status == 200

    assert [received.body for received in upstream.requests] == [body, body]


@pytest.mark.parametrize("chunked", [True, False])
def test_large_body(proxy: Proxy, upstream: Upstream, provider: DemoProvider, *, chunked: bool) -> None:
    """A body over limits.replay_body is sent once: the 401 is the client's, byte for byte, and its next try goes
    through (R63, R94).
    """
    body = b"x" * 70_000
    framing = (b"Transfer-Encoding: chunked",) if chunked else ()
    sent = b"11170\r\n" + body + b"\r\n0\r\n\r\n" if chunked else body
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", *framing, body=sent))
        response = client.response()
        until(lambda: token_calls(provider) == 2 and proxy.status()["token"]["generation"] == 2)
        client.send(request(b"POST", b"/a", *framing, body=sent))
        assert client.response().status == 200

    assert (response.status, response.body) == (401, b"expired")
    assert response.values(b"WWW-Authenticate") == [CHALLENGE]
    assert response.values(b"Proxy-Status") == []
    assert [received.body for received in upstream.requests] == [body, body]


def test_401_during_the_upload(proxy: Proxy, upstream: Upstream) -> None:
    """A 401 to an upload that has not ended is the client's, whatever the body's size (R94, F33)."""

    def refuse(_head: bytes, sock: socket.socket) -> bool:
        sock.sendall(UNAUTHORIZED)
        return True

    upstream.when_head = refuse
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", b"Content-Length: 10") + b"x")
        response = client.response()

    assert (response.status, response.body) == (401, b"expired")
    assert response.values(b"WWW-Authenticate") == [CHALLENGE]
    assert response.values(b"Connection") == [b"close"]


def test_nothing_pleases(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> None:
    """An API that refuses every token: two tries a request at most, a token request an interval at most, and its 401
    is the answer (R95, R97, F12, F34).
    """
    upstream.answer = UNAUTHORIZED
    began = time.monotonic()
    with proxy.connect() as client:
        first = client.get()
        assert len(upstream.requests) == 2
        others = [client.get() for _ in range(50)]

    assert {response.status for response in (first, *others)} == {401}
    assert all(response.values(b"WWW-Authenticate") == [CHALLENGE] for response in (first, *others))
    assert first.values(b"Proxy-Status") == [FIELD]
    assert len(upstream.requests) <= 2 * 51
    assert token_calls(provider) <= 2 + (time.monotonic() - began) / MIN_INTERVAL
    until(lambda: proxy.metric("thg_proxy_replays_total", result="rejected") >= 1)
    assert proxy.metric("thg_proxy_replays_total", result="ok") == 0


def test_interval(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """Within oauth.refresh.min_interval of the last token request a 401 costs none, and is the answer at once (R97)."""
    upstream.answer = UNAUTHORIZED
    proxy = launch(upstream, "oauth.refresh.min_interval=1h")
    with proxy.connect() as client:
        assert {client.get().status for _ in range(100)} == {401}

    assert token_calls(provider) == 1
    assert len(upstream.requests) == 100


OTHER_REFUSALS = [
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 403 Forbidden\r\nWWW-Authenticate: Bearer error="insufficient_scope"\r\nContent-Length: 0\r\n\r\n',
    b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer error="insufficient_scope"\r\nContent-Length: 0\r\n\r\n',
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 407 Odd\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
]


def test_other_refusals(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> None:
    """No other answer says that the token is bad: it is relayed, nothing is sent or fetched again (R94, R96, F35)."""
    with proxy.connect() as client:
        for answer in OTHER_REFUSALS * 10:
            upstream.answer = answer
            response = client.get()
            assert response.head.split(b"\r\n")[0] == answer.split(b"\r\n")[0]
            assert (response.values(b"Retry-After") == [b"7"]) == (b"Retry-After" in answer)

    assert len(upstream.requests) == 10 * len(OTHER_REFUSALS)
    assert token_calls(provider) == 1


def test_no_other_token(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> None:
    """Where the provider gives no other token, the API's 401 is the answer (R95)."""
    provider.faults.token = faults.answer(500)
    with proxy.connect() as client:
        response = client.get()

    assert (response.status, response.body) == (401, b"expired")
    assert response.values(b"WWW-Authenticate") == [CHALLENGE]
    assert response.values(b"Proxy-Status") == []
    assert len(upstream.requests) == 1


def test_head_of_a_refused_token(proxy: Proxy) -> None:
    """A replayed HEAD leaves its connection usable (R56, R93)."""
    with proxy.connect() as client:
        client.send(request(b"HEAD", b"/a"))
        assert client.response(to_head=True).status == 200
        assert client.get().body == b"ok"


def dropping(*served: bytes) -> Callable[[Received, socket.socket], bool]:
    """An API that answers these targets, and closes its connection under any other request."""

    def answer(received: Received, sock: socket.socket) -> bool:
        if received.target not in served:
            return False
        sock.sendall(OK)
        return True

    return answer


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
def test_stale_connection(launch: Launcher, upstream: Upstream, method: bytes) -> None:
    """An idempotent request whose kept connection closes under it goes on by another, unnoticed (R126, F29)."""

    def answer(received: Received, sock: socket.socket) -> bool:
        if received.connection == 1 and received.target == b"/b":
            return False
        sock.sendall(OK)
        return True

    upstream.answer = answer
    proxy = launch(upstream)
    with proxy.connect() as client:
        assert client.get(b"/a").status == 200
        client.send(request(method, b"/b", body=b"body" if method == b"PUT" else b""))
        assert client.response(to_head=method == b"HEAD").status == 200

    assert [(received.target, received.connection) for received in upstream.requests] == [
        (b"/a", 1),
        (b"/b", 1),
        (b"/b", 2),
    ]
    assert upstream.requests[1].body == upstream.requests[2].body


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"PROPFIND"])
def test_stale_connection_of_a_post(launch: Launcher, upstream: Upstream, method: bytes) -> None:
    """What may have changed something is sent once: 502 (R94, R126, F29)."""
    upstream.answer = dropping(b"/a")
    proxy = launch(upstream)
    with proxy.connect() as client:
        assert client.get(b"/a").status == 200
        client.send(request(method, b"/b", body=b"body"))
        response = client.response()

    assert response.status == 502
    assert response.values(b"Proxy-Status") == [b"thg-proxy; error=http_response_incomplete"]
    assert [received.target for received in upstream.requests] == [b"/a", b"/b"]


def test_fresh_connection(launch: Launcher, upstream: Upstream) -> None:
    """On a connection of its own a request is sent once, by whatever method (R94, R126)."""
    upstream.answer = dropping()
    proxy = launch(upstream)
    with proxy.connect() as client:
        assert client.get(b"/b").status == 502

    assert len(upstream.requests) == 1


def test_all_connections_stale(launch: Launcher, upstream: Upstream) -> None:
    """However many kept connections are stale, a request is tried on one of them and on one that is new (R126)."""
    together = threading.Barrier(5)

    def answer(received: Received, sock: socket.socket) -> bool:
        if received.target != b"/a":
            return False
        together.wait(TIMEOUT)
        sock.sendall(OK)
        return True

    upstream.answer = answer
    proxy = launch(upstream)
    clients = [proxy.connect() for _ in range(5)]
    for client in clients:
        client.send(request(b"GET", b"/a"))
    assert [client.response().status for client in clients] == [200] * 5
    assert clients[0].get(b"/b").status == 502
    for client in clients:
        client.sock.close()

    assert [received.target for received in upstream.requests[5:]] == [b"/b", b"/b"]
    assert upstream.connections == 6


def test_closed_while_idle(launch: Launcher, upstream: Upstream) -> None:
    """A kept connection that the API closes while nobody uses it is out of the pool (R126)."""

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(OK)
        return False

    upstream.answer = answer
    proxy = launch(upstream)
    with proxy.connect() as client:
        for number in range(1, 6):
            client.send(request(b"POST", b"/a", body=b"body"))
            assert client.response().status == 200
            assert len(upstream.requests) == number
            until(lambda: proxy.metric("thg_proxy_upstream_connections", state="idle") == 0)
