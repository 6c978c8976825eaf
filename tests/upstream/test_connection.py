"""One upstream connection: what a peer sends, in whatever pieces, and what is made of it.

The first part feeds bytes past the socket, so that every boundary between them is the test's. The second part talks to
a peer on a real loopback socket, on the loop and the transport of the proxy.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, NamedTuple, cast

import aiofastnet
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BodyTooLarge, ProxyError, UpstreamError, UpstreamIncomplete, UpstreamProtocol, UpstreamTimeout
from proxy.settings import Duration, Upstream
from proxy.upstream.connection import HIGH_WATER, UpstreamConnection
from proxy.upstream.response import MAX_FIELDS, MAX_OVERHEAD, Response
from tests.outbound import outbound


def response_of(connection: UpstreamConnection) -> Response:
    assert connection.response is not None
    return connection.response


PATIENCE = 20  # seconds after which something that should have happened never will


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback

    def cancel(self) -> None:
        self.callback = lambda: None


class Clock:
    """As much of a loop as a connection needs that nobody awaits; the test moves its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, callback: Callable[[], None]) -> Any:
        self._timers.append(timer := Timer(at, callback))
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer.at <= end]:
            first = min(due, key=lambda timer: timer.at)
            self._timers.remove(first)
            self.now = max(self.now, first.at)
            first.callback()
        self.now = end


class Wire(asyncio.Transport):
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.resumed = 0
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.resumed += 1


class Scene:
    """A connection with an exchange under way, between a clock and a wire."""

    def __init__(self, *, bodiless: bool = False, tunnel: bool = False, finished: bool = True) -> None:
        self.clock, self.wire = Clock(), Wire()
        settings = Upstream(response_timeout=Duration(10), idle_timeout=Duration(5), keepalive_timeout=Duration(100))
        self.lost: list[UpstreamConnection] = []
        self.connection = UpstreamConnection(cast(Any, self.clock), settings, self.lost.append)
        self.connection.connection_made(self.wire)
        self.start(bodiless=bodiless, tunnel=tunnel, finished=finished)

    def start(self, *, bodiless: bool = False, tunnel: bool = False, finished: bool = True) -> None:
        self.connection.start(
            outbound(method="HEAD" if bodiless else "GET", opens_tunnel=tunnel), b"", finished=finished
        )

    def feed(self, *parts: bytes) -> None:
        """As a transport does it: nothing more after an abort, and then the end."""
        for part in parts:
            if self.wire.aborted:
                break
            if part:
                self.connection.data_received(part)
        if self.wire.aborted and not self.lost:
            self.connection.connection_lost(None)

    def end(self, exc: Exception | None = None) -> None:
        if self.lost:
            return
        if exc is None:
            self.connection.eof_received()
        self.connection.connection_lost(exc)


class Result(NamedTuple):
    """Everything that `forward` learns from an exchange."""

    error: tuple[type[ProxyError], str] | None
    complete: bool
    reusable: bool
    status: int = 0
    reason: bytes = b""
    lines: tuple[bytes, ...] = ()
    length: int | None = None
    chunked: bool = False
    body: bytes = b""


def result(parts: Iterable[bytes], *, bodiless: bool = False, ends: bool = False) -> Result:
    scene = Scene(bodiless=bodiless)
    scene.feed(*parts)
    if ends:
        scene.end()
    connection = scene.connection
    error = None if connection.error is None else (type(connection.error), connection.error.proxy_status)
    if not response_of(connection).head_done:
        return Result(error, response_of(connection).complete, connection.is_reusable)
    return Result(
        error,
        response_of(connection).complete,
        connection.is_reusable,
        response_of(connection).status,
        response_of(connection).reason,
        tuple(response_of(connection).fields.lines),
        response_of(connection).length,
        response_of(connection).chunked,
        connection.take(),
    )


class Case(NamedTuple):
    raw: bytes
    result: Result
    bodiless: bool = False
    ends: bool = False


PROTOCOL = (UpstreamProtocol, "http_protocol_error")
HEADER_SIZE = (UpstreamProtocol, "http_response_header_size")
INCOMPLETE = (UpstreamIncomplete, "http_response_incomplete")


def ok(body: bytes = b"ok", *, reusable: bool = True, **more: Any) -> Result:
    known: dict[str, Any] = {"status": 200, "reason": b"OK", "length": len(body)}
    return Result(None, True, reusable, body=body, **known | more)


def bad(error: tuple[type[ProxyError], str] = PROTOCOL, **more: Any) -> Result:
    return Result(error, False, False, **more)


CASES = {
    "content-length": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ok()),
    "empty": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ok(b"")),
    "odd content-length": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 02 \r\n\r\nok", ok()),
    "status and reason": Case(
        b"HTTP/1.1 404 N\xf6t  Found\r\nContent-Length: 0\r\n\r\n", ok(b"", status=404, reason=b"N\xf6t  Found")
    ),
    "no reason": Case(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", ok(reason=b"")),
    "no space": Case(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", ok(reason=b"")),
    "599": Case(b"HTTP/1.1 599 OK\r\nContent-Length: 2\r\n\r\nok", ok(status=599)),
    "fields": Case(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-A: caf\xe9\tb\r\nset-cookie: b\r\nX-Empty:\r\n"
        b"Content-Length: 2\r\n\r\nok",
        ok(lines=(b"Set-Cookie: a=1\r\n", b"X-A: caf\xe9\tb\r\n", b"set-cookie: b\r\n", b"X-Empty:\r\n")),
    ),
    "hop-by-hop": Case(
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-A: 1\r\n"
        b"Content-Length: 2\r\n\r\nok",
        ok(lines=(b"X-A: 1\r\n",)),
    ),
    "connection close": Case(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", ok(reusable=False)
    ),
    "http/1.0": Case(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", ok(reusable=False)),
    "http/1.0 keep-alive": Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", ok()),
    "leading crlf": Case(b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ok()),
    # Chunks.
    "chunked": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\no\r\n01\r\nk\r\n0\r\n\r\n",
        ok(length=None, chunked=True),
    ),
    "chunk extensions": Case(
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a;b=c;d="e"\r\nok\r\n0;f\r\n\r\n',
        ok(length=None, chunked=True),
    ),
    "trailers": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-A: 1\r\nSet-Cookie: a\r\n\r\n",
        ok(length=None, chunked=True),
    ),
    "framing in the trailers": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 9\r\n\r\n",
        bad(status=200, reason=b"OK", chunked=True, body=b"ok"),
    ),
    "white space around the coding": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\t chunked \r\n\r\n2\r\nok\r\n0\r\n\r\n", ok(length=None, chunked=True)
    ),
    # Interim responses.
    "100": Case(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ok()),
    "several interim": Case(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 P\r\nX-A: 1\r\n\r\nHTTP/1.1 100 C\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nX-B: 1\r\nContent-Length: 2\r\n\r\nok",
        ok(lines=(b"X-B: 1\r\n",)),
    ),
    "interim behind empty lines": Case(
        b"\r\n\r\nHTTP/1.1 103 E\r\nLink: </a>\r\nContent-Length: 3\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\nX-B: 1\r\n"
        b"Content-Length: 2\r\n\r\nok",
        ok(lines=(b"X-B: 1\r\n",)),
    ),
    "interim with a length": Case(
        b"HTTP/1.1 103 E\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ok()
    ),
    # Without a body.
    "head": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", ok(b"", length=12345), bodiless=True),
    "head of chunks": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ok(b"", length=None, chunked=True), bodiless=True
    ),
    "204": Case(b"HTTP/1.1 204 OK\r\n\r\n", ok(b"", status=204, length=None)),
    "204 with a length": Case(b"HTTP/1.1 204 OK\r\nContent-Length: 4\r\n\r\n", ok(b"", status=204, length=4)),
    "304": Case(
        b"HTTP/1.1 304 OK\r\nContent-Length: 4\r\nETag: x\r\n\r\n",
        ok(b"", status=304, length=4, lines=(b"ETag: x\r\n",)),
    ),
    "304 with chunks announced": Case(
        b"HTTP/1.1 304 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ok(b"", status=304, length=None, chunked=True)
    ),
    # What follows a response is nobody's.
    "extra bytes": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokok", ok(reusable=False)),
    "extra response": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX: evil\r\nContent-Length: 4\r\n\r\nevil",
        ok(reusable=False),
    ),
    "extra interim": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 100 C\r\n\r\n", ok(reusable=False)),
    "extra behind chunks": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ok(length=None, chunked=True, reusable=False),
    ),
    "extra behind close": Case(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        ok(reusable=False),
    ),
    "head with its body": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ok(b"", length=2, reusable=False), bodiless=True
    ),
    "head with a response": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ok(b"", length=9, reusable=False),
        bodiless=True,
    ),
    "head with the beginning of a chunk": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFF\r\n",
        ok(b"", length=None, chunked=True, reusable=False),
        bodiless=True,
    ),
    "204 with a body": Case(
        b"HTTP/1.1 204 OK\r\nContent-Length: 2\r\n\r\nok", ok(b"", status=204, length=2, reusable=False)
    ),
    "304 with a response": Case(
        b"HTTP/1.1 304 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", ok(b"", status=304, length=None, reusable=False)
    ),
    # The end of the connection.
    "close-delimited": Case(b"HTTP/1.1 200 OK\r\n\r\nok", ok(length=None, reusable=False), ends=True),
    "close-delimited and empty": Case(b"HTTP/1.0 200 OK\r\n\r\n", ok(b"", length=None, reusable=False), ends=True),
    "close-delimited so far": Case(
        b"HTTP/1.1 200 OK\r\n\r\nok",
        Result(None, False, False, 200, b"OK", body=b"ok"),
    ),
    "close-delimited message in the body": Case(
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ok(b"HTTP/1.1 200 OK\r\n\r\n", length=None, reusable=False),
        ends=True,
    ),
    "closed after the response": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ok(reusable=False), ends=True),
    "nothing": Case(b"", bad(INCOMPLETE), ends=True),
    "cut in the status line": Case(b"HTTP/1.1 2", bad(INCOMPLETE), ends=True),
    "cut in the fields": Case(b"HTTP/1.1 200 OK\r\nContent-Le", bad(INCOMPLETE), ends=True),
    "cut before the empty line": Case(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n", bad(INCOMPLETE), ends=True),
    "only an interim response": Case(b"HTTP/1.1 100 C\r\n\r\n", bad(INCOMPLETE), ends=True),
    "cut in the body": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        bad(INCOMPLETE, status=200, reason=b"OK", length=3, body=b"ok"),
        ends=True,
    ),
    "cut before the body": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", bad(INCOMPLETE, status=200, reason=b"OK", length=3), ends=True
    ),
    "cut in a chunk": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nok",
        bad(INCOMPLETE, status=200, reason=b"OK", chunked=True, body=b"ok"),
        ends=True,
    ),
    "cut between chunks": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        bad(INCOMPLETE, status=200, reason=b"OK", chunked=True, body=b"ok"),
        ends=True,
    ),
    "cut in the last chunk": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        bad(INCOMPLETE, status=200, reason=b"OK", chunked=True, body=b"ok"),
        ends=True,
    ),
    # What is not HTTP/1.1.
    "garbage": Case(b"SSH-2.0-OpenSSH_9.2\r\n", bad()),
    "http/0.9": Case(b"<html>hello</html>", bad()),
    "http/2.0": Case(b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", bad()),
    "http/1.2": Case(b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", bad()),
    "status 099": Case(b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok", bad()),
    "status 600": Case(b"HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\nok", bad()),
    "status 999": Case(b"HTTP/1.1 999 OK\r\nContent-Length: 2\r\n\r\nok", bad()),
    "status 2000": Case(b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", bad()),
    "status 20": Case(b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok", bad()),
    "101": Case(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi", bad()),
    "101 to head": Case(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", bad(), bodiless=True),
    "101 without a protocol": Case(b"HTTP/1.1 101 S\r\n\r\n", bad()),
    "upgrade on another status": Case(
        b"HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok", ok()
    ),
    "two lengths": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", bad()),
    "one length twice": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", bad()),
    "list of lengths": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", bad()),
    "signed length": Case(b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", bad()),
    "negative length": Case(b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", bad()),
    "huge length": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok", bad()),
    "empty length": Case(b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", bad()),
    "length and chunks": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", bad()
    ),
    "chunks and length": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n", bad()
    ),
    "gzip": Case(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", bad(), ends=True),
    "identity": Case(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", bad(), ends=True),
    "gzip, chunked": Case(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", bad()),
    "chunked, gzip": Case(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nok", bad(), ends=True),
    "chunked twice": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        bad(),
    ),
    "gzip to head": Case(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", bad(), bodiless=True),
    "chunked http/1.0": Case(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", bad()),
    "space before the colon": Case(b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", bad()),
    "folded field": Case(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok", bad()),
    "no colon": Case(b"HTTP/1.1 200 OK\r\nX-A\r\nContent-Length: 2\r\n\r\nok", bad()),
    "no name": Case(b"HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 2\r\n\r\nok", bad()),
    "bare lf": Case(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", bad()),
    "cr in a value": Case(b"HTTP/1.1 200 OK\r\nX-A: 1\rX-B: 2\r\nContent-Length: 2\r\n\r\nok", bad()),
    "nul in a value": Case(b"HTTP/1.1 200 OK\r\nX-A: 1\x00\r\nContent-Length: 2\r\n\r\nok", bad()),
    "esc in a value": Case(b"HTTP/1.1 200 OK\r\nX-A: \x1b[2J\r\nContent-Length: 2\r\n\r\nok", bad()),
    "cr in the reason": Case(b"HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok", bad()),
    "nul in the reason": Case(b"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nok", bad()),
    "esc in the reason": Case(b"HTTP/1.1 200 \x1b[2J\r\nContent-Length: 2\r\n\r\nok", bad()),
    "bad chunk size": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0x2\r\nok\r\n0\r\n\r\n",
        bad(status=200, reason=b"OK", chunked=True, body=b"ok"),
    ),
    "huge chunk size": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nok",
        bad(status=200, reason=b"OK", chunked=True),
    ),
    "chunk without crlf": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokXX0\r\n\r\n",
        bad(status=200, reason=b"OK", chunked=True, body=b"ok"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_response_at_once(name: str) -> None:
    """Head, body and end of every kind of response; what is malformed is refused (R49, R56, R58, R59, R115-R122)."""
    case = CASES[name]
    assert result([case.raw], bodiless=case.bodiless, ends=case.ends) == case.result


@pytest.mark.parametrize("name", CASES)
def test_a_response_in_pieces(name: str) -> None:
    """Where the network cuts a response makes no difference: every cut in two, and byte by byte (R115-R121)."""
    case = CASES[name]
    for cut in range(len(case.raw)):
        parts = [case.raw[:cut], case.raw[cut:]]
        assert result(parts, bodiless=case.bodiless, ends=case.ends) == case.result, cut
    assert result((bytes([octet]) for octet in case.raw), bodiless=case.bodiless, ends=case.ends) == case.result


@given(st.sampled_from(sorted(CASES)), st.lists(st.integers(0, 300), max_size=8))
def test_a_response_in_any_pieces(name: str, cuts: list[int]) -> None:
    """Nor does it make a difference how many pieces there are (R115-R121)."""
    case = CASES[name]
    edges = [0, *sorted(min(cut, len(case.raw)) for cut in cuts), len(case.raw)]
    parts = [case.raw[start:end] for start, end in pairwise(edges)]
    assert result(parts, bodiless=case.bodiless, ends=case.ends) == case.result


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(raw: bytes, bodiless: bool) -> None:
    """Whatever an upstream sends before it closes is a response or an error of the upstream (R116)."""
    outcome = result([raw], bodiless=bodiless, ends=True)
    assert outcome.complete or (outcome.error is not None and issubclass(outcome.error[0], UpstreamError))


def head(size: int, fields: int = 8) -> bytes:
    """A response head of `size` bytes."""
    start, end = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", b"\r\n"
    each, rest = divmod(size - len(start) - len(end), fields)
    lines = [b"X-A: ".ljust(each - 2, b"a") + b"\r\n"] * (fields - 1)
    return start + b"".join(lines) + b"X-A: ".ljust(each + rest - 2, b"a") + b"\r\n" + end


def in_pieces(raw: bytes, size: int) -> Iterator[bytes]:
    return (raw[start : start + size] for start in range(0, len(raw), size))


@pytest.mark.parametrize("fields", [1, 8, 200])
@pytest.mark.parametrize("piece", [1 << 20, 4096, 100])
@pytest.mark.parametrize("size, fits", [(MAX_OVERHEAD - 10, True), (MAX_OVERHEAD + 2000, False), (100_000, False)])
def test_large_head(size: int, fits: bool, piece: int, fields: int) -> None:
    """A head is too large or not, in however many pieces and fields it comes (F40)."""
    outcome = result(in_pieces(head(size, fields), piece))
    assert (outcome.error, outcome.complete) == ((None, True) if fits else (HEADER_SIZE, False))


def test_the_limit_of_a_head_is_one() -> None:
    """The network's cuts do not decide whether a head that is just about too large is (F40)."""
    raw = head(MAX_OVERHEAD + 200, 200)
    assert result([raw]) == result(in_pieces(raw, 100))


@pytest.mark.parametrize("piece", [1 << 20, 1000])
@pytest.mark.parametrize("fields, fits", [(MAX_FIELDS - 1, True), (500, False)])
def test_many_fields(fields: int, fits: bool, piece: int) -> None:
    """So are fields too many or not (F40)."""
    outcome = result(in_pieces(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"X: 1\r\n" * fields + b"\r\n", piece))
    assert (outcome.error, outcome.complete) == ((None, True) if fits else (HEADER_SIZE, False))


def test_a_head_that_never_ends() -> None:
    """Neither a field, a name, a reason nor a status line without an end grows without bound (F40)."""
    for start in (b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nX", b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\n"):
        scene = Scene()
        scene.feed(start, *[b"X: a\r\n" * 500 if start.endswith(b"\n") else b"a" * 3000] * 100)
        assert isinstance(scene.connection.error, UpstreamProtocol)
        assert scene.connection.error.proxy_status == "http_response_header_size"


def test_many_interim_responses() -> None:
    """A thousand interim responses are swallowed (R58, F39)."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert result(in_pieces(interim * 1000 + final, 4096)) == ok()


@pytest.mark.parametrize(
    "before, flood",
    [
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;", b"extension;"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", b"X-Trailer: 1\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"000000000000000000000000"),
    ],
)
def test_bytes_that_lead_nowhere(before: bytes, flood: bytes) -> None:
    """Interim responses, chunk extensions and trailers without end are an error, not work without end (R58, F39)."""
    scene = Scene()
    scene.feed(before, *in_pieces(flood * 100_000, 4096))
    assert isinstance(scene.connection.error, UpstreamProtocol)


def test_many_small_chunks() -> None:
    """A body may come in as many chunks as it likes."""
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;a=b\r\nx\r\n" * 50_000 + b"0\r\n\r\n"
    assert result(in_pieces(raw, 1000)).body == b"x" * 50_000


def test_bytes_nobody_asked_for() -> None:
    """Bytes on an idle connection close it, and no exchange sees them (R118)."""
    scene = Scene()
    scene.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert scene.connection.is_reusable
    scene.connection.release()
    scene.feed(b"HTTP/1.1 200 OK\r\nX: evil\r\nContent-Length: 4\r\n\r\nevil")
    assert scene.wire.aborted
    assert scene.connection.closed
    assert scene.lost == [scene.connection]


def test_bytes_before_the_first_request() -> None:
    """A server that speaks first is not one of HTTP (R118)."""
    clock, wire = Clock(), Wire()
    connection = UpstreamConnection(cast(Any, clock), Upstream(), lambda _: None)
    connection.connection_made(wire)
    connection.data_received(b"220 smtp.example ESMTP\r\n")
    assert wire.aborted
    assert connection.closed


@pytest.mark.parametrize("method", ["HEAD", "204"])
def test_no_body_leaves_nothing_behind(method: str) -> None:
    """After an answer to HEAD, or a 204, the next response on the connection is read as what it is (R56)."""
    status = b"204" if method == "204" else b"200"
    scene = Scene(bodiless=method == "HEAD")
    scene.feed(b"HTTP/1.1 %b OK\r\nContent-Length: 5\r\n\r\n" % status)
    connection = scene.connection
    assert (response_of(connection).complete, connection.is_reusable, connection.take()) == (True, True, b"")
    connection.release()
    scene.start()
    assert (response_of(connection).complete, response_of(connection).head_done, response_of(connection).length) == (
        False,
        False,
        None,
    )
    scene.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (response_of(connection).complete, connection.is_reusable, connection.take()) == (True, True, b"ok")


def test_a_head_without_length_keeps_the_connection() -> None:
    """An answer to HEAD needs no Content-Length to be complete, so the connection goes on (RFC 9112 §6.3, §9.3)."""
    assert result([b"HTTP/1.1 200 OK\r\n\r\n"], bodiless=True) == ok(b"", length=None)


def test_no_exchange_inherits_anything() -> None:
    """Interim responses, reasons, fields and errors of one exchange are not those of the next."""
    scene = Scene()
    scene.feed(b"HTTP/1.1 100 Go\r\nX-A: 1\r\n\r\nHTTP/1.1 404 Not Found\r\nX-B: 1\r\nContent-Length: 2\r\n\r\nno")
    scene.connection.release()
    scene.start()
    assert not response_of(scene.connection).continued
    assert scene.connection.take() == b""
    scene.feed(b"HTTP/1.1 200\r\nX-C: 1\r\nContent-Length: 2\r\n\r\nok")
    assert response_of(scene.connection).fields.lines == [b"X-C: 1\r\n"]
    assert (response_of(scene.connection).reason, scene.connection.take()) == (b"", b"ok")


@pytest.mark.parametrize("end", [ConnectionResetError(), OSError()])
def test_a_reset_is_no_end(end: Exception) -> None:
    """A body that ends with the connection is complete only where the end was a clean one (R115, R122)."""
    scene = Scene()
    scene.feed(b"HTTP/1.1 200 OK\r\n\r\nok")
    scene.end(end)
    assert not response_of(scene.connection).complete
    assert isinstance(scene.connection.error, UpstreamIncomplete)


def test_our_own_abort_is_no_end() -> None:
    """A body that we cut off, as when the pool closes, is not complete (R115)."""
    scene = Scene()
    scene.feed(b"HTTP/1.1 200 OK\r\n\r\nok")
    scene.connection.abort()
    scene.connection.connection_lost(None)
    assert not response_of(scene.connection).complete
    assert isinstance(scene.connection.error, UpstreamIncomplete)


def test_a_switch_that_was_asked_for() -> None:
    """A 101 to a handshake ends the head with all its fields, and hands over the bytes behind it, however cut (R59)."""
    head = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n"
    tail = b"\x81\x02hi"
    for cut in range(len(head + tail)):
        scene = Scene(tunnel=True)
        scene.feed((head + tail)[:cut])
        if cut < len(head):
            scene.feed((head + tail)[cut:])
        connection = scene.connection
        switch = response_of(connection)
        assert (connection.error, switch.head_done, switch.status) == (None, True, 101)
        assert (switch.reason, switch.fields.lines) == (
            b"Switching",
            [b"Sec-WebSocket-Accept: a\r\n"],
        )
        assert connection.take() == (tail if cut < len(head) else tail[: cut - len(head)])
        # What comes next waits in the transport until both sides are ready.
        assert not scene.wire.reading


# Timeouts.


def timed_out(scene: Scene) -> bool:
    return isinstance(scene.connection.error, UpstreamTimeout) and scene.wire.aborted


def test_response_timeout() -> None:
    """A request that nobody answers ends after `response_timeout` (R124, F28)."""
    scene = Scene()
    scene.clock.advance(9)
    assert scene.connection.error is None
    scene.clock.advance(2)
    assert timed_out(scene)


@pytest.mark.parametrize("dribble", [b"HTTP/1.1 200 OK\r\nX-A: a", b"HTTP/1.1 103 E\r\n\r\n"])
def test_a_dribbled_head_does_not_put_it_off(dribble: bytes) -> None:
    """Half a head, or an interim response, is not the response that is waited for (F15)."""
    scene = Scene()
    for octet in dribble:
        scene.feed(bytes([octet]))
        scene.clock.advance(1)
    assert timed_out(scene)


def test_response_timeout_begins_with_the_end_of_the_request() -> None:
    """A long upload is not held against the response (R124)."""
    scene = Scene(finished=False)
    for _ in range(100):
        scene.connection.send(b"piece")
        scene.clock.advance(4)
    assert scene.connection.error is None
    scene.connection.finish()
    scene.clock.advance(11)
    assert timed_out(scene)


def test_idle_timeout() -> None:
    """Between two pieces of a body at most `idle_timeout` passes, and there is no total timeout (R124, F32)."""
    scene = Scene()
    scene.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        scene.clock.advance(4)
        scene.feed(b"a")
    assert scene.connection.error is None
    scene.clock.advance(6)
    assert timed_out(scene)


def test_no_timeout_while_we_hold_the_upstream_back() -> None:
    """While reading is paused for a slow client the upstream is not to blame; afterwards it is (R123, R124)."""
    scene = Scene()
    scene.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"a" * (HIGH_WATER + 1))
    assert not scene.wire.reading
    scene.clock.advance(1000)
    assert scene.connection.error is None
    scene.connection.take()
    assert scene.wire.resumed == 1
    scene.clock.advance(6)
    assert timed_out(scene)


def test_no_timeout_after_the_end() -> None:
    """A response that is complete waits for a slow client as long as that takes."""
    scene = Scene()
    scene.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    scene.clock.advance(1000)
    assert (scene.connection.error, scene.connection.is_reusable, scene.wire.aborted) == (None, True, False)


def test_keepalive_timeout() -> None:
    """An idle connection is closed by us before the upstream does it; that is nobody's error (R126)."""
    scene = Scene()
    scene.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    scene.connection.release()
    scene.clock.advance(99)
    assert not scene.wire.aborted
    scene.clock.advance(2)
    assert (scene.wire.aborted, scene.connection.closed, scene.connection.error) == (True, True, None)


def test_a_connection_that_is_never_used() -> None:
    """A connection whose request went away is closed like an idle one."""
    clock, wire = Clock(), Wire()
    connection = UpstreamConnection(cast(Any, clock), Upstream(keepalive_timeout=Duration(100)), lambda _: None)
    connection.connection_made(wire)
    clock.advance(101)
    assert wire.aborted


# Over the wire.


class Peer(NamedTuple):
    connection: UpstreamConnection
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    lost: asyncio.Event

    async def request(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def gone(self) -> bytes:
        """Waits until the connection has been closed; returns what came before."""
        rest = b""
        try:
            while data := await self.reader.read(65536):
                rest += data
        except ConnectionError:
            pass
        return rest

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def connected(**settings: Any) -> AsyncIterator[Peer]:
    """A connection, and the peer at its other end."""
    loop = asyncio.get_running_loop()
    lost = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, connection = await aiofastnet.create_connection(
            loop,
            lambda: UpstreamConnection(loop, Upstream(**settings), lambda _: lost.set()),
            *listener.getsockname(),
        )
        reader, writer = await asyncio.open_connection(sock=listener.accept()[0])
    peer = Peer(connection, reader, writer, lost)
    try:
        yield peer
    finally:
        if not connection.closed:
            connection.abort()
        await lost.wait()
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def whole(connection: UpstreamConnection) -> bytes:
    """The body, taken as it comes."""
    body = b""
    while True:
        body += connection.take()
        if response_of(connection).complete:
            return body
        if not response_of(connection).has_news:
            await connection.wait()


def test_exchanges_over_one_connection() -> None:
    """One exchange after another goes over the same connection, each to its end (R64)."""

    async def scene() -> None:
        async with connected() as peer:
            for number in range(3):
                peer.connection.start(outbound(b"GET /%d HTTP/1.1\r\n\r\n" % number), b"", finished=True)
                assert await peer.request() == b"GET /%d HTTP/1.1\r\n\r\n" % number
                peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%02d" % number)
                assert await whole(peer.connection) == b"%02d" % number
                assert peer.connection.is_reusable
                peer.connection.release()

    play(scene)


def test_a_head_is_news() -> None:
    """Whoever waits learns of the head before there is a body, and of the body in pieces as they come (R123)."""

    async def scene() -> None:
        async with connected() as peer:
            connection = peer.connection
            connection.start(outbound(), b"", finished=True)
            peer.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await connection.wait()
            assert (response_of(connection).head_done, response_of(connection).has_news) == (True, False)
            peer.writer.write(b"6\r\ndata: \r\n")
            await connection.wait()
            assert (connection.take(), response_of(connection).complete) == (b"data: ", False)
            peer.writer.write(b"0\r\n\r\n")
            await connection.wait()
            assert (connection.take(), response_of(connection).complete) == (b"", True)

    play(scene)


def test_continue_is_news() -> None:
    """A `100 Continue` wakes who waits for it (R28)."""

    async def scene() -> None:
        async with connected() as peer:
            connection = peer.connection
            connection.start(outbound(b"POST / HTTP/1.1\r\n\r\n"), b"", finished=False)
            peer.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await connection.wait()
            assert (response_of(connection).continued, response_of(connection).head_done) == (True, False)

    play(scene)


def test_timeouts_over_the_wire() -> None:
    """A silent upstream is given up, and the connection to it closed, whoever is silent when (R124, F28, F32)."""

    async def scene() -> None:
        async with connected(response_timeout=Duration(0.02)) as peer:
            peer.connection.start(outbound(), b"", finished=True)
            with pytest.raises(UpstreamTimeout):
                await whole(peer.connection)
            await peer.gone()
        async with connected(idle_timeout=Duration(0.02)) as peer:
            peer.connection.start(outbound(), b"", finished=True)
            peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
            with pytest.raises(UpstreamTimeout):
                await whole(peer.connection)
            await peer.gone()
        async with connected(keepalive_timeout=Duration(0.02)) as peer:
            await peer.gone()

    play(scene)


def test_back_pressure_on_the_upstream() -> None:
    """A client that takes nothing stops the upstream; what waits is bounded, and nothing is lost (R123)."""
    size = 50_000_000

    async def scene() -> None:
        async with connected() as peer:
            connection = peer.connection
            connection.start(outbound(), b"", finished=True)
            peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            peer.writer.write(b"a" * size)
            while connection._transport.is_reading():
                await connection.wait()
            taken = len(connection.take())
            assert HIGH_WATER < taken < HIGH_WATER + (1 << 20)
            while not response_of(connection).complete:
                if not response_of(connection).has_news:
                    await connection.wait()
                taken += len(connection.take())
            assert taken == size

    play(scene)


def test_back_pressure_on_the_client() -> None:
    """An upstream that takes nothing stops the upload until it takes more (R123)."""
    size = 50_000_000

    async def scene() -> None:
        async with connected() as peer:
            connection = peer.connection
            connection.start(outbound(b"POST / HTTP/1.1\r\n\r\n"), b"", finished=False)
            connection.send(b"a" * size)
            drained = asyncio.ensure_future(connection.drain())
            await peer.request()
            assert not drained.done()
            assert len(await peer.reader.readexactly(size)) == size
            await drained
            connection.finish()
            peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert await whole(connection) == b"ok"
            assert connection.is_reusable

    play(scene)


def test_a_stalled_upload() -> None:
    """An upstream that takes nothing for `idle_timeout` is given up; who drains is let go (R124)."""

    async def scene() -> None:
        async with connected(idle_timeout=Duration(0.05)) as peer:
            peer.connection.start(outbound(b"POST / HTTP/1.1\r\n\r\n"), b"", finished=False)
            peer.connection.send(b"a" * 50_000_000)
            await peer.connection.drain()
            with pytest.raises(UpstreamTimeout):
                await whole(peer.connection)

    play(scene)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"])
def test_the_peer_goes(sent: bytes, reset: bool) -> None:
    """A connection that ends early ends the exchange, and every wait for it (R115, R116, F30, F31)."""

    async def scene() -> None:
        async with connected() as peer:
            peer.connection.start(outbound(b"POST / HTTP/1.1\r\n\r\n"), b"", finished=False)
            peer.connection.send(b"a" * 50_000_000)
            drained = asyncio.ensure_future(peer.connection.drain())
            await peer.request()
            if sent:
                peer.writer.write(sent)
                await peer.connection.wait()
            if reset:
                peer.reset()
            else:
                peer.writer.close()
            with pytest.raises(UpstreamIncomplete):
                await whole(peer.connection)
            await drained
            await peer.lost.wait()
            peer.connection.send(b"more")  # as the upload does that has not heard of it yet

    play(scene)


def test_failing_an_exchange() -> None:
    """An upload that goes wrong ends the exchange with its own error, and the connection at once."""

    async def scene() -> None:
        async with connected() as peer:
            peer.connection.start(outbound(b"POST / HTTP/1.1\r\n\r\n"), b"", finished=False)
            waiting = asyncio.ensure_future(whole(peer.connection))
            await peer.request()
            peer.connection.fail(BodyTooLarge())
            with pytest.raises(BodyTooLarge):
                await waiting
            with pytest.raises(BodyTooLarge):
                await whole(peer.connection)
            assert await peer.gone() == b""

    play(scene)


def test_waiting_can_be_given_up() -> None:
    """A cancelled wait takes nothing with it: the next one gets the response."""

    async def scene() -> None:
        async with connected() as peer:
            peer.connection.start(outbound(), b"", finished=True)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await peer.connection.wait()
            peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert await whole(peer.connection) == b"ok"

    play(scene)
