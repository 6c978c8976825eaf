"""One response, as it is read from the upstream: bytes in, head and body out; strict where httptools is not.

Whatever is odd about a response ends its connection: `keep_alive` is true only after a message that was complete, that
nothing followed, and whose sender agreed (R118).
"""

import re

import httptools

from proxy.admission import OutboundRequest
from proxy.core.headers import NO_FIELDS, connection_options
from proxy.errors import UpstreamError, UpstreamIncomplete, UpstreamProtocol

# Bytes without a body byte among them: a head with the interim responses before it, chunk extensions, trailers. llhttp
# bounds none of these. Apache and nginx take 8 KiB of head by default; this is what the proxy takes from clients, too.
MAX_OVERHEAD = 32 << 10
MAX_FIELDS = 256

_CONTINUE, _SWITCHING_PROTOCOLS = 100, 101
_MIN_STATUS, _MIN_FINAL, _MAX_STATUS = 100, 200, 599
_NO_CONTENT, _NOT_MODIFIED = 204, 304
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")
# "HTTP/1.1 200 "
_REASON = 13
_HEAD_END = b"\r\n\r\n"
# RFC 9112 §4: HTAB, SP, VCHAR and obs-text.
_BAD_IN_REASON = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Response:
    """Feed it, and `take` the body until `complete`. Until `head_done`, there is nothing of the final response.

    `head`: its bytes. `continued`: a `100 Continue` came. `switched`: a 101 that was asked for came. `length`: the
    Content-Length.
    """

    __slots__ = (
        "_bodiless",
        "_interim",
        "_may_switch",
        "_overhead",
        "_parser",
        "_pieces",
        "_rules",
        "answered",
        "buffered",
        "chunked",
        "complete",
        "continued",
        "fields",
        "head",
        "head_done",
        "keep_alive",
        "length",
        "reason",
        "status",
        "switched",
    )

    def __init__(self, request: OutboundRequest) -> None:
        self._bodiless = request.bodiless_response
        self._may_switch = request.section.opens_tunnel
        self._rules = request.section.response_rules
        self._parser = httptools.HttpResponseParser(self)
        self.head = b""
        self._pieces: list[bytes] = []
        self._overhead = self.buffered = self.status = 0
        self.reason = b""
        self.length: int | None = None
        self.fields = NO_FIELDS
        self._interim = self.answered = self.chunked = self.complete = self.continued = False
        self.head_done = self.keep_alive = self.switched = False

    def feed(self, data: bytes) -> None:
        """Reads on. Raises UpstreamProtocol, after which nothing can be said of the rest."""
        # httptools takes `RTSP/` and `ICE/` for HTTP.
        if not self.answered and not (data.startswith(b"HTTP/") or b"HTTP/".startswith(data.lstrip(b"\r\n")[:5])):
            raise UpstreamProtocol
        self.answered = True
        if not self.head_done:
            self.head += data
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(data[upgrade.args[0] :])
        except httptools.HttpParserError as exc:
            # httptools hides what a callback raised behind an error of its own.
            raise exc.__context__ if isinstance(exc.__context__, UpstreamError) else UpstreamProtocol from exc
        if self._overhead > MAX_OVERHEAD and not self.complete:
            raise _too_much_overhead()

    def end(self) -> None:
        """The connection has ended as its sender meant it to. Raises UpstreamIncomplete where the message has not."""
        if self.complete:
            return
        if not self.head_done or self.length is not None or self.chunked:
            raise UpstreamIncomplete
        self.complete = True

    def take(self) -> bytes:
        """The body bytes that have come since the last call, maybe none; of a tunnel, its first ones."""
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces = []
        self.buffered = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def has_news(self) -> bool:
        """Is there something to `take`, or has the response ended?"""
        return bool(self._pieces) or self.complete

    def _switch(self, tail: bytes) -> None:
        """A 101, which counts only to the protocol that was asked for (RFC 9110 §7.8).

        `tail`: the tunnel's first bytes.
        """
        self.fields = self._rules.read(_lines(*self._found_head())[1:])
        if not self._may_switch or self.fields.noted.get(b"upgrade", b"").strip().lower() != b"websocket":
            raise UpstreamProtocol
        self.head_done = self.switched = True
        self._overhead = 0
        if tail:
            self._pieces.append(tail)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.head_done:
            # A second final response in the same bytes.
            self.keep_alive = False
            raise UpstreamProtocol

    def on_headers_complete(self) -> None:
        """Called without the fields: they are lines of the head that the parser has found to be well-formed."""
        head, end = self._found_head()
        status_line, *lines = _lines(head, end)
        if len(lines) > MAX_FIELDS:
            raise _too_much_overhead()
        self.status = status = self._parser.get_status_code()
        if not _MIN_STATUS <= status <= _MAX_STATUS or status_line[:8] not in _VERSIONS:
            raise UpstreamProtocol
        self.reason = status_line[_REASON:-2]
        if _BAD_IN_REASON.search(self.reason):
            raise UpstreamProtocol
        if status < _MIN_FINAL:
            self._on_interim(status)
            return
        self.fields = self._rules.read(lines)
        if len(status_line) + self.fields.size + 2 > MAX_OVERHEAD:
            raise _too_much_overhead()
        self._overhead = 0
        self._read_framing()
        self.head_done = True
        self.head = head[:end]
        if self._bodiless or status in (_NO_CONTENT, _NOT_MODIFIED):
            # llhttp can't know of the first, and so takes a HEAD's answer without a length for one that ends by EOF.
            self._end(keep_alive=len(head) == end and self._agrees_to_keep_alive())

    def _found_head(self) -> tuple[bytes, int]:
        """What has come of the message, and where the head in it ends."""
        head = self.head.lstrip(b"\r\n")
        return head, head.index(_HEAD_END) + len(_HEAD_END)

    def _on_interim(self, status: int) -> None:
        if status == _SWITCHING_PROTOCOLS:
            if not self._parser.should_upgrade():
                raise UpstreamProtocol
            return
        self._interim = True
        self.continued = self.continued or status == _CONTINUE

    def _read_framing(self) -> None:
        """RFC 9112 §6.3. llhttp refuses Content-Length beside Transfer-Encoding, and differing lengths."""
        noted = self.fields.noted
        coding = noted.get(b"transfer-encoding")
        if coding is not None:
            if coding.strip(b" \t").lower() != b"chunked" or self._parser.get_http_version() == "1.0":
                raise UpstreamProtocol
            self.chunked = True
        length = noted.get(b"content-length")
        if length is not None:
            self.length = int(length)

    def _agrees_to_keep_alive(self) -> bool:
        """RFC 9112 §9.3."""
        options = connection_options(self.fields.noted.get(b"connection", b""))
        return b"close" not in options and (self._parser.get_http_version() == "1.1" or b"keep-alive" in options)

    def on_body(self, piece: bytes) -> None:
        if self.complete:
            return  # behind a response that can't have a body
        self._pieces.append(piece)
        self.buffered += len(piece)
        self._overhead = 0

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            head, end = self._found_head()
            self.head = head[end:]
        elif self.head_done and not self.complete:
            self._end(keep_alive=self._parser.should_keep_alive())

    def _end(self, *, keep_alive: bool) -> None:
        self.complete = True
        self.keep_alive = keep_alive
        # The parser holds our methods: as a cycle, the two would be left to the garbage collector.
        del self._parser


def _lines(head: bytes, end: int) -> list[bytes]:
    """The status line and the lines of the fields, with their ends: llhttp takes nothing but CRLF for one."""
    return head[: end - 2].splitlines(keepends=True)


def _too_much_overhead() -> UpstreamProtocol:
    return UpstreamProtocol(
        "The header of the upstream's response is too large.", proxy_status="http_response_header_size"
    )
