"""Messages for Hypothesis: valid ones in every form, and such as went wrong in a place or two."""

from typing import NamedTuple

from hypothesis import strategies as st

_TARGETS = [
    *(
        b"/",
        b"/a",
        b"/a?b=c",
        b"//evil.example/a",
        b"/a/../b",
        b"/%2e%2e/a",
        b"/a%00b",
        b"/a%0d%0aX:1",
        b"/a;b=c",
        b"/\\a",
    ),
    *(b"*", b"http://localhost/a", b"http://localhost", b"http://evil.example/a", b"http://a@localhost/", b"/a#b"),
    *(b"localhost:80", b"@evil/a", b"/\xff", b"/a b", b"?a", b"/" + b"x" * 300, b"/%zz", b"/\"<>`{|}^'"),
]
_METHODS = [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"PROPFIND", b"CONNECT", b"TRACE"]
_FIELDS = [
    *(b"Host: localhost", b"Host: 127.0.0.1:8080", b"Host: evil.example", b"Host: localhost, evil.example", b"hOST:"),
    *(b"Authorization: Bearer EVIL", b"authorization: Basic E2", b"Cookie: a=b", b"Proxy-Authorization: Basic E2"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: Authorization, Host, X-A", b"Connection: X-A"),
    *(b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"HTTP2-Settings: AAA", b"Keep-Alive: 5"),
    *(b"TE: trailers", b"Trailer: X-A", b"Expect: 100-continue", b"Expect: 200-ok", b"Via: 1.1 other"),
    *(b"Via: 1.1 thg-proxy", b"X-Forwarded-For: 6.6.6.6", b"X_Forwarded_For: 6.6.6.6", b"Forwarded: for=1"),
    *(b"Content_Length: 3", b"X-Real-IP: 6.6.6.6", b"Origin: https://evil.example", b"Sec-Fetch-Site: none"),
    *(b"X-A: 1", b"X-A: 2", b"x-b:3 ", b"X-C:\t", b"X-D: caf\xe9", b"Content-Type: text/plain", b"X-Request-Id: \xff"),
]
_FRAMINGS = [
    *(
        b"Content-Length: 3",
        b"Content-Length: 0",
        b"Content-Length: +3",
        b"Content-Length: 3, 3",
        b"Content-Length: 03",
    ),
    *(b"Content-Length:", b"Content-Length: 99999999999999999999999", b"content-length : 3"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked", b"Transfer-Encoding: gzip, chunked"),
    *(b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: ,chunked"),
    *(b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding\t: chunked"),
]
_CHUNKED = [
    *(b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"1;a=b\r\nx\r\n1 \r\ny\r\n0;c\r\n\r\n", b"00003\r\nabc\r\n000\r\n\r\n"),
    *(b"3\r\nabc\r\n0\r\nAuthorization: Bearer EVIL\r\nContent-Length: 10\r\n\r\n", b"3\nabc\n0\n\n", b"-1\r\n\r\n"),
    *(b"3\r\nabcXX0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"A\r\n0123456789\r\n0\r\n\r\n"),
]
# What, in the wrong place, has been taken for something else before.
_FRAGMENTS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"\x0b",
        b"\xa0",
        b"\xff",
        b"\r\n ",
        b"\r\n\r\n",
        b"0",
    ),
    *(b"-", b"+", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"RTSP/1.0", b"ICE/1.1", b"chunked", b"%0d%0a"),
    *(b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
    *(line + b"\r\n" for line in _FRAMINGS),
    *_CHUNKED,
]
_SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
_STATUS_LINES = [
    *(
        b"HTTP/1.1 200 OK",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 Not Modified",
        b"HTTP/1.1 404 ",
    ),
    *(b"HTTP/1.1 206 Partial Content", b"HTTP/1.1 302 Found", b"HTTP/1.1 503 Busy \xe4", b"HTTP/1.1 401 Unauthorized"),
    *(
        b"HTTP/1.1 099 Low",
        b"HTTP/1.1 999 High",
        b"HTTP/1.1 101 Switching Protocols",
        b"HTTP/1.1 200",
        b"HTTP/2.0 200 OK",
    ),
]
_INTERIM = [
    *(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 3\r\n\r\n"),
    b"HTTP/1.1 102 Processing\r\nTransfer-Encoding: chunked\r\n\r\n",
]
_RESPONSE_FIELDS = [
    *(b"Date: Sun, 06 Nov 1994 08:49:37 GMT", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b'ETag: W/"a"', b"Server: x"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: X-A, Content-Length", b"Connection: Upgrade"),
    *(
        b"Upgrade: websocket",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Trailer: X-A",
        b"X-A: 1",
        b"x-a:",
    ),
    *(
        b'WWW-Authenticate: Bearer error="insufficient_scope"',
        b"Access-Control-Allow-Origin: *",
        b"Content-Encoding: gzip",
    ),
    *(b"X-Echo: Bearer canary-1", b"Location: http://evil.example/", b"X-B: caf\xe9", b"Content-Type: text/plain"),
]


class Mutation(NamedTuple):
    """At a fraction of a message, some bytes are replaced by others."""

    place: float
    removed: int
    put: bytes

    def apply(self, message: bytes) -> bytes:
        at = int(self.place * len(message))
        return message[:at] + self.put + message[at + self.removed :]


_mutations = st.lists(
    st.builds(
        Mutation,
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 6),
        st.one_of(st.just(b""), st.sampled_from(_FRAGMENTS), st.binary(min_size=1, max_size=3)),
    ),
    max_size=3,
)


def _mutated(message: bytes, mutations: list[Mutation]) -> bytes:
    for mutation in mutations:
        message = mutation.apply(message)
    return message


def _message(start: bytes, fields: list[bytes], framing_and_body: tuple[list[bytes], bytes]) -> bytes:
    framing, body = framing_and_body
    return b"\r\n".join([start, *fields, *framing, b"", body])


_bodies: st.SearchStrategy[tuple[list[bytes], bytes]] = st.one_of(
    st.just(([], b"")),
    st.binary(max_size=40).map(lambda body: ([b"Content-Length: %d" % len(body)], body)),
    st.sampled_from(_CHUNKED).map(lambda body: ([b"Transfer-Encoding: chunked"], body)),
    st.tuples(st.lists(st.sampled_from(_FRAMINGS), max_size=2), st.sampled_from([b"", b"abc", *_CHUNKED])),
)
_request_lines = st.builds(
    lambda method, target, version: b"%b %b HTTP/%b" % (method, target, version),
    st.one_of(st.sampled_from([b"GET", b"POST"]), st.sampled_from(_METHODS)),
    st.one_of(st.just(b"/a"), st.sampled_from(_TARGETS)),
    st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]),
)
_request_fields = st.lists(st.sampled_from(_FIELDS), max_size=4).flatmap(
    lambda others: st.sampled_from([[b"Host: localhost", *others], others])
)
request = st.builds(_message, _request_lines, _request_fields, _bodies)
requests = st.builds(_mutated, st.lists(request, min_size=1, max_size=3).map(b"".join), _mutations)
"""One to three requests behind one another, as a client's bytes."""

response = st.builds(
    lambda interim, final: b"".join((*interim, final)),
    st.lists(st.sampled_from(_INTERIM), max_size=2),
    st.builds(
        _message, st.sampled_from(_STATUS_LINES), st.lists(st.sampled_from(_RESPONSE_FIELDS), max_size=4), _bodies
    ),
)
responses = st.builds(
    _mutated,
    st.tuples(response, st.sampled_from([b"", b"", b"", b"tail", b"\r\n", _SECOND])).map(b"".join),
    _mutations,
)
"""One answer to one request, maybe with bytes behind it, as an upstream's bytes."""

cuts = st.lists(st.floats(0, 1), max_size=3)


def pieces(raw: bytes, places: list[float]) -> list[bytes]:
    """`raw`, cut at these fractions of it."""
    at = sorted({int(place * len(raw)) for place in places} - {0, len(raw)})
    return [raw[start:end] for start, end in zip([0, *at], [*at, len(raw)], strict=True)]
