"""An API with one of each kind of response, for clients that ask it directly and through the proxy."""

import gzip
import re
import socket
from typing import NamedTuple

from tests.peers import Received

LARGE = bytes(range(256)) * 80_000  # 20 MB
GZIPPED = gzip.compress(b"not to be touched on the way " * 10_000)
_CHUNK = 70_000
_TAG = b'"v1"'
# What a response has beside what it is about: each kind of field that is passed on, and each that is not.
_FIELDS = (
    *(b"Date: Tue, 15 Nov 1994 08:12:31 GMT", b"Server: sample", b"X-Request-Id: abc", b"Cache-Control: max-age=1"),
    *(b"Set-Cookie: a=1; Path=/", b"Set-Cookie: b=2", b"X-Latin: caf\xe9", b"x-lower:  spaced  "),
    *(b"Connection: X-Hop", b"X-Hop: 1", b"Keep-Alive: timeout=100"),
    *(b"Access-Control-Allow-Origin: *", b"Strict-Transport-Security: max-age=1", b'Alt-Svc: h3=":443"'),
)


class _Page(NamedTuple):
    status: int = 200
    fields: tuple[bytes, ...] = ()
    body: bytes = b"small"
    chunked: bool = False
    trailer: bytes = b""


_PAGES = {
    b"/large": _Page(body=LARGE, fields=(b"Accept-Ranges: bytes",)),
    b"/chunked": _Page(body=LARGE, chunked=True),
    b"/gzip": _Page(body=GZIPPED, fields=(b"Content-Encoding: gzip", b"Vary: Accept-Encoding", b'ETag: "gzip"')),
    b"/tagged": _Page(fields=(b"ETag: " + _TAG,)),
    b"/empty": _Page(204),
    b"/moved": _Page(302, fields=(b"Location: /small?moved",)),
    b"/moved-away": _Page(307, fields=(b"Location: http://127.0.0.1:1/elsewhere",)),
    b"/missing": _Page(404, body=b"no such thing"),
    b"/broken": _Page(500, body=b"it broke"),
    b"/trailers": _Page(chunked=True, fields=(b"Trailer: X-Sum",), trailer=b"X-Sum: 1\r\n"),
}


def go_ahead(head: bytes, sock: socket.socket) -> None:
    """Wants every body (RFC 9110 §10.1.1)."""
    if b"\r\nexpect: 100-continue\r\n" in head.lower():
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def answer(received: Received, sock: socket.socket) -> bool:
    page = _selected(_PAGES.get(received.target.partition(b"?")[0], _Page()), received)
    is_old = received.request_line.endswith(b"HTTP/1.0")
    sock.sendall(_head(page, is_old=is_old))
    if received.request_line.startswith(b"HEAD ") or page.status in (204, 304):
        return True
    if not page.chunked or is_old:
        sock.sendall(page.body)
        return not page.chunked
    for at in range(0, len(page.body), _CHUNK):
        piece = page.body[at : at + _CHUNK]
        sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
    sock.sendall(b"0\r\n%b\r\n" % page.trailer)
    return True


def _selected(page: _Page, received: Received) -> _Page:
    """What of it was asked for: a range, or only if it is another one."""
    if received.values(b"If-None-Match") == [_TAG]:
        return page._replace(status=304)
    wanted = re.fullmatch(rb"bytes=(\d+)-(\d+)", b"".join(received.values(b"Range")))
    if not wanted:
        return page
    first, last = map(int, wanted.groups())
    content_range = b"Content-Range: bytes %d-%d/%d" % (first, last, len(page.body))
    return page._replace(status=206, fields=(*page.fields, content_range), body=page.body[first : last + 1])


def _head(page: _Page, *, is_old: bool) -> bytes:
    lines = [b"HTTP/1.1 %d Status" % page.status, *_FIELDS, *page.fields]
    if page.chunked:
        # HTTP/1.0 has no chunks: the end of the connection is the end of the body.
        lines += [] if is_old else [b"Transfer-Encoding: chunked"]
    elif page.status not in (204, 304):
        lines.append(b"Content-Length: %d" % len(page.body))
    return b"\r\n".join(lines) + b"\r\n\r\n"
