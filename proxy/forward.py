"""One exchange: send the request, relay the response, end both sides cleanly whatever happens in between.

Knows nothing of tokens or policy: it gets finished requests and two connections.
"""

import asyncio
from email.utils import formatdate
from time import perf_counter
from typing import Protocol, cast

from proxy.admission import OutboundRequest
from proxy.core.headers import response_head
from proxy.core.replay import after_lost_connection, asks_for_another_token, asks_for_nonce
from proxy.errors import BodyTooLarge, ProxyError, UpstreamIncomplete
from proxy.record import RequestRecord
from proxy.steps import in_task
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.pool import UpstreamPool
from proxy.upstream.response import Response
from proxy.upstream.tunnel import Side, tunnel

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# RFC 9110 §10.1.1: a client that waits for 100 should not wait for ever; an upstream that never sends it gets the body.
CONTINUE_PATIENCE = 1.0

_CHALLENGE, _NONCE = b"www-authenticate", b"dpop-nonce"
_LAST_CHUNK = b"0\r\n\r\n"
_NO_CONTENT, _NOT_MODIFIED = 204, 304
_SWITCHED = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
# RFC 9209 §2.1.4
_REPLAYED = b"Proxy-Status: thg-proxy; received-status=401\r\n"


class Client(Side, Protocol):
    """What an exchange needs of the client's connection."""

    http_11: bool
    persistent: bool  # RFC 9112 §9.3; cleared where the connection can't go on after this exchange

    def persists(self) -> bool:
        """Will another request be read after this one? Asked when the answer begins, which says it to the client."""

    def body_arrived(self) -> bytes | None:
        """The whole body, if it has arrived; else None."""

    async def read_body(self) -> bytes:
        """The next piece, empty at the end. Raises RequestError."""

    async def renew(self, *, replayable: bool) -> OutboundRequest | None:
        """The same request with another token, after the upstream has refused this one; None if there is none to try.

        `replayable`: could the request be sent again at all?
        """

    def again(self) -> OutboundRequest:
        """The same request with the same token; a proof of possession is good for one sending (RFC 9449 §11.1)."""

    def remember_nonce(self, nonce: bytes) -> None:
        """What the upstream wants to see in the next proof of possession."""

    async def drain(self) -> None:
        """Waits until the client takes more; ends the connection of one that takes nothing."""


class _NoBody:
    """The body of most requests."""

    kept = b""

    def at_once(self) -> bytes:
        return b""

    async def read(self) -> bytes:
        return b""


_NO_BODY = _NoBody()


class _Body:
    """The request's body: read once, counted, and kept up to `keep` bytes, so that it can be sent again."""

    def __init__(self, request: OutboundRequest, client: Client, record: RequestRecord, keep: int) -> None:
        self._client = client
        self._record = record
        self._keep = keep
        self._limit = request.section.max_body
        self._pieces: list[bytes] | None = []
        self._whole = False

    @property
    def kept(self) -> bytes | None:
        """The whole body, if it has been read and was small enough to keep."""
        return b"".join(self._pieces) if self._whole and self._pieces is not None else None

    def at_once(self) -> bytes | None:
        """The whole body, if it is here already; else None."""
        data = self._client.body_arrived()
        if data is not None:
            self._add(data)
            self._whole = True
        return data

    async def read(self) -> bytes:
        """The next piece, empty at the end. Raises RequestError."""
        piece = await self._client.read_body()
        if piece:
            self._add(piece)
        else:
            self._whole = True
        return piece

    def _add(self, piece: bytes) -> None:
        self._record.bytes_in += len(piece)
        if self._limit is not None and self._record.bytes_in > self._limit:
            raise BodyTooLarge
        if self._pieces is not None:
            self._pieces.append(piece)
            if self._record.bytes_in > self._keep:
                self._pieces = None


class Exchange:
    """One request of `client`, and its response. `keep`: bytes of a body that are kept for a second sending."""

    __slots__ = ("_body", "_client", "_has_new_token", "_is_chunked", "_pool", "_record", "_request", "_upload")

    def __init__(
        self, request: OutboundRequest, client: Client, pool: UpstreamPool, record: RequestRecord, keep: int
    ) -> None:
        self._request = request
        self._client = client
        self._pool = pool
        self._record = record
        self._body = _Body(request, client, record, keep) if request.section.has_body else _NO_BODY
        self._upload: asyncio.Task[None] | None = None
        self._has_new_token = self._is_chunked = False

    async def run(self) -> None:
        """Relays the request and its response.

        Raises ProxyError. If `record.status` is set by then, the response has begun, and the client's connection must
        be aborted; else a problem document can still be sent.
        """
        fresh = False
        while True:
            connection = None if fresh else self._pool.take_idle()
            reused = connection is not None
            if connection is None:
                connection = await self._connect(fresh=fresh)
            try:
                if await self._attempt(connection):
                    return
                fresh = False
            except UpstreamIncomplete:
                if not reused or not self._may_use_another(connection):
                    raise
                # Other kept connections may be as old; a new one is not.
                fresh = True
                self._request = self._client.again()

    async def _connect(self, *, fresh: bool) -> UpstreamConnection:
        began = perf_counter()
        connection = await in_task(self._pool.acquire(fresh=fresh))
        self._record.connect = perf_counter() - began
        return connection

    def _may_use_another(self, connection: UpstreamConnection) -> bool:
        body_kept = self._body.kept is not None
        return after_lost_connection(self._request.method, answered=connection.is_answered, body_kept=body_kept)

    async def _attempt(self, connection: UpstreamConnection) -> bool:
        """Sends the request and relays the response; False if it is to be sent once more, as it is by then."""
        try:
            sent = perf_counter()
            response = self._send(connection)
            if not connection.request_sent:
                await self._begin_upload(connection, response)
            while not response.head_done:
                await connection.wait()
            self._record.ttfb = perf_counter() - sent
            if not connection.request_sent:
                # The response came before the whole request: the rest of it is not wanted (RFC 9112 §9.3).
                self._client.persistent = False
            if not response.complete:
                if self._is_refused(response) and await self._renew(response):
                    return False
                await self._relay(connection, response)
                return True
        finally:
            await self._leave(connection) if self._upload is not None else self._pool.release(connection)
        # Others may have the connection by now: this request may have to wait for a token.
        if self._is_refused(response) and await self._renew(response):
            return False
        self._write(response, self._begin(response), response.take())
        return True

    async def _leave(self, connection: UpstreamConnection) -> None:
        """Of an exchange with an upload."""
        upload = cast("asyncio.Task[None]", self._upload)
        try:
            if not upload.done():
                # The rest of the body is the client connection's to read away, once nobody else reads.
                upload.cancel()
                await asyncio.wait({upload})
        finally:
            # A client that goes away in the meantime takes no connection of the pool with it.
            self._pool.release(connection)

    # The request.

    def _send(self, connection: UpstreamConnection) -> Response:
        """With its body, if that is here already."""
        request = self._request
        body = self._body.kept
        if body is None and not request.section.expects_continue:
            # A client that asks first has sent nothing yet.
            body = self._body.at_once()
        if body is None:
            return connection.start(request, b"", finished=False)
        return connection.start(request, _framed(body, request), finished=True)

    async def _begin_upload(self, connection: UpstreamConnection, response: Response) -> None:
        if not self._request.section.expects_continue or await self._go_ahead(connection, response):
            self._upload = asyncio.get_running_loop().create_task(self._send_body(connection))

    async def _go_ahead(self, connection: UpstreamConnection, response: Response) -> bool:
        """Asks the client for its body, unless the upstream has answered without wanting it (RFC 9110 §10.1.1)."""

        def run_out() -> None:
            response.continued = True
            connection.wake()

        patience = asyncio.get_running_loop().call_later(CONTINUE_PATIENCE, run_out)
        try:
            while not (response.continued or response.head_done):
                await connection.wait()
        finally:
            patience.cancel()
        if response.head_done:
            return False
        self._client.write(CONTINUE)
        return True

    async def _send_body(self, connection: UpstreamConnection) -> None:
        chunked = self._request.section.chunked
        try:
            while piece := await self._body.read():
                connection.send(_chunk(piece) if chunked else piece)
                await connection.drain()
            connection.finish(_LAST_CHUNK if chunked else b"")
        except ProxyError as error:
            connection.fail(error)
        except Exception:
            # Whoever waits for the response must not wait for ever.
            connection.fail(ProxyError())
            raise

    # A second sending.

    def _is_refused(self, response: Response) -> bool:
        """Could another token, or another proof of possession, change the answer?"""
        noted = response.fields.noted
        if _NONCE in noted:
            self._client.remember_nonce(noted[_NONCE])
        return not self._has_new_token and asks_for_another_token(response.status, noted.get(_CHALLENGE, b""))

    async def _renew(self, response: Response) -> bool:
        """Makes the request the one to send once more, where that is possible."""
        noted = response.fields.noted
        replayable = self._body.kept is not None and not self._record.replayed
        if _NONCE in noted and asks_for_nonce(noted.get(_CHALLENGE, b"")):
            renewed: OutboundRequest | None = self._client.again()
        else:
            self._has_new_token = True
            renewed = await self._client.renew(replayable=replayable)
        if renewed is None or not replayable:
            return False
        self._request = renewed
        self._record.replayed = True
        return True

    # The response.

    async def _relay(self, connection: UpstreamConnection, response: Response) -> None:
        """Of a response that is still coming."""
        if response.switched:
            await self._tunnel(connection, response)
            return
        head = self._begin(response)
        while not response.complete:
            self._write(response, head, connection.take())
            head = b""
            await self._client.drain()
            if not response.has_news:
                await connection.wait()
        # A whole response has left its connection.
        self._write(response, head, response.take())

    def _begin(self, response: Response) -> bytes:
        """The head of the answer. From here on, only the end of the connection can tell of a failure (R115)."""
        self._is_chunked = self._reframes_as_chunked(response)
        self._record.status = response.status
        return self._head(response, _date(response) + self._framing(response))

    def _write(self, response: Response, out: bytes, data: bytes) -> None:
        """`out`, and `data` behind it as a piece of the body."""
        if data:
            self._record.bytes_out += len(data)
            out += _chunk(data) if self._is_chunked else data
        if self._is_chunked and response.complete:
            out += _LAST_CHUNK
        if out:
            self._client.write(out)

    async def _tunnel(self, connection: UpstreamConnection, response: Response) -> None:
        self._client.write(self._head(response, _SWITCHED))
        self._record.status = response.status
        self._client.persistent = False
        await tunnel(self._client, connection, self._record)

    def _head(self, response: Response, added: bytes) -> bytes:
        reason, lines, token = response.reason, response.fields.lines, self._request.token
        if token in response.head:
            # An upstream that echoes the credential must not give it to the client (R69).
            reason = b"" if token in reason else reason
            lines = [line for line in lines if token not in line]
        if self._record.replayed:
            added = _REPLAYED + added
        return response_head(response.status, reason, lines, added)

    def _reframes_as_chunked(self, response: Response) -> bool:
        """Is the length unknown, and the client able to read chunks? HTTP/1.0 reads to the end of the connection."""
        bodiless = self._request.bodiless_response or response.status in (_NO_CONTENT, _NOT_MODIFIED)
        if bodiless or response.length is not None:
            return False
        if not self._client.http_11:
            self._client.persistent = False
        return self._client.http_11

    def _framing(self, response: Response) -> bytes:
        client = self._client
        lines = b"Transfer-Encoding: chunked\r\n" if self._is_chunked else b""
        # RFC 9110 §8.6: kept for HEAD and 304, where it tells of another response; forbidden in a 204.
        if response.length is not None and response.status != _NO_CONTENT:
            lines = b"Content-Length: %d\r\n" % response.length
        if not client.persists():
            return lines + b"Connection: close\r\n"
        return lines if client.http_11 else lines + b"Connection: keep-alive\r\n"


def _date(response: Response) -> bytes:
    """RFC 9110 §6.6.1: a gateway with a clock adds the field where the origin left it out."""
    return b"" if b"date" in response.fields.noted else b"Date: %b\r\n" % formatdate(usegmt=True).encode()


def _framed(body: bytes, request: OutboundRequest) -> bytes:
    return _chunk(body) + _LAST_CHUNK if request.section.chunked else body


def _chunk(data: bytes) -> bytes:
    # An empty chunk would end the body (RFC 9112 §7.1).
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
