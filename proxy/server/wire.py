"""The bytes of one client: heads and bodies in time and in bounds, and an end that the client gets to see."""

import asyncio
import socket
import struct
from typing import cast

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.tcp_helpers import tcp_keepalive
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from proxy.deadline import Deadline
from proxy.errors import BadRequest, HeaderTooLarge, ProxyError, RequestTimeout
from proxy.server.caller import is_gone
from proxy.server.parsing import ChunkedWire, drops_bytes, head_ends
from proxy.settings import Settings
from proxy.steps import Signal, Steps
from proxy.tls import resume_reading

MAX_FIELDS = 128
# How long a client may go on sending after the last answer.
LINGER = 2.0
# Between two looks at a client that is not read from.
WATCH = 0.5

_RESET = struct.pack("ii", 1, 0)


class ClientWire(web.RequestHandler):
    """What `ClientConnection` reads from and writes to."""

    __slots__ = (
        "_arrived",
        "_chunks",
        "_is_cut",
        "_partial_head",
        "_payload",
        "_read_deadline",
        "_settings",
        "_steps",
        "_watch",
        "_write_deadline",
        "http_11",
    )

    def __init__(self, server: web.Server, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=0,  # our deadlines stand in for aiohttp's timer, which a dribbled head does not stop
            access_log=None,  # type: ignore[arg-type] # documented for web.Server
            auto_decompress=False,
            max_line_size=settings.listen.max_header_size,
            max_field_size=settings.listen.max_header_size,
            max_headers=MAX_FIELDS,
            read_bufsize=1 << 16,
        )
        self._settings = settings
        self._payload: StreamReader | None = None
        self._partial_head = 0
        self._chunks = ChunkedWire()
        self._is_cut = False
        self._arrived = Signal()
        self._read_deadline = Deadline(loop, self._read_expired)
        self._write_deadline = Deadline(loop, self.abort)
        self._watch = Deadline(loop, self._look)
        self.http_11 = True

    def refuse(self, error: ProxyError) -> None:
        """Answers a head that never became a request, and ends the connection."""
        raise NotImplementedError

    # In.

    async def start(self) -> None:
        """Serves requests until the connection ends."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As that of aiohttp, which would run `start` in a task."""
        BaseProtocol.connection_made(self, transport)
        tcp_keepalive(cast(asyncio.Transport, transport))
        cast(web.Server, self._manager).connection_made(self, cast(asyncio.Transport, transport))
        self._steps = Steps(self.start(), self._loop)
        self._steps.step()
        self._read_deadline.set(self._settings.listen.keepalive_timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._read_deadline.close()
        self._write_deadline.close()
        self._watch.close()
        super().connection_lost(exc)
        self._steps.cancel()

    def data_received(self, data: bytes) -> None:
        if self._close:
            return
        payload = self._payload
        before = 0 if payload is None else payload.total_bytes
        in_body = payload is not None and not payload.is_eof()
        queued = len(self._messages)
        self._chunks.saw(data)
        if in_body or (queued and not self._messages[-1][1].is_eof()):
            super().data_received(data)
        else:
            self._read_heads(data)
        if self._messages:
            self._partial_head = 0
            message, newest = self._messages[-1]
            if isinstance(message, _ErrInfo):
                self._fail_payloads()
            elif message.upgrade:
                self._is_cut = drops_bytes(data, newest, len(self._messages) - queued)
            elif message.chunked and payload is None and len(self._messages) == 1:
                self._body_progress(newest, len(data) - self._settings.listen.max_header_size, newest.total_bytes)
            self._arrived.set()
        elif payload is None:
            self._head_progress(len(data))
        elif in_body:
            self._body_progress(payload, len(data), payload.total_bytes - before)

    def _read_heads(self, data: bytes) -> None:
        """One after another: with an error, the parser drops what it has found before in the same bytes."""
        begin = 0
        for end in head_ends(data):
            super().data_received(data[begin:end])
            begin = end
            newest = self._messages[-1][0] if self._messages else None
            if isinstance(newest, _ErrInfo):
                return
            if newest is not None and newest.upgrade:
                # It may have a body, and only the parser knows where that ends.
                break
        if begin < len(data) or not data:
            super().data_received(data[begin:])

    def _fail_payloads(self) -> None:
        """The parser forgets the body that it was in when it met an error; its reader would wait for ever."""
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(BadRequest())
        # A request that waits for its turn, and whose body is wrong, is the one that is refused.
        if len(self._messages) > 1 and not self._messages[-2][1].is_eof():
            del self._messages[-2]

    def _head_progress(self, size: int) -> None:
        if not self._partial_head:
            self._read_deadline.set(self._settings.listen.header_timeout)
        self._partial_head += size
        if self._partial_head > self._settings.listen.max_header_size:
            self.refuse(HeaderTooLarge())

    def _body_progress(self, payload: StreamReader, size: int, gained: int) -> None:
        """The parser bounds neither chunk extensions nor what they are in all (RFC 9112 §7.1.1, R11)."""
        if self._reading_paused:
            return  # what is not parsed yet looks like overhead
        if self._chunks.is_overlong(size, gained):
            payload.set_exception(BadRequest("The chunk extensions of the request body are too long."))

    @property
    def is_idle(self) -> bool:
        return self._payload is None and not self._messages and not self._partial_head

    def _read_expired(self) -> None:
        if self._payload is not None:
            self._payload.set_exception(RequestTimeout())
        elif self._partial_head:
            self.refuse(RequestTimeout())
        else:
            self.hang_up()

    def body_arrived(self) -> bytes | None:
        """The whole body, if it has arrived; else None."""
        payload = cast(StreamReader, self._payload)
        return payload.read_nowait() if payload.is_eof() else None

    async def read_body(self) -> bytes:
        """The next piece of the body, empty at the end. Raises RequestError."""
        self._read_deadline.set(self._settings.upstream.idle_timeout)
        try:
            return await cast(StreamReader, self._payload).readany()
        except (RequestPayloadError, RuntimeError) as exc:
            raise BadRequest from exc
        finally:
            self._read_deadline.clear()

    def _pause_transport_reading(self) -> None:
        super()._pause_transport_reading()
        self._watch.set(WATCH)

    def _resume_transport_reading(self) -> None:
        self._watch.clear()
        if self.transport is not None:
            resume_reading(self.transport)

    def _look(self) -> None:
        """Only who reads is told of a reset; what is being done for a client that has gone must end all the same."""
        if self.transport is not None and is_gone(self.transport):
            self.abort()
        else:
            self._watch.set(WATCH)

    # Out.

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    async def drain(self) -> None:
        if self._paused:
            self._write_deadline.set(self._settings.upstream.idle_timeout)
            try:
                await self._drain_helper()
            finally:
                self._write_deadline.clear()

    # The end.

    def linger(self) -> None:
        """Ends after the last answer, and reads away what the client still sends.

        Without that, a client that sends on would meet a reset, maybe before it has read the answer (RFC 9112 §9.6).
        """
        transport = self.transport
        if transport is None:
            return
        self._close = True
        self._payload = None
        self._partial_head = 0
        self._resume_transport_reading()
        if not transport.can_write_eof():
            # TLS reads on after its close_notify.
            self.hang_up()
            return
        try:
            transport.write_eof()
            self._read_deadline.set(LINGER)
        except OSError:
            # The client has gone, and the loop is about to say so.
            transport.abort()

    def hang_up(self) -> None:
        """Sends what is written, then closes; a client that reads nothing is cut."""
        if self.transport is not None:
            self._write_deadline.set(self._settings.upstream.idle_timeout)
            self.transport.close()

    def abort(self) -> None:
        """Ends an answer that is not complete, so that the client can tell.

        An HTTP/1.0 client reads to the end of the connection: only a reset says that it was not the end (R115).
        """
        transport = self.transport
        if transport is None:
            return
        if not self.http_11 and (connected := transport.get_extra_info("socket")) is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
