"""A strict reader of what the proxy writes, with no library in common with the proxy.

It knows one spelling for everything: whatever deviates from the grammar of RFC 9112 is an AssertionError, so that each
case is also a test of the proxy's own syntax.
"""

import re
from dataclasses import dataclass

_FIELD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\x00]*\r\n"
_HEAD = re.compile(rb"([^\r\n\x00]+)\r\n((?:%b)*)\r\n" % _FIELD)
_REQUEST_LINE = re.compile(rb"[A-Z-]+ [!-~]+ HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 [1-5]\d\d [^\x00]*")
_CHUNK_SIZE = re.compile(rb"([0-9a-f]+)\r\n")
_BODILESS = frozenset({*range(100, 200), 204, 304})


@dataclass(frozen=True)
class Message:
    """A request or a response; `size` is what it took of the stream, `complete` says whether its end has come."""

    start: bytes
    lines: list[bytes]
    body: bytes
    size: int
    complete: bool

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    @property
    def names(self) -> set[bytes]:
        return {line.partition(b":")[0].lower() for line in self.lines}

    def values(self, name: bytes) -> list[bytes]:
        pairs = (line.partition(b":") for line in self.lines)
        return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]


def read_request(data: bytes) -> Message | None:
    """The first request of `data`; None until its head is there."""
    head = _head(data, _REQUEST_LINE)
    return None if head is None else _with_body(*head, data, to_end=False, ended=False)


def read_response(data: bytes, *, ended: bool, bodiless: bool) -> Message | None:
    """The first response of `data`, `bodiless` as the answer to HEAD is; None until its head is there."""
    head = _head(data, _STATUS_LINE)
    if head is None:
        return None
    start, lines, size = head
    if bodiless or int(start[9:12]) in _BODILESS:
        return Message(start, lines, b"", size, complete=True)
    return _with_body(start, lines, size, data, to_end=True, ended=ended)


def _head(data: bytes, start_line: re.Pattern[bytes]) -> tuple[bytes, list[bytes], int] | None:
    if b"\r\n\r\n" not in data:
        return None
    match = _HEAD.match(data)
    assert match, f"not a head: {data[:200]!r}"
    start, block = match.groups()
    assert start_line.fullmatch(start), f"not a start line: {start!r}"
    return start, block.split(b"\r\n")[:-1], match.end()


def _with_body(start: bytes, lines: list[bytes], size: int, data: bytes, *, to_end: bool, ended: bool) -> Message:
    """RFC 9112 §6.3. `to_end`: does a message without framing go on to the end of the connection?"""
    bare = Message(start, lines, b"", size, complete=True)
    lengths, codings = bare.values(b"Content-Length"), bare.values(b"Transfer-Encoding")
    assert len(lengths) + len(codings) <= 1, f"framed twice: {lines}"
    rest = data[size:]
    if codings:
        assert codings == [b"chunked"]
        body, used, complete = _chunks(rest)
    elif lengths or not to_end:
        length = int(lengths[0]) if lengths else 0
        body, used, complete = rest[:length], length, len(rest) >= length
    else:
        body, used, complete = rest, len(rest), ended
    return Message(start, lines, body, size + used, complete)


def _chunks(data: bytes) -> tuple[bytes, int, bool]:
    """The body, the bytes that its chunks take, and whether the last one has come."""
    body, at = b"", 0
    while line := _CHUNK_SIZE.match(data, at):
        size, begin = int(line[1], 16), line.end()
        end = begin + size
        body += data[begin:end]
        if len(data) < end + 2:
            return body, len(data), False
        assert data[end : end + 2] == b"\r\n", f"no line end behind a chunk: {data[end : end + 20]!r}"
        at = end + 2
        if size == 0:
            return body, at, True
    assert b"\r\n" not in data[at:], f"not a chunk: {data[at : at + 50]!r}"
    return body, len(data), False
