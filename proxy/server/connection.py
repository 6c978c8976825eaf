"""One client's connection to the data port."""

import asyncio
from email.utils import formatdate
from secrets import token_hex
from time import perf_counter
from typing import cast

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from proxy.admission import Admitted, OutboundRequest, Recalled, request_id
from proxy.core.headers import response_head
from proxy.core.problem import problem_response
from proxy.credential import Credential
from proxy.errors import BadRequest, CallerRefused, HeaderTooLarge, Overloaded, ProxyError
from proxy.forward import Exchange
from proxy.record import RequestRecord
from proxy.server.caller import is_allowed
from proxy.server.parsing import ends_http, raise_parse_error
from proxy.server.serving import Serving
from proxy.server.tunnel import ToTunnel
from proxy.server.wire import ClientWire
from proxy.steps import in_task
from proxy.upstream.tunnel import FarSide

_OK = 200


class ClientConnection(ClientWire):
    """Serves the requests of one client, one after another."""

    __slots__ = (
        "_admitted",
        "_ahead",
        "_credential",
        "_engine",
        "_is_chunked",
        "_is_refused",
        "_piece",
        "_recalled",
        "_serving",
        "_tunnel",
        "persistent",
    )

    def __init__(self, server: web.Server, serving: Serving, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, serving.engine.settings, loop)
        self._serving = serving
        self._engine = serving.engine
        self._is_refused = False
        self._admitted: Admitted | None = None
        self._credential: Credential | None = None
        self._is_chunked = False
        self._recalled: Recalled | None = None
        # Bytes that are missing of the request that is being read: none between two requests. None where nobody knows.
        self._ahead: int | None = 0
        self._piece: bytes | None = None
        self._tunnel: FarSide | None = None
        self.persistent = True

    # The connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._serving.connections.opened(self)
        self._is_refused = not is_allowed(transport, self._settings.listen.allowed_uids)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._serving.connections.lost(self)
        super().connection_lost(exc)

    def refuse(self, error: ProxyError) -> None:
        record = RequestRecord("", "", perf_counter())
        self._answer(error, record, close=True)
        self._serving.finished(record)
        self.linger()

    # One request after another.

    async def start(self) -> None:
        """As the connection's coroutine, in the place of aiohttp's own loop over the requests."""
        try:
            while self.persistent and not self._force_close and not self._close:
                self._recalled = None
                while not (self._messages or self._recalled):
                    await self._arrived
                message, payload = (self._recalled, EMPTY_PAYLOAD) if self._recalled else self._next_message()
                self._read_deadline.clear()
                await self._serve(message, payload)
                # A client that asks on and on, and reads nothing, must not pile up its answers here.
                if self._paused:
                    await self.drain()
                self._read_deadline.set(self._settings.listen.keepalive_timeout)
        finally:
            self.linger()

    def data_received(self, data: bytes) -> None:
        if self._ahead == 0 and self._arrived.is_awaited:
            self._recalled = self._serving.engine.admission.recall(data)
            if self._recalled is not None:
                self._arrived.set()
                return
            self._piece, self._ahead = data, None
        elif self._ahead is not None:
            self._ahead = self._ahead - len(data) if self._ahead >= len(data) else None
        super().data_received(data)
        self._piece = None

    def _next_message(self) -> tuple[RawRequestMessage | _ErrInfo, StreamReader]:
        self._chunks.next_request()
        message = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return message

    async def _serve(self, message: RawRequestMessage | Recalled | _ErrInfo, payload: StreamReader) -> None:
        traffic = self._serving.traffic
        traffic.in_flight += 1
        record = _record(message)
        self._payload = payload
        try:
            admitted = self._admit(message, record)
            if admitted.section.ends_here:
                self._answer_options(payload, record)
            else:
                self._admitted = admitted
                if self._engine.tracer is not None:
                    self._engine.tracer.begin(admitted, record)
                self._credential = self._engine.tokens.current() or await self._wait_for_token(record)
                await Exchange(self.again(), self, self._engine.pool, record, self._settings.limits.replay_body).run()
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
        self._payload = None

    def _admit(self, message: RawRequestMessage | Recalled | _ErrInfo, record: RequestRecord) -> Admitted:
        """Raises ProxyError."""
        if isinstance(message, _ErrInfo):
            self.persistent = False
            raise_parse_error(message)
        engine = self._serving.engine
        self._engine, self._settings = engine, engine.settings
        if isinstance(message, Recalled):
            self.http_11, self._is_chunked = True, False
            record.request_id = message.section.request_id
        else:
            self.http_11 = message.version == HttpVersion11
            self._is_chunked = message.chunked
            self.persistent = not (message.should_close or ends_http(message) or (self._is_cut and not self._messages))
            record.request_id = request_id(message)
        if self._is_refused:
            raise CallerRefused
        if self._serving.traffic.in_flight > self._settings.limits.max_in_flight:
            raise Overloaded
        if isinstance(message, Recalled):
            return engine.admission.admit_recalled(message)
        piece, self._piece = self._piece, None
        admitted = engine.admission.admit(message)
        if piece is not None:
            self._ahead = engine.admission.remember(piece, message, admitted.section)
        return admitted

    def _answer_options(self, payload: StreamReader, record: RequestRecord) -> None:
        """As one who has no options: a request that may be forwarded no more is answered here (RFC 9110 §7.6.2)."""
        if not payload.is_eof():
            self.persistent = False
        record.status = _OK
        framing = b"Content-Length: 0\r\n" + (b"" if self.persists() else b"Connection: close\r\n")
        self.write(response_head(_OK, b"OK", [b"Date: %b\r\n" % formatdate(usegmt=True).encode()], framing))

    async def _wait_for_token(self, record: RequestRecord) -> Credential:
        began = perf_counter()
        try:
            return await in_task(self._engine.tokens.acquire())
        finally:
            record.token_wait = perf_counter() - began

    def _fail(self, error: ProxyError, payload: StreamReader, record: RequestRecord) -> None:
        if record.status:
            record.code = error.code
            record.outcome = "aborted"
            self.persistent = False
            if self._tunnel is None:
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

    # After a 101.

    def open_tunnel(self, other: FarSide) -> None:
        self._serving.connections.tunnel_opened(self)
        self._tunnel = other
        self.set_parser(ToTunnel(other))  # type: ignore[arg-type] # aiohttp calls no more than `feed_data` and `feed_eof`

    def eof_received(self) -> None:
        if self._tunnel is not None:
            self._tunnel.end()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._tunnel is not None:
            self._tunnel.pause_reading()
            self._write_deadline.set(self._settings.upstream.idle_timeout)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._tunnel is not None and not self._close:
            self._tunnel.resume_reading()
            self._write_deadline.clear()

    # What an exchange needs.

    def body_arrived(self) -> bytes | None:
        return super().body_arrived() if self._recalled is None else self._recalled.body

    async def renew(self, *, replayable: bool) -> OutboundRequest | None:
        tokens, generation = self._engine.tokens, cast(Credential, self._credential).generation
        credential = await in_task(tokens.replace(generation, wait=replayable))
        if credential is None:
            return None
        self._credential = credential
        return self.again()

    def again(self) -> OutboundRequest:
        return self._engine.admission.outbound(cast(Admitted, self._admitted), cast(Credential, self._credential))

    def remember_nonce(self, nonce: bytes) -> None:
        cast(Credential, self._credential).remember(nonce)

    def persists(self) -> bool:
        # aiohttp's parser counts the last trailer field among the next request's: no request may follow (R12).
        has_trailers = self._is_chunked and self._chunks.has_trailers
        if self._serving.connections.draining or has_trailers:
            self.persistent = False
        return self.persistent


def _record(message: RawRequestMessage | Recalled | _ErrInfo) -> RequestRecord:
    now = perf_counter()
    if isinstance(message, RawRequestMessage):
        return RequestRecord(message.method, message.path, now)
    if isinstance(message, Recalled):
        return RequestRecord(message.method, message.target.decode("ascii"), now)
    return RequestRecord("", "", now)
