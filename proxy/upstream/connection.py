"""One connection to the upstream: an asyncio.Protocol over httptools, one exchange at a time.

Whatever is odd about a response ends the connection with it: a connection is used again only after a message that was
complete, that nothing followed, and whose sender agreed (R118).
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from proxy.admission import OutboundRequest
from proxy.core.headers import MessageFields
from proxy.deadline import Deadline
from proxy.errors import ProxyError, UpstreamError, UpstreamIncomplete, UpstreamProtocol, UpstreamTimeout
from proxy.settings import Upstream

# Bytes without a body byte among them: a head with the interim responses before it, chunk extensions, trailers. llhttp
# bounds none of these. Apache and nginx take 8 KiB of head by default; this is what the proxy takes from clients, too.
MAX_OVERHEAD = 32 << 10
MAX_FIELDS = 256
# Body bytes that wait for the client before the upstream is told to pause, as in asyncio's streams.
HIGH_WATER = 128 << 10

_CONTINUE = 100
_MIN_STATUS, _MIN_FINAL, _MAX_STATUS = 100, 200, 599
_NO_CONTENT, _NOT_MODIFIED = 204, 304


class TunnelEnd(Protocol):
    """The other side of a tunnel, as one side sees it."""

    def write(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """`start` an exchange, `send` and `finish` a body in pieces; `wait` until `head_done`, `take` until `complete`.

    `error` is what ended the exchange early. `reusable` says, once it is complete, whether another may follow.
    """

    __slots__ = (
        "_awaits_response",
        "_buffered",
        "_deadline",
        "_drained",
        "_ended",
        "_interim",
        "_loop",
        "_on_lost",
        "_overhead",
        "_parser",
        "_pieces",
        "_raw_fields",
        "_reading_paused",
        "_request",
        "_settings",
        "_transport",
        "_tunnel",
        "_waiter",
        "_writing_paused",
        "answered",
        "chunked",
        "closed",
        "complete",
        "continued",
        "error",
        "fields",
        "head_done",
        "idle",
        "length",
        "reason",
        "request_sent",
        "reusable",
        "status",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Upstream,
        on_lost: Callable[["UpstreamConnection"], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._on_lost = on_lost
        self._deadline = Deadline(loop, self._timed_out)
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._reading_paused = self._writing_paused = False
        self._tunnel: TunnelEnd | None = None
        self._ended = False
        self.closed = False
        self.idle = True

    # One exchange, as `forward` drives it.

    def start(self, request: OutboundRequest, body: bytes, *, finished: bool) -> None:
        """Sends the head with `body`, framed: the whole of it if `finished`."""
        self._parser = httptools.HttpResponseParser(self)
        self._request = request
        self._raw_fields: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._buffered = self._overhead = 0
        self._interim = False
        self.status = 0
        self.reason = b""
        self.length: int | None = None
        self.fields = MessageFields([], {})
        self.answered = self.chunked = self.head_done = self.complete = self.continued = self.reusable = False
        self.error: ProxyError | None = None
        self.idle = False
        self.request_sent = finished
        self._transport.write(request.head + body)
        if finished:
            self._deadline.set(self._settings.response_timeout)
        else:
            self._deadline.clear()

    def send(self, data: bytes) -> None:
        """A piece of the request body, framed."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def finish(self, data: bytes = b"") -> None:
        """The request is complete; `data` is what is left of it."""
        if data:
            self.send(data)
        self.request_sent = True
        if not self.complete:
            self._deadline.set(self._settings.idle_timeout if self.head_done else self._settings.response_timeout)

    async def drain(self) -> None:
        """Waits until the upstream takes more. A stalled one ends the exchange after `idle_timeout`."""
        if self._writing_paused and not self.closed:
            self._deadline.set(self._settings.idle_timeout)
            self._drained = self._loop.create_future()
            await self._drained
            if not self.request_sent:
                self._deadline.clear()

    @property
    def has_news(self) -> bool:
        """Is there something to `take`, or has the response ended?"""
        return bool(self._pieces) or self.complete

    async def wait(self) -> None:
        """Waits for a head, a `100 Continue`, a piece of the body, or the end. Raises what it was failed with."""
        if self.error is not None:
            raise self.error
        await self._news()
        if self.error is not None:
            raise self.error

    async def _news(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """The body bytes that have come since the last call, maybe none."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self._buffered = 0
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
            if self.request_sent:
                self._deadline.set(self._settings.idle_timeout)
        return data

    def release(self) -> None:
        """The exchange is over and the connection waits for another."""
        self.idle = True
        self._parser = None
        self._deadline.set(self._settings.keepalive_timeout)

    def abort(self) -> None:
        """Ends the connection at once. A closing one could go on reading for minutes (uvloop#471)."""
        self.closed = True
        self._deadline.close()
        if not self._transport.is_closing():
            self._transport.abort()

    def fail(self, error: ProxyError) -> None:
        """Ends the exchange with `error`, unless it has ended already."""
        if not self.idle and not self.complete and self.error is None:
            self.error = error
        self.abort()
        self._wake()

    # After a 101.

    def open_tunnel(self, other: "TunnelEnd") -> None:
        """From here on all that the upstream sends goes to `other`."""
        self._tunnel = other
        if tail := self.take():
            other.write(tail)
        self._transport.resume_reading()

    async def wait_closed(self) -> None:
        while not self.closed:
            await self._news()

    def write(self, data: bytes) -> None:
        self.send(data)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadline.set(self._settings.keepalive_timeout)

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.write(data)
            return
        parser = self._parser
        if parser is None or self.complete:
            # Nobody asked: an answer to a request that was never sent must not become the next one's (R118).
            self.fail(UpstreamProtocol())
            return
        self.answered = True
        self._overhead += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(data[upgrade.args[0] :])
        except httptools.HttpParserError as exc:
            self.fail(_protocol_error(exc))
        else:
            self._progress()

    def _switch(self, tail: bytes) -> None:
        """A 101, which counts only where it was asked for (RFC 9110 §7.8). `tail`: the tunnel's first bytes."""
        if not self._request.opens_tunnel:
            self.fail(UpstreamProtocol())
            return
        self.fields = self._request.response_rules.read(self._raw_fields)
        self.head_done = True
        self._pieces.append(tail)
        self._deadline.clear()
        # What comes before the client's side is ready waits in the transport.
        self._transport.pause_reading()
        self._wake()

    def _progress(self) -> None:
        if self.complete:
            self._deadline.clear()
        elif self._overhead > MAX_OVERHEAD:
            self.fail(_too_much_overhead())
        elif self.head_done:
            self._body_progress()
        if self.head_done or self.continued:
            self._wake()

    def _body_progress(self) -> None:
        if self._buffered > HIGH_WATER and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
            self._deadline.clear()
        elif self.request_sent:
            self._deadline.set(self._settings.idle_timeout)

    def eof_received(self) -> None:
        """A FIN, or over TLS a close_notify: an end that the upstream meant. The transport closes itself after it."""
        self._ended = True

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed = True
        self._deadline.close()
        if not self.idle and not self.complete and self.error is None:
            self._judge_end()
        self.reusable = False
        self._parser = None
        self._wake()
        self._wake_writer()
        self._on_lost(self)

    def _judge_end(self) -> None:
        if self._tunnel is not None:
            self.complete = True
            return
        close_delimited = self.head_done and self.length is None and not self.chunked
        if close_delimited and self._ended:
            # RFC 9112 §9.8: without close_notify, anybody on the way could have cut it.
            self.complete = True
        else:
            self.error = UpstreamIncomplete()

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._tunnel is not None:
            self._tunnel.pause_reading()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._tunnel is not None:
            self._tunnel.resume_reading()
        self._wake_writer()

    def _timed_out(self) -> None:
        if self.idle:
            self.abort()
        else:
            self.fail(UpstreamTimeout())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _wake_writer(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # What the parser tells.

    def on_message_begin(self) -> None:
        if self.head_done:
            # A second final response in the same bytes.
            self.reusable = False
            raise UpstreamProtocol

    def on_status(self, part: bytes) -> None:
        self.reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return  # a trailer, which is dropped
        self._raw_fields.append((name, value))
        if len(self._raw_fields) > MAX_FIELDS:
            raise _too_much_overhead()

    def on_headers_complete(self) -> None:
        parser = cast(httptools.HttpResponseParser, self._parser)
        self.status = status = parser.get_status_code()
        if not _MIN_STATUS <= status <= _MAX_STATUS or parser.get_http_version() not in ("1.1", "1.0"):
            raise UpstreamProtocol
        if status < _MIN_FINAL:
            self._interim = True
            self.continued = self.continued or status == _CONTINUE
            return
        if sum(len(name) + len(value) for name, value in self._raw_fields) > MAX_OVERHEAD:
            raise _too_much_overhead()
        self._overhead = 0
        self.fields = self._request.response_rules.read(self._raw_fields)
        self._read_framing(self.fields.noted, parser)
        self.head_done = True
        if self._request.bodiless_response or status in (_NO_CONTENT, _NOT_MODIFIED):
            self._end(keep_alive=parser.should_keep_alive())

    def _read_framing(self, noted: dict[bytes, bytes], parser: httptools.HttpResponseParser) -> None:
        """RFC 9112 §6.3. llhttp refuses Content-Length beside Transfer-Encoding, and differing lengths."""
        coding = noted.get(b"transfer-encoding")
        if coding is not None:
            if coding.lower() != b"chunked" or parser.get_http_version() == "1.0":
                raise UpstreamProtocol
            self.chunked = True
        length = noted.get(b"content-length")
        if length is not None:
            self.length = int(length)

    def on_body(self, piece: bytes) -> None:
        if self.complete:
            # Bytes behind a response that can't have a body.
            self.reusable = False
            return
        self._pieces.append(piece)
        self._buffered += len(piece)
        self._overhead = 0

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self._raw_fields = []
            self.reason = b""
        elif not self.complete:
            self._end(keep_alive=cast(httptools.HttpResponseParser, self._parser).should_keep_alive())

    def _end(self, *, keep_alive: bool) -> None:
        self.complete = True
        self.reusable = keep_alive


def _too_much_overhead() -> UpstreamProtocol:
    return UpstreamProtocol(
        "The header of the upstream's response is too large.", proxy_status="http_response_header_size"
    )


def _protocol_error(exc: httptools.HttpParserError) -> UpstreamError:
    # httptools hides what a callback raised behind an error of its own.
    return exc.__context__ if isinstance(exc.__context__, UpstreamError) else UpstreamProtocol()
