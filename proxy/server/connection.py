"""One client's connection to the data port."""

import asyncio
import socket
import struct
from contextlib import suppress
from secrets import token_hex
from time import perf_counter
from typing import NamedTuple, cast

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from proxy.admission import Admitted, OutboundRequest, request_id
from proxy.core.problem import problem_response
from proxy.credential import Credential
from proxy.deadline import Deadline
from proxy.errors import BadRequest, CallerRefused, HeaderTooLarge, Overloaded, ProxyError, RequestTimeout
from proxy.forward import Exchange
from proxy.record import RequestRecord
from proxy.server.caller import is_allowed
from proxy.server.parsing import ChunkedWire, drops_bytes, ends_http, raise_parse_error
from proxy.server.serving import Serving
from proxy.server.tunnel import ToTunnel
from proxy.tls import resume_reading
from proxy.upstream.connection import TunnelEnd

MAX_FIELDS = 128
# How long a client that was answered early may go on sending, so that it reads the answer before it sees a reset
# (RFC 9112 §9.6).
LINGER = 2.0

_RESET = struct.pack("ii", 1, 0)


class _Sending(NamedTuple):
    """What the request that is being served is made of."""

    admitted: Admitted
    credential: Credential
    has_body: bool


class ClientConnection(web.RequestHandler):
    """Serves the requests of one client, one after another."""

    __slots__ = (
        "_is_chunked",
        "_is_cut",
        "_is_refused",
        "_partial_head",
        "_payload",
        "_read_deadline",
        "_sending",
        "_serving",
        "_settings",
        "_tunnel",
        "_wire",
        "_write_deadline",
        "http_11",
        "persistent",
    )

    def __init__(self, server: web.Server, serving: Serving, loop: asyncio.AbstractEventLoop) -> None:
        listen = serving.settings.listen
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=0,  # our deadlines stand in for aiohttp's timer, which a dribbled head does not stop
            access_log=None,  # type: ignore[arg-type] # documented for web.Server
            auto_decompress=False,
            max_line_size=listen.max_header_size,
            max_field_size=listen.max_header_size,
            max_headers=MAX_FIELDS,
            read_bufsize=1 << 16,
        )
        self._serving = serving
        self._settings = serving.settings
        self._payload: StreamReader | None = None
        self._is_refused = False
        self._sending: _Sending | None = None
        self._partial_head = 0
        self._wire = ChunkedWire()
        self._is_chunked = self._is_cut = False
        self._tunnel: TunnelEnd | None = None
        self._read_deadline = Deadline(loop, self._read_expired)
        self._write_deadline = Deadline(loop, self.abort)
        self.http_11 = True
        self.persistent = True

    # The connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._serving.connections.opened(self)
        self._is_refused = not is_allowed(transport, self._settings.listen.allowed_uids)
        super().connection_made(transport)
        self._read_deadline.set(self._settings.listen.keepalive_timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._read_deadline.close()
        self._write_deadline.close()
        self._serving.connections.lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._close:
            return
        payload = self._payload
        before = 0 if payload is None else payload.total_bytes
        in_body = payload is not None and not payload.is_eof()
        queued = len(self._messages)
        self._wire.saw(data)
        super().data_received(data)
        if self._messages:
            self._partial_head = 0
            message, newest = self._messages[-1]
            if isinstance(message, _ErrInfo):
                self._fail_payloads()
            elif message.upgrade:
                self._is_cut = drops_bytes(data, newest, len(self._messages) - queued)
            elif message.chunked and payload is None and len(self._messages) == 1:
                self._body_progress(newest, len(data) - self._settings.listen.max_header_size, newest.total_bytes)
        elif payload is None:
            self._head_progress(len(data))
        elif in_body:
            self._body_progress(payload, len(data), payload.total_bytes - before)

    def _fail_payloads(self) -> None:
        """The parser forgets the body that it was in when it met an error; its reader would wait for ever."""
        for payload in (self._payload, *(payload for _, payload in self._messages)):
            if payload is not None and not payload.is_eof():
                payload.set_exception(BadRequest())

    def _head_progress(self, size: int) -> None:
        if not self._partial_head:
            self._read_deadline.set(self._settings.listen.header_timeout)
        self._partial_head += size
        if self._partial_head > self._settings.listen.max_header_size:
            self._refuse(HeaderTooLarge())

    def _body_progress(self, payload: StreamReader, size: int, gained: int) -> None:
        """The parser bounds neither chunk extensions nor what they are in all (RFC 9112 §7.1.1, R11)."""
        if self._reading_paused:
            return  # what is not parsed yet looks like overhead
        if self._wire.is_overlong(size, gained):
            payload.set_exception(BadRequest("The chunk extensions of the request body are too long."))

    @property
    def is_idle(self) -> bool:
        return self._payload is None and not self._messages and not self._partial_head

    def _read_expired(self) -> None:
        if self._payload is not None:
            self._payload.set_exception(RequestTimeout())
        elif self._partial_head:
            self._refuse(RequestTimeout())
        else:
            self.hang_up()

    def _refuse(self, error: ProxyError) -> None:
        """Answers a head that never became a request; what still comes of it is read away (RFC 9112 §9.6)."""
        record = RequestRecord("", "", perf_counter())
        self._answer(error, record, close=True)
        self._serving.finished(record)
        self._close = True
        self._partial_head = 0
        if self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()
        self._read_deadline.set(LINGER)

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

    # One request after another.

    async def start(self) -> None:
        """Serves requests until the connection ends; aiohttp runs this as the connection's task."""
        try:
            while self.persistent and not self._force_close and not self._close:
                message, payload = await self._next_message()
                self._wire.next_request()
                self._read_deadline.clear()
                await self._serve(message, payload)
                # A client that asks on and on, and reads nothing, must not pile up its answers here.
                if self._paused:
                    await self.drain()
                self._read_deadline.set(self._settings.listen.keepalive_timeout)
        finally:
            self.hang_up()

    async def _next_message(self) -> tuple[RawRequestMessage | _ErrInfo, StreamReader]:
        if not self._messages:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return message

    async def _serve(self, message: RawRequestMessage | _ErrInfo, payload: StreamReader) -> None:
        traffic = self._serving.traffic
        traffic.in_flight += 1
        if isinstance(message, _ErrInfo):
            record = RequestRecord("", "", perf_counter())
        else:
            record = RequestRecord(message.method, message.path, perf_counter())
        self._payload = payload
        try:
            if isinstance(message, _ErrInfo):
                self.persistent = False
                raise_parse_error(message)
            await self._exchange(message, payload, record)
            record.relayed()
        except ProxyError as error:
            self._fail(error, payload, record)
        except (asyncio.CancelledError, ConnectionError) as exc:
            record.outcome = "client_gone"
            self.persistent = False
            if isinstance(exc, asyncio.CancelledError):
                raise
        except Exception as exc:  # noqa: BLE001 - one request must not take the connection's task down unanswered
            self._serving.report_bug(exc)
            self._fail(ProxyError(), payload, record)
        finally:
            traffic.in_flight -= 1
            self._serving.finished(record)
        if not payload.is_eof():
            await self._linger(payload)
        self._payload = None

    async def _exchange(self, message: RawRequestMessage, payload: StreamReader, record: RequestRecord) -> None:
        serving = self._serving
        self.http_11 = message.version == HttpVersion11
        self._is_chunked = message.chunked
        self.persistent = not (message.should_close or ends_http(message) or (self._is_cut and not self._messages))
        record.request_id = request_id(message)
        if self._is_refused:
            raise CallerRefused
        if serving.traffic.in_flight > self._settings.limits.max_in_flight:
            raise Overloaded
        admitted = serving.admission.admit(message)
        self._sending = _Sending(
            admitted, serving.tokens.current() or await self._wait_for_token(record), not payload.at_eof()
        )
        keep = self._settings.limits.replay_body
        await Exchange(self._outbound(self._sending), self, serving.pool, record, keep).run()

    def _outbound(self, sending: "_Sending") -> OutboundRequest:
        return self._serving.admission.outbound(sending.admitted, sending.credential.line, has_body=sending.has_body)

    async def _wait_for_token(self, record: RequestRecord) -> Credential:
        began = perf_counter()
        try:
            return await self._serving.tokens.acquire()
        finally:
            record.token_wait = perf_counter() - began

    def _fail(self, error: ProxyError, payload: StreamReader, record: RequestRecord) -> None:
        if record.status:
            record.code = error.code
            record.outcome = "aborted"
            self.persistent = False
            self.abort()
            return
        # Where a request was not understood, nobody knows where the next one begins (RFC 9112 §9.3, §11.2).
        if isinstance(error, (BadRequest, HeaderTooLarge)) or not payload.is_eof():
            self.persistent = False
        self._answer(error, record, head_only=record.method == "HEAD", close=not self.persists())

    def _answer(
        self, error: ProxyError, record: RequestRecord, *, head_only: bool = False, close: bool = False
    ) -> None:
        record.request_id = record.request_id or token_hex(16)
        record.status = error.status
        record.code = error.code
        record.outcome = error.outcome
        self.write(problem_response(error, record.request_id, head_only=head_only, close=close))

    async def _linger(self, payload: StreamReader) -> None:
        """Takes in, and forgets, the rest of a body that the answer did not need."""
        self.persistent = False
        with suppress(TimeoutError, RequestPayloadError, ProxyError, RuntimeError):
            async with asyncio.timeout(LINGER):
                while await payload.readany():
                    pass

    # After a 101.

    def open_tunnel(self, other: TunnelEnd) -> None:
        self._serving.connections.tunnel_opened(self)
        self._tunnel = other
        self.set_parser(ToTunnel(other))  # type: ignore[arg-type] # aiohttp calls no more than `feed_data` and `feed_eof`

    def _resume_transport_reading(self) -> None:
        if self.transport is not None:
            resume_reading(self.transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._tunnel is not None:
            self._tunnel.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._tunnel is not None:
            self._tunnel.resume_reading()

    # What an exchange needs.

    async def renew(self, *, replayable: bool) -> OutboundRequest | None:
        sending = cast(_Sending, self._sending)
        credential = await self._serving.tokens.replace(sending.credential.generation, wait=replayable)
        return None if credential is None else self._outbound(sending._replace(credential=credential))

    def persists(self) -> bool:
        # aiohttp's parser counts the last trailer field among the next request's: no request may follow (R12).
        has_trailers = self._is_chunked and self._wire.has_trailers
        if self._serving.connections.draining or has_trailers:
            self.persistent = False
        return self.persistent

    def body_arrived(self) -> bytes | None:
        payload = cast(StreamReader, self._payload)
        return payload.read_nowait() if payload.is_eof() else None

    async def read_body(self) -> bytes:
        self._read_deadline.set(self._settings.upstream.idle_timeout)
        try:
            return await cast(StreamReader, self._payload).readany()
        except (RequestPayloadError, RuntimeError) as exc:
            raise BadRequest from exc
        finally:
            self._read_deadline.clear()

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
