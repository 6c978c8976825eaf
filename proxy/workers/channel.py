"""One end of the pair of sockets between parent and worker."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from proxy.workers.protocol import Messages, NotUnderstood, ToParent, ToWorker, encode

T = TypeVar("T")


class Channel(asyncio.Protocol, Generic[T]):
    """Calls `received` with each message that comes; they are of `kind`."""

    def __init__(self, kind: Any, received: Callable[[T], None]) -> None:
        self._messages: Messages[T] = Messages(kind)
        self._received = received
        self._transport: asyncio.Transport | None = None
        self.is_clogged = False
        self._gone = asyncio.Event()

    async def open(self, end: socket.socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def send(self, message: ToWorker | ToParent) -> None:
        """Nothing happens where the other side has gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message))

    async def gone(self) -> None:
        """Returns when no more messages will come."""
        await self._gone.wait()

    def close(self) -> None:
        """Once all that was sent has left."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._messages.feed(data):
                self._received(message)
        except NotUnderstood:
            cast(asyncio.Transport, self._transport).abort()

    def connection_lost(self, _exc: BaseException | None) -> None:
        self._gone.set()

    def pause_writing(self) -> None:
        """The other side does not read. What can wait should wait."""
        self.is_clogged = True

    def resume_writing(self) -> None:
        self.is_clogged = False
