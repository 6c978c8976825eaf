"""The two ends of a case: they note every byte that comes, and how the other side closes, whatever they are doing."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeVar, cast

from tests.conformance.messages import Message, read_request

T = TypeVar("T")

PATIENCE = 10.0

_RESET = struct.pack("ii", 1, 0)


class News:
    """Wakes whoever waits when anything has happened at any end."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, condition: Callable[[], T | None], what: str, patience: float | None = PATIENCE) -> T:
        """Returns the first true thing that `condition` gives."""
        try:
            async with asyncio.timeout(patience):
                while not (result := condition()):
                    await self._event.wait()
        except TimeoutError:
            raise AssertionError(f"never: {what}") from None
        return result


class End(asyncio.Protocol):
    """One end of a connection."""

    def __init__(self, news: News) -> None:
        self.news = news
        self.data = b""
        self.ended: Literal["", "fin", "reset"] = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.news.tell()

    def eof_received(self) -> bool:
        self.ended = "fin"
        self.news.tell()
        return True  # half-closed, until this end closes, too

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = self.ended or ("reset" if exc else "fin")
        self.news.tell()

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self, how: Literal["fin", "reset"]) -> None:
        """A `fin` closes one direction: what the other side still sends is noted."""
        if self._transport.is_closing():
            return
        if how == "fin":
            with suppress(OSError):  # the other side may have reset the connection
                self._transport.write_eof()
        else:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def leave(self) -> None:
        self._transport.abort()


class UpstreamEnd(End):
    """One connection that the proxy has made, read as a sequence of requests."""

    def __init__(self, news: News, accepted: Callable[["UpstreamEnd"], None]) -> None:
        super().__init__(news)
        self._accepted = accepted
        self._read = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._accepted(self)

    @property
    def unread(self) -> bytes:
        """What is not yet a whole request."""
        return self.data[self._read :]

    async def head(self) -> Message | None:
        """The next request, as soon as its head is there; None at the end of the connection."""
        await self.news.until(lambda: read_request(self.unread) or self.ended, "the next request", patience=None)
        return read_request(self.unread)

    async def whole(self) -> Message | None:
        """The request that has begun, with all of its body; None if the proxy ends it before."""

        def is_decided() -> bool:
            request = read_request(self.unread)
            return bool(self.ended) or (request is not None and request.complete)

        await self.news.until(is_decided, "the whole of a request")
        request = read_request(self.unread)
        if request is None or not request.complete:
            return None
        self._read += request.size
        return request
