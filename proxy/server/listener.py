"""Takes connections, as many as there may be."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from math import inf

import aiofastnet

from proxy.log import Log
from proxy.server.sockets import address_of, close

# Seconds after which a full house looks whether somebody has left, and between two lines about it.
_RETRY = 0.1
_QUIET = 60.0


class Listener:
    """Accepts on `sockets`, which it owns, until it is closed.

    `count`: how many connections there are; `limit`: how many there may be. Who comes too many waits in the kernel's
    queue (R160). aiofastnet's own server would spin.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        port: Callable[[], asyncio.Protocol],
        log: Log,
        *,
        count: Callable[[], int],
        limit: Callable[[], float],
        tls: ssl.SSLContext | None = None,
        handshake_timeout: float | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._log = log
        self._count = count
        self._limit = limit
        self._tls = tls
        self._handshake_timeout = handshake_timeout
        self._quiet_until = -inf
        self._opening: set[asyncio.Task[None]] = set()
        self.addresses = [address_of(listening) for listening in sockets]
        self._accepting = [self._loop.create_task(self._accept(listening)) for listening in sockets]

    def close(self) -> None:
        """Takes no more connections; those that have been made stay."""
        for task in (*self._accepting, *self._opening):
            task.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        listening.settimeout(0)
        try:
            while True:
                if len(self._opening) + self._count() >= self._limit():
                    await self._pause(listening, "there are as many connections as there may be")
                    continue
                try:
                    accepted, _ = await self._loop.sock_accept(listening)
                except OSError as exc:
                    await self._pause(listening, exc.strerror)
                    continue
                self._open(accepted)
        finally:
            close(listening)

    async def _pause(self, listening: socket.socket, reason: str | None) -> None:
        if self._loop.time() >= self._quiet_until:
            self._quiet_until = self._loop.time() + _QUIET
            address = address_of(listening)
            self._log.warning("accept_paused", address=address, reason=reason, connections=self._count())
        await asyncio.sleep(_RETRY)

    def _open(self, accepted: socket.socket) -> None:
        task = self._loop.create_task(self._connect(accepted))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await aiofastnet.connect_accepted_socket(
                self._loop, self._port, accepted, ssl=self._tls, ssl_handshake_timeout=self._handshake_timeout
            )
        except OSError as exc:
            self._log.debug("handshake_failed", error=exc)
