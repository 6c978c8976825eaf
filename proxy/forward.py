"""One exchange: send the request, relay the response, end both sides cleanly whatever happens in between.

Knows nothing of tokens or policy: it gets a finished head and two connections.
"""

import asyncio
from contextlib import suppress
from time import perf_counter
from typing import Protocol

from proxy.admission import OutboundRequest
from proxy.core.headers import response_head
from proxy.errors import BodyTooLarge, ProxyError
from proxy.record import RequestRecord
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.pool import UpstreamPool

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# RFC 9110 §10.1.1: a client that waits for 100 should not wait for ever; an upstream that never sends it gets the body.
CONTINUE_PATIENCE = 1.0

_LAST_CHUNK = b"0\r\n\r\n"
_NO_CONTENT, _NOT_MODIFIED = 204, 304


class Client(Protocol):
    """What `forward` needs of the client's connection."""

    http_11: bool
    persistent: bool  # RFC 9112 §9.3; cleared where the connection can't go on after this exchange

    def body_arrived(self) -> bytes | None:
        """The whole body, if it has arrived; else None."""

    async def read_body(self) -> bytes:
        """The next piece, empty at the end. Raises RequestError."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None:
        """Waits until the client takes more; ends the connection of one that takes nothing."""


async def forward(request: OutboundRequest, client: Client, pool: UpstreamPool, record: RequestRecord) -> None:
    """Relays one request and its response.

    Raises ProxyError. If `record.status` is set by then, the response has begun, and the client's connection must be
    aborted; else a problem document can still be sent.
    """
    connection = pool.take_idle()
    if connection is None:
        began = perf_counter()
        connection = await pool.acquire()
        record.connect = perf_counter() - began
    upload: asyncio.Task[None] | None = None
    sent = perf_counter()
    try:
        if _send_at_once(request, client, connection, record):
            pass
        elif not request.expects_continue or await _go_ahead(client, connection):
            upload = asyncio.get_running_loop().create_task(_upload(request, client, connection, record))
        while not connection.head_done:
            await connection.wait()
        record.ttfb = perf_counter() - sent
        await _relay(request, client, connection, record)
    finally:
        if upload is not None and not upload.done():
            upload.cancel()
        if connection.complete and connection.request_sent:
            pool.release(connection)
        else:
            # RFC 9112 §9.3: what is left of the request's body would be read as the next request.
            connection.abort()


def _send_at_once(
    request: OutboundRequest, client: Client, connection: UpstreamConnection, record: RequestRecord
) -> bool:
    """Sends head and body in one write if the body is there; otherwise the head alone, and returns False."""
    if not request.has_body:
        connection.start(request.head, bodiless=request.bodiless_response, finished=True)
        return True
    body = None if request.expects_continue else client.body_arrived()
    if body is None:
        connection.start(request.head, bodiless=request.bodiless_response, finished=False)
        return False
    _check_size(len(body), request)
    record.bytes_in = len(body)
    if request.chunked:
        body = _chunk(body) + _LAST_CHUNK
    connection.start(request.head + body, bodiless=request.bodiless_response, finished=True)
    return True


async def _go_ahead(client: Client, connection: UpstreamConnection) -> bool:
    """Asks the client for its body, unless the upstream has answered without wanting it (RFC 9110 §10.1.1)."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CONTINUE_PATIENCE):
            while not (connection.continued or connection.head_done):
                await connection.wait()
    if connection.head_done:
        return False
    client.write(CONTINUE)
    return True


async def _upload(
    request: OutboundRequest, client: Client, connection: UpstreamConnection, record: RequestRecord
) -> None:
    try:
        while piece := await client.read_body():
            record.bytes_in += len(piece)
            _check_size(record.bytes_in, request)
            connection.send(_chunk(piece) if request.chunked else piece)
            await connection.drain()
        connection.finish(_LAST_CHUNK if request.chunked else b"")
    except ProxyError as error:
        connection.fail(error)


def _check_size(size: int, request: OutboundRequest) -> None:
    if request.max_body is not None and size > request.max_body:
        raise BodyTooLarge


async def _relay(
    request: OutboundRequest, client: Client, connection: UpstreamConnection, record: RequestRecord
) -> None:
    chunked = _reframes_as_chunked(request, client, connection)
    if not connection.request_sent:
        # The response came before the whole request: the rest of it is not wanted (RFC 9112 §9.3).
        client.persistent = False
    out = response_head(
        connection.status, connection.reason, connection.fields.lines, _framing(client, connection, chunked=chunked)
    )
    record.status = connection.status
    while True:
        data = connection.take()
        complete = connection.complete
        if data:
            record.bytes_out += len(data)
            out += _chunk(data) if chunked else data
        if complete and chunked:
            out += _LAST_CHUNK
        if out:
            client.write(out)
            out = b""
        if complete:
            return
        await client.drain()
        if not connection.has_news:
            await connection.wait()


def _reframes_as_chunked(request: OutboundRequest, client: Client, connection: UpstreamConnection) -> bool:
    """Is the length unknown, and the client able to read chunks? HTTP/1.0 clients read to the end of the connection."""
    if connection.length is not None or not _may_have_body(request, connection):
        return False
    if not client.http_11:
        client.persistent = False
    return client.http_11


def _may_have_body(request: OutboundRequest, connection: UpstreamConnection) -> bool:
    return not request.bodiless_response and connection.status not in (_NO_CONTENT, _NOT_MODIFIED)


def _framing(client: Client, connection: UpstreamConnection, *, chunked: bool) -> bytes:
    lines = b"Transfer-Encoding: chunked\r\n" if chunked else b""
    # RFC 9110 §8.6: kept for HEAD and 304, where it tells of another response; forbidden in a 204.
    if connection.length is not None and connection.status != _NO_CONTENT:
        lines = b"Content-Length: %d\r\n" % connection.length
    if not client.persistent:
        return lines + b"Connection: close\r\n"
    return lines if client.http_11 else lines + b"Connection: keep-alive\r\n"


def _chunk(data: bytes) -> bytes:
    # An empty chunk would end the body (RFC 9112 §7.1).
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
