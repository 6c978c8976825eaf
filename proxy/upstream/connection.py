"""One connection to the upstream: one exchange at a time, with back-pressure and deadlines both ways."""

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.admission import OutboundRequest
from proxy.deadline import Deadline
from proxy.errors import ProxyError, UpstreamIncomplete, UpstreamProtocol, UpstreamTimeout
from proxy.settings import Upstream
from proxy.steps import Signal
from proxy.tls import resume_reading
from proxy.upstream.response import Response
from proxy.upstream.tunnel import FarSide

# Body bytes that wait for the client before the upstream is told to pause, as in asyncio's streams.
HIGH_WATER = 128 << 10


class UpstreamConnection(asyncio.Protocol):
    """`start` an exchange, `send` and `finish` its body in pieces, and `wait` for news of `response`.

    `error` is what ended the exchange early.
    """

    __slots__ = (
        "_deadline",
        "_drained",
        "_ended",
        "_loop",
        "_news",
        "_on_lost",
        "_reading_paused",
        "_settings",
        "_transport",
        "_tunnel",
        "_writing_paused",
        "closed",
        "error",
        "idle",
        "request_sent",
        "response",
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
        self._news = Signal()
        self._drained: asyncio.Future[None] | None = None
        self._reading_paused = self._writing_paused = self._ended = False
        self._tunnel: FarSide | None = None
        self.response: Response | None = None
        self.error: ProxyError | None = None
        self.closed = self.request_sent = False
        self.idle = True

    # One exchange.

    def start(self, request: OutboundRequest, body: bytes, *, finished: bool) -> Response:
        """Sends the head with `body`, framed: the whole of it if `finished`. The response is empty as yet."""
        self.response = response = Response(request)
        self.error = None
        self.idle = False
        self.request_sent = finished
        self._transport.write(request.head + body)
        if finished:
            self._deadline.set(self._settings.response_timeout)
        else:
            self._deadline.clear()
        return response

    def send(self, data: bytes) -> None:
        """A piece of the request body, framed."""
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._head_done and not self._reading_paused:
            # A response that has begun may have to wait for the request.
            self._deadline.set(self._settings.idle_timeout)

    def finish(self, data: bytes = b"") -> None:
        """The request is complete; `data` is what is left of it."""
        if data:
            self.send(data)
        self.request_sent = True
        if not self.is_complete and not self._reading_paused:
            self._deadline.set(self._settings.idle_timeout if self._head_done else self._settings.response_timeout)

    async def drain(self) -> None:
        """Waits until the upstream takes more. A stalled one ends the exchange after `idle_timeout`."""
        if not self._writing_paused or self.closed:
            return
        self._deadline.set(self._settings.idle_timeout)
        self._drained = self._loop.create_future()
        await self._drained
        if not self.request_sent and not self._head_done:
            self._deadline.clear()

    @property
    def is_complete(self) -> bool:
        return self.response is not None and self.response.complete

    @property
    def is_answered(self) -> bool:
        """Has a single byte come back?"""
        return self.response is not None and self.response.answered

    @property
    def _head_done(self) -> bool:
        return self.response is not None and self.response.head_done

    @property
    def is_reusable(self) -> bool:
        """Is the exchange over on both sides, and may another follow?"""
        return self.request_sent and not self.closed and self.response is not None and self.response.keep_alive

    def wait(self) -> Signal:
        """To be awaited: a head, a `100 Continue`, a piece of the body, or the end. Raises what it was failed with."""
        if self.error is not None:
            raise self.error
        return self._news

    def wake(self) -> None:
        """Whoever waits has something else to look at."""
        self._news.set()

    def take(self) -> bytes:
        """The body bytes that have come since the last call, maybe none."""
        data = cast(Response, self.response).take()
        if data and self._reading_paused:
            self._reading_paused = False
            resume_reading(self._transport)
            self._deadline.set(self._settings.idle_timeout)
        return data

    def release(self) -> None:
        """The exchange is over and the connection waits for another."""
        self.idle = True
        self.response = None
        self._deadline.set(self._settings.keepalive_timeout)

    def abort(self) -> None:
        """Ends the connection at once. A closing one could go on reading for minutes (uvloop#471)."""
        self.closed = True
        self._deadline.close()
        self._transport.abort()

    def discard(self) -> None:
        """The exchange is over, and no other may follow. What a client sent through a tunnel is sent on, in time."""
        if self._tunnel is None:
            self.abort()
        else:
            self._tunnel = None
            self._deadline.set(self._settings.idle_timeout)
            self._transport.close()

    def fail(self, error: ProxyError) -> None:
        """Ends the exchange with `error`, unless it has ended already."""
        if not self.is_complete and self.error is None:
            self.error = error
        self.abort()
        self.wake()

    # After a 101.

    def open_tunnel(self, other: FarSide) -> None:
        self._tunnel = other
        if tail := self.take():
            other.write(tail)
        resume_reading(self._transport)

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        resume_reading(self._transport)

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadline.set(self._settings.keepalive_timeout)

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.write(data)
            return
        response = self.response
        if response is None or response.complete:
            # Nobody asked: an answer to a request that was never sent must not become the next one's (R118).
            self.fail(UpstreamProtocol())
            return
        try:
            response.feed(data)
        except ProxyError as error:
            self.fail(error)
            return
        if response.head_done:
            self._progress(response)
        elif response.continued:
            self.wake()

    def _progress(self, response: Response) -> None:
        if response.complete:
            self._deadline.clear()
        elif response.switched:
            self._deadline.clear()
            # What comes before the client's side is ready waits in the transport.
            self._transport.pause_reading()
        elif not self._reading_paused:
            self._deadline.set(self._settings.idle_timeout)
        self.wake()
        # Whoever waited has taken what there was by now: reading stops for a client that does not keep up.
        if response.buffered > HIGH_WATER and self._waits_for(response):
            self._reading_paused = True
            self._transport.pause_reading()
            self._deadline.clear()

    def _waits_for(self, response: Response) -> bool:
        return self.response is response and not (response.complete or self._reading_paused or self.closed)

    def eof_received(self) -> None:
        """A FIN, or over TLS a close_notify: an end that the upstream meant. The transport closes itself after it.

        RFC 9112 §9.8: without close_notify, anybody on the way could have cut the connection.
        """
        self._ended = True
        if self._tunnel is not None:
            self._tunnel.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._deadline.close()
        if self._tunnel is not None:
            self._tunnel.end(self.error if exc is None else UpstreamIncomplete())
        elif self.response is not None and self.error is None:
            self._judge_end(self.response)
        self.wake()
        self._wake_writer()
        self._on_lost(self)

    def _judge_end(self, response: Response) -> None:
        try:
            if self._ended:
                response.end()
            elif not response.complete:
                self.error = UpstreamIncomplete()
        except UpstreamIncomplete as error:
            self.error = error

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._tunnel is not None:
            self._tunnel.pause_reading()
            self._deadline.set(self._settings.idle_timeout)

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._tunnel is not None:
            self._tunnel.resume_reading()
            self._deadline.clear()
        self._wake_writer()

    def _timed_out(self) -> None:
        if self.idle:
            self.abort()
        else:
            self.fail(UpstreamTimeout())

    def _wake_writer(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
