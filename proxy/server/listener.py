"""Takes connections, as many as there may be."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Collection, Sequence
from math import inf

import aiofastnet

from proxy.log import Log
from proxy.server.sockets import address_of, close, refuse

# Seconds after which a full house looks whether somebody has left, and between two lines about it.
_RETRY = 0.1
_QUIET = 60.0


class Listener:
    """Accepts on `sockets`, which it owns, until it is closed: on all of them, or on those that `watch` names.

    `count`: how many connections there are; `limit`: how many there may be. Who comes too many waits in the kernel's
    queue (R160). aiofastnet's own server would spin. `at_once`: how many are taken in a turn of the loop, so that other
    processes that accept on the same sockets get their part.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        port: Callable[[], asyncio.Protocol],
        log: Log,
        *,
        count: Callable[[], int],
        limit: Callable[[], float],
        at_once: float = inf,
        tls: ssl.SSLContext | None = None,
        handshake_timeout: float | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._log = log
        self._count = count
        self._limit = limit
        self._at_once = at_once
        self._tls = tls
        self._handshake_timeout = handshake_timeout
        self._quiet_until = -inf
        self._opening: set[asyncio.Task[None]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._sockets = list(sockets)
        self._watched: set[socket.socket] = set()
        self.addresses = [address_of(listening) for listening in sockets]
        for listening in sockets:
            listening.settimeout(0)
        self.watch(sockets)

    def watch(self, sockets: Collection[socket.socket]) -> None:
        """From here on it accepts on these of its sockets, and leaves the others to other processes."""
        for listening in self._watched.difference(sockets):
            self._forget(listening)
        for listening in set(self._sockets).intersection(sockets) - self._watched:
            self._watched.add(listening)
            self._watch(listening)

    def refuse(self) -> float:
        """Nobody can connect from here on; returns the seconds in which those who have begun to can be taken (R162)."""
        return max(map(refuse, self._sockets), default=0.0)

    def close(self) -> None:
        """Takes the connections that the kernel has made by now, and no more; those that have been taken stay."""
        for listening in self._sockets:
            self._forget(listening)
            # What is left in the queue would be reset, with the request that its client may have sent already.
            self._take(listening, inf)
            close(listening)
        self._sockets.clear()

    def _forget(self, listening: socket.socket) -> None:
        self._watched.discard(listening)
        self._loop.remove_reader(listening)
        pause = self._pauses.pop(listening, None)
        if pause is not None:
            pause.cancel()

    async def settled(self) -> None:
        """Returns when each connection that was taken is open, or has failed."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _watch(self, listening: socket.socket) -> None:
        self._loop.add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        reason = self._take(listening, self._at_once)
        if reason is not None:
            self._loop.remove_reader(listening)
            self._report(listening, reason)
            self._pauses[listening] = self._loop.call_later(_RETRY, self._watch, listening)

    def _take(self, listening: socket.socket, most: float) -> str | None:
        """At most so many of those that the kernel has made; why there can be no more for a while, if so."""
        try:
            while len(self._opening) + self._count() < self._limit():
                accepted, _ = listening.accept()
                accepted.settimeout(0)
                self._open(accepted)
                most -= 1
                if not most:
                    return None
        except BlockingIOError:
            return None
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                # A Unix socket that refuses, as that of all workers does when the first of them ends.
                self._forget(listening)
                return None
            return exc.strerror or type(exc).__name__
        return "there are as many connections as there may be"

    def _report(self, listening: socket.socket, reason: str) -> None:
        if self._loop.time() >= self._quiet_until:
            self._quiet_until = self._loop.time() + _QUIET
            address = address_of(listening)
            self._log.warning("accept_paused", address=address, reason=reason, connections=self._count())

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
