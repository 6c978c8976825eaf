"""Takes the clients' connections, as many as there are file descriptors for."""

import asyncio
import socket
import ssl
import sys
from collections.abc import Iterable
from math import inf

import aiofastnet

from proxy.log import Log
from proxy.server.port import DataPort
from proxy.server.serving import Serving
from proxy.server.sockets import close

# Descriptors for everything but clients and their upstream connections: the token, the admin port, files.
RESERVE = 32
# Seconds after which a full house looks whether somebody has left, and between two lines about it.
_RETRY = 0.1
_QUIET = 60.0


class Listener:
    """Accepts on `sockets`, which it owns, until it is closed.

    Each client leaves a descriptor for its upstream connection, and all of them the reserve, without which a token
    could not be renewed. Who comes too many waits in the kernel's queue (R160). aiofastnet's own server would spin.
    """

    def __init__(
        self, sockets: Iterable[socket.socket], port: DataPort, serving: Serving, tls: ssl.SSLContext | None, log: Log
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._connections = serving.connections
        self._max_upstream = serving.settings.upstream.max_connections
        self._tls = tls
        # A client that stalls in the handshake is one that stalls in the head.
        self._handshake_timeout = serving.settings.listen.header_timeout if tls else None
        self._log = log
        self._quiet_until = -inf
        self._opening: set[asyncio.Task[None]] = set()
        self._accepting = [self._loop.create_task(self._accept(listening)) for listening in sockets]

    def close(self) -> None:
        """Takes no more connections; those that have been made stay."""
        for task in (*self._accepting, *self._opening):
            task.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        listening.settimeout(0)
        try:
            while True:
                if self._is_full():
                    await self._pause("no file descriptors are left for more clients")
                    continue
                try:
                    accepted, _ = await self._loop.sock_accept(listening)
                except OSError as exc:
                    await self._pause(exc.strerror)
                    continue
                self._open(accepted)
        finally:
            close(listening)

    async def _pause(self, reason: str | None) -> None:
        if self._loop.time() >= self._quiet_until:
            self._quiet_until = self._loop.time() + _QUIET
            self._log.warning("accept_paused", reason=reason, clients=self._connections.count)
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

    def _is_full(self) -> bool:
        spare = _descriptor_limit() - RESERVE
        return len(self._opening) + self._connections.count >= max(1, spare - min(self._max_upstream, spare / 2))


def _descriptor_limit() -> float:
    """Asked each time: it can be changed from outside (prlimit(1))."""
    if sys.platform == "win32":
        return inf
    import resource  # noqa: PLC0415 - not on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return inf if soft == resource.RLIM_INFINITY else soft
