"""What arrives at the API, and what comes back."""

import gzip
import hashlib
import socket

import pytest

from tests.behaviour.running import Launcher, Proxy
from tests.peers import OK, Client, Received, Upstream, request


def test_token_is_attached(proxy: Proxy, upstream: Upstream) -> None:
    """The main job: an unauthenticated request arrives with the provider's token."""
    with proxy.connect() as client:
        response = client.get(b"/v1/vehicles")

    assert (response.status, response.body) == (200, b"ok")
    (received,) = upstream.requests
    (authorization,) = received.values(b"Authorization")
    assert authorization.startswith(b"Bearer ey")


@pytest.mark.parametrize(
    "sent",
    [
        (b"Authorization: Bearer EVIL",),
        (b"authorization: Basic ZTpl", b"AUTHORIZATION: Bearer EVIL"),
        (b"Connection: Authorization", b"Authorization: Bearer EVIL"),
        (b"Proxy-Authorization: Basic ZTpl",),
    ],
)
def test_exactly_one_authorization(proxy: Proxy, upstream: Upstream, sent: tuple[bytes, ...]) -> None:
    """Whatever the client says of itself, the upstream sees one Authorization, and it is ours (R47, R65)."""
    with proxy.connect() as client:
        assert client.get(b"/a", *sent).status == 200

    (authorization,) = upstream.requests[0].values(b"Authorization")
    assert authorization.startswith(b"Bearer ey")
    assert upstream.requests[0].values(b"Proxy-Authorization") == []
    assert b"EVIL" not in upstream.requests[0].head


@pytest.mark.parametrize(
    "target",
    [
        b"/a%2Fb%2e%2e/%7ex?y=%2F+&z=%zz&&=&q=1;r=2",
        b"/a/../b/./c//d",
        b"//x//y",
        b"/a?",
        b"/?",
        b'/{}|^`\\"<>',
        b"/%E4%BD%A0?q=%",
        b"/;a=b;c",
        b"/a%00b%0d%0aX:1",
    ],
)
def test_target_bytes(proxy: Proxy, upstream: Upstream, target: bytes) -> None:
    """Path and query arrive byte for byte (R34, R36)."""
    with proxy.connect() as client:
        assert client.get(target).status == 200

    assert upstream.requests[0].target == target


def test_base_path(launch: Launcher, upstream: Upstream) -> None:
    """The path of upstream.url goes in front of the target, and no target climbs out of it (R35)."""
    proxy = launch(upstream.url + "/v1/")
    with proxy.connect() as client:
        assert client.get(b"/vehicles?x=1").status == 200
        refused = [
            client.get(path).status for path in (b"/../admin", b"/%2e%2e/admin", b"/..%2fadmin", b"/%252e%252e/")
        ]

    assert [received.target for received in upstream.requests] == [b"/v1/vehicles?x=1"]
    assert refused == [400] * 4


def test_host_is_the_upstreams(proxy: Proxy, upstream: Upstream) -> None:
    """The upstream sees its own authority as Host (R37)."""
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a", host=b"127.0.0.1:1"))
        assert client.response().status == 200

    assert upstream.requests[0].values(b"Host") == [b"localhost:%d" % upstream.port]


def test_request_fields(proxy: Proxy, upstream: Upstream) -> None:
    """End-to-end fields arrive as they were sent, in order; none is invented (R52, R53, R54)."""
    fields = [
        b"X-A: 1",
        b"x-b: caf\xe9",
        b"X-A: 2",
        b"x-a: 3",
        b'If-None-Match: W/"x"',
        b"Range: bytes=0-1",
        b"If-Range: Wed, 21 Oct 2015 07:28:00 GMT",
        b"Accept-Language: de",
        b"Cache-Control: no-cache",
    ]
    with proxy.connect() as client:
        assert client.get(b"/a", *fields).status == 200

    received = upstream.requests[0]
    own = [line for line in received.lines if line.split(b":")[0] in (b"Host", b"Authorization", b"Via")]
    assert [line for line in received.lines if line not in own] == fields
    assert len(own) == 3


def test_hop_by_hop_request_fields(proxy: Proxy, upstream: Upstream) -> None:
    """What belongs to the client's own connection stays there, with all that any Connection line names (R46, R48)."""
    with proxy.connect() as client:
        response = client.get(
            b"/a",
            b"Connection: ",
            b"Connection: X-Secret , keep-alive",
            b"connection: X-Other",
            b"X-Secret: 1",
            b"x-other: 2",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"TE: trailers",
            b"Trailer: X-Sum",
            b"HTTP2-Settings: AAMAAABkAAQAAP__",
            b"Proxy-Authorization: Basic ZTpl",
        )

    assert response.status == 200
    names = {line.split(b":")[0].lower() for line in upstream.requests[0].lines}
    assert names == {b"host", b"authorization", b"via"}


def test_client_can_not_strip_our_fields(proxy: Proxy, upstream: Upstream) -> None:
    """Naming our fields in Connection removes none of them (R47)."""
    with proxy.connect() as client:
        client.send(
            request(
                b"POST", b"/a", b"Connection: Authorization, Host, Content-Length, Via, Transfer-Encoding", body=b"body"
            )
        )
        assert client.response().status == 200

    received = upstream.requests[0]
    assert received.body == b"body"
    assert all(len(received.values(name)) == 1 for name in (b"Authorization", b"Host", b"Content-Length", b"Via"))


def test_cookies_and_identity_stay_out(proxy: Proxy, upstream: Upstream) -> None:
    """A browser's cookie, and what a client claims of itself, do not reach the upstream (R60, R71)."""
    with proxy.connect() as client:
        client.get(
            b"/a",
            b"Cookie: a=b",
            b"X-Forwarded-For: 6.6.6.6",
            b"X_Forwarded_For: 6.6.6.6",
            b"Forwarded: for=1",
            b"X-Real-IP: 1",
            b"X-Real_IP: 1",
        )

    names = {line.split(b":")[0].lower() for line in upstream.requests[0].lines}
    assert names == {b"host", b"authorization", b"via"}


def test_set_cookie_is_not_kept(proxy: Proxy, upstream: Upstream) -> None:
    """A cookie that the upstream set for one client is never sent for another (R71)."""
    upstream.answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=A\r\nContent-Length: 0\r\n\r\n"
    with proxy.connect() as first, proxy.connect() as second:
        assert first.get().values(b"Set-Cookie") == [b"sid=A"]
        second.get()

    assert [received.values(b"Cookie") for received in upstream.requests] == [[], []]


def test_response_fields(proxy: Proxy, upstream: Upstream) -> None:
    """The response's fields come back in order, duplicates and all, without those of the connection (R49, R52, R63)."""
    kept = [
        b"X-A: 1",
        b"Set-Cookie: a=1",
        b"set-cookie: b=2",
        b"x-latin: caf\xe9",
        b'WWW-Authenticate: Bearer realm="x", error="y"',
        b"Allow: GET",
        b"Date: Wed, 21 Oct 2015 07:28:00 GMT",
        b"Server: theirs",
    ]
    dropped = [
        b"Connection: X-Hop",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Upgrade: h2c",
    ]
    upstream.answer = b"\r\n".join([b"HTTP/1.1 403 Nope", *dropped, *kept, b"Content-Length: 0", b"", b""])
    with proxy.connect() as client:
        response = client.get()

    assert response.head.split(b"\r\n")[:-2] == [b"HTTP/1.1 403 Nope", *kept, b"Content-Length: 0"]


def test_coded_body_is_not_touched(proxy: Proxy, upstream: Upstream) -> None:
    """A compressed body passes as it is, a broken one too (R55)."""
    for body in (gzip.compress(b"x" * 10_000), b"\x1f\x8b not gzip"):
        upstream.answer = b'HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nETag: "e"\r\nContent-Length: %d\r\n\r\n%b' % (
            len(body),
            body,
        )
        with proxy.connect() as client:
            response = client.get(b"/a", b"Accept-Encoding: gzip")

        assert response.body == body
        assert response.values(b"Content-Encoding") == [b"gzip"]
        assert response.values(b"ETag") == [b'"e"']


def test_compressed_upload_is_not_touched(proxy: Proxy, upstream: Upstream) -> None:
    """A gzip upload arrives as gzip (R55)."""
    body = gzip.compress(b"A" * 10_000)
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", b"Content-Encoding: gzip", body=body))
        assert client.response().status == 200

    assert upstream.requests[0].body == body
    assert upstream.requests[0].values(b"Content-Encoding") == [b"gzip"]


@pytest.mark.parametrize(
    "method, answer, length",
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", [b"12345"]),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 77\r\n\r\n', [b"77"]),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", []),
        (b"DELETE", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", []),
    ],
)
def test_responses_without_a_body(
    proxy: Proxy, upstream: Upstream, method: bytes, answer: bytes, length: list[bytes]
) -> None:
    """HEAD, 204 and 304 have no body, keep the length that tells of another response, and leave the connection usable
    (R56).
    """
    upstream.answer = answer
    with proxy.connect() as client:
        client.send(request(method, b"/a"))
        response = client.response(to_head=method == b"HEAD")
        assert response.values(b"Content-Length") == length
        upstream.answer = OK
        assert client.get(b"/b").body == b"ok"


def test_body_bytes_behind_a_204(proxy: Proxy, upstream: Upstream) -> None:
    """Bytes that an upstream sends behind a 204 reach nobody, and its connection is not used again (R56, R118)."""
    upstream.answer = b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil"
    with proxy.connect() as client:
        assert client.get().status == 204
        upstream.answer = OK
        assert client.get(b"/b").body == b"ok"

    assert upstream.connections == 2


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND"])
def test_methods(proxy: Proxy, upstream: Upstream, method: bytes) -> None:
    """Every method but CONNECT and TRACE is forwarded."""
    with proxy.connect() as client:
        client.send(request(method, b"/a"))
        assert client.response(to_head=method == b"HEAD").status == 200

    assert upstream.requests[0].request_line == method + b" /a HTTP/1.1"


@pytest.mark.parametrize("method, target", [(b"TRACE", b"/"), (b"CONNECT", b"localhost:443")])
def test_refused_methods(proxy: Proxy, upstream: Upstream, method: bytes, target: bytes) -> None:
    """TRACE would show our token to the client; both are refused with an Allow field (R24)."""
    with proxy.connect() as client:
        client.send(request(method, target))
        response = client.response()

    assert response.status == 405
    assert len(response.values(b"Allow")) == 1
    assert upstream.requests == []


@pytest.mark.parametrize("size", [1, 1000, 65_536, 5_000_001])
def test_bodies_of_known_length(proxy: Proxy, upstream: Upstream, size: int) -> None:
    """A body of known length arrives whole, with its Content-Length, and so does the response's."""
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
    with proxy.connect() as client:
        client.send(request(b"PUT", b"/a", body=body))
        response = client.response()

    received = upstream.requests[0]
    assert hashlib.sha256(received.body).digest() == hashlib.sha256(body).digest()
    assert received.values(b"Content-Length") == [b"%d" % size]
    assert hashlib.sha256(response.body).digest() == hashlib.sha256(body).digest()


def test_chunked_both_ways(proxy: Proxy, upstream: Upstream) -> None:
    """Bodies of unknown length are chunked on both sides."""
    upstream.answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-T: 1\r\n\r\n"
    )
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        response = client.response()
        assert client.get(b"/b").body == b"abcdefg"

    assert upstream.requests[0].body == b"hello world"
    assert upstream.requests[0].values(b"Transfer-Encoding") == [b"chunked"]
    assert response.body == b"abcdefg"
    assert response.values(b"Transfer-Encoding") == [b"chunked"]


def test_empty_chunked_body(proxy: Proxy, upstream: Upstream) -> None:
    """A chunked body of nothing stays one, and does not hang."""
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", b"Transfer-Encoding: chunked") + b"0\r\n\r\n")
        assert client.response().status == 200

    assert upstream.requests[0].body == b""


def test_http_10_client(proxy: Proxy, upstream: Upstream) -> None:
    """We speak our own version to the upstream, and send no chunks to a client that can't read them (R51)."""
    upstream.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with proxy.connect() as client:
        client.send(b"GET /a HTTP/1.0\r\n\r\n")
        head, _, body = client.rest().partition(b"\r\n\r\n")

    assert upstream.requests[0].request_line == b"GET /a HTTP/1.1"
    assert b"transfer-encoding" not in head.lower()
    assert body == b"abc"


def test_connections_are_kept(proxy: Proxy, upstream: Upstream) -> None:
    """One client connection and one upstream connection serve many requests."""
    with proxy.connect() as client:
        assert {client.get(b"/%d" % number).status for number in range(50)} == {200}

    assert upstream.connections == 1
    assert [received.target for received in upstream.requests] == [b"/%d" % number for number in range(50)]


def test_pipelined_requests(proxy: Proxy, upstream: Upstream) -> None:
    """Requests that come in one piece are answered in their order (R26)."""
    with proxy.connect() as client:
        client.send(b"".join(request(b"GET", b"/%d" % number) for number in range(100)))
        assert [client.response().status for _ in range(100)] == [200] * 100

    assert [received.target for received in upstream.requests] == [b"/%d" % number for number in range(100)]


def test_expect_continue(proxy: Proxy, upstream: Upstream) -> None:
    """A client that asks first gets 100 from the upstream's mouth, then sends its body (R28)."""

    def go_on(_head: bytes, sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    upstream.when_head = go_on
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", b"Expect: 100-continue", b"Content-Length: 4"))
        assert client.response().status == 100
        client.send(b"body")
        assert client.response().status == 200

    assert upstream.requests[0].body == b"body"


def test_expect_is_answered_without_a_body(proxy: Proxy, upstream: Upstream) -> None:
    """An upstream that refuses from the head alone spares the client its body (R28)."""

    def refuse(_head: bytes, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        return True

    upstream.when_head = refuse
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", b"Expect: 100-continue", b"Content-Length: 4000000"))
        assert client.response().status == 413


def test_unknown_expectation(proxy: Proxy, upstream: Upstream) -> None:
    """An expectation that nobody can meet is 417 (R28)."""
    with proxy.connect() as client:
        assert client.get(b"/a", b"Expect: 200-ok").status == 417

    assert upstream.requests == []


def test_via_and_loop(launch: Launcher, upstream: Upstream) -> None:
    """We sign what we forward, and refuse what carries our signature already (R42, R50)."""
    proxy = launch(upstream)
    with proxy.connect() as client:
        client.get(b"/a", b"Via: 1.0 fred")
        looped = client.get(b"/a", b"Via: 1.0 fred, 1.1 thg-proxy")

    assert upstream.requests[0].values(b"Via") == [b"1.0 fred", b"1.1 thg-proxy"]
    assert (looped.status, len(upstream.requests)) == (502, 1)
    assert looped.values(b"Proxy-Status") == [b"thg-proxy; error=proxy_loop_detected"]


def test_added_and_removed_fields(launch: Launcher, upstream: Upstream) -> None:
    """upstream.headers sets and removes request fields; upstream.via: false leaves no trace."""
    proxy = launch(
        upstream, "upstream.headers.set={X-Tenant: t1}", "upstream.headers.remove=[User-Agent]", "upstream.via=false"
    )
    with proxy.connect() as client:
        client.get(b"/a", b"User-Agent: curl", b"X-Tenant: evil", b"X-Keep: 1")

    received = upstream.requests[0]
    assert received.values(b"X-Tenant") == [b"t1"]
    assert received.values(b"User-Agent") == received.values(b"Via") == []
    assert received.values(b"X-Keep") == [b"1"]


def test_admin_paths_belong_to_the_upstream(proxy: Proxy, upstream: Upstream) -> None:
    """Nothing administrative is on the data port, whatever its name (R143)."""
    paths = [b"/metrics", b"/healthz", b"/livez", b"/readyz", b"/status", b"/", b"/stop"]
    with proxy.connect() as client:
        for path in paths:
            assert client.get(path).body == b"ok"

    assert [received.target for received in upstream.requests] == paths


def test_interleaved_clients(proxy: Proxy, upstream: Upstream) -> None:
    """Each client gets its own answer, however the requests fall."""

    def echo(received: Received, sock: socket.socket) -> bool:
        target = received.target
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))
        return True

    upstream.answer = echo
    clients = [Client(proxy.port) for _ in range(20)]
    for turn in range(10):
        for number, client in enumerate(clients):
            client.send(request(b"GET", b"/%d/%d" % (number, turn)))
        for number, client in enumerate(clients):
            assert client.response().body == b"/%d/%d" % (number, turn)
    for client in clients:
        client.sock.close()
