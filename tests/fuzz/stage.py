"""The data port with its upstream and its clients in one event loop, over real sockets: no process to start, and a
thousand exchanges a second.

Only the identity provider is played. Whatever a test did, `rest` asks afterwards that nothing of it is left.
"""

import asyncio
import gc
import io
import json
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar, cast

import aiofastnet
import uvloop

from proxy.credential import Credential
from proxy.log import Log
from proxy.metrics import Traffic
from proxy.server import DataPort
from proxy.server.serving import Serving
from proxy.settings import Address, Duration, Listen, Settings, Size, Upstream
from proxy.settings import Limits as LimitSettings
from proxy.settings import Log as LogSettings
from proxy.tokens import TokenSource
from proxy.upstream.pool import UpstreamPool

T = TypeVar("T")

# Seconds after which something that should have happened never will.
PATIENCE = 2
# Seconds without an event that a peer can see, after which nothing is on its way any more. It decides when a peer acts
# next, never whether a test passes.
QUIET = 0.0003
_BUFFER = 16 << 10


class Peer(asyncio.Protocol):
    """One end that a test plays: it keeps what it receives."""

    def __init__(self, stage: "Stage", heard: Callable[["Peer"], None] | None = None) -> None:
        self._stage = stage
        self._heard = heard
        self.received = bytearray()
        self.ended = False  # by the other side, or altogether
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._stage.peers.add(self)
        self._stage.happened += 1

    def data_received(self, data: bytes) -> None:
        self._stage.happened += 1
        self.received += data
        if self._heard is not None:
            self._heard(self)

    def eof_received(self) -> bool:
        self._stage.happened += 1
        self.ended = True
        return True  # what is left to say can still be said

    def connection_lost(self, _exc: Exception | None) -> None:
        self._stage.happened += 1
        self._stage.peers.discard(self)
        self.ended = self.closed = True

    def send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Ends with a FIN, after what was sent."""
        self._transport.close()

    def abort(self) -> None:
        """Ends with a reset."""
        connected = self._transport.get_extra_info("socket")
        if not self._transport.is_closing():
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._transport.abort()

    def pause(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()


class Tokens:
    """Stands in for the token source: a token is always there, and a refused one is replaced."""

    def __init__(self) -> None:
        self.generation = 1

    @property
    def token(self) -> bytes:
        return b"canary-%d" % self.generation

    def current(self) -> Credential:
        return Credential(b"Authorization: Bearer " + self.token + b"\r\n", self.generation)

    async def acquire(self) -> Credential:
        return self.current()

    async def replace(self, generation: int, *, wait: bool) -> Credential:
        if generation == self.generation:
            self.generation += 1
        return self.current()


class Stage:
    """`hears` gets each upstream connection whenever bytes have come on it."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work`, then asks that it left nothing behind."""
        return self._runner.run(self._scene(work))

    async def _scene(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        finally:
            await self.rest()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self.happened = 0
        self.peers: set[Peer] = set()
        self.unexpected: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: self.unexpected.append(context))
        self.hears: Callable[[Peer], None] = lambda _: None
        self.upstreams: list[Peer] = []
        listener = socket.socket()
        # The connections inherit it: a peer that does not read is soon noticed.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        listener.bind(("127.0.0.1", 0))
        self.authority = b"127.0.0.1:%d" % listener.getsockname()[1]
        self._upstream = await loop.create_server(self._accept, sock=listener)
        settings = Settings(
            listen=Listen(address=Address("127.0.0.1", 0)),
            upstream=Upstream(url="http://" + self.authority.decode()),
            limits=LimitSettings(replay_body=Size(1 << 10)),
            log=LogSettings(access="all"),
        )
        self.tokens, self.traffic, self._log = Tokens(), Traffic(), io.StringIO()
        self.pool = UpstreamPool(settings.upstream, self.traffic)
        self.serving = Serving(
            settings,
            tokens=cast(TokenSource, self.tokens),
            pool=self.pool,
            traffic=self.traffic,
            log=Log(self._log),
        )
        self._data_port = await aiofastnet.create_server(loop, DataPort(self.serving), "127.0.0.1", 0)
        self._port = self._data_port.sockets[0].getsockname()[1]
        self._descriptors = _descriptors()

    def _accept(self) -> Peer:
        peer = Peer(self, lambda peer: self.hears(peer))
        self.upstreams.append(peer)
        return peer

    async def connect(self) -> Peer:
        """A client."""
        connected = socket.socket()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        connected.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connected, ("127.0.0.1", self._port))
        _, peer = await loop.create_connection(lambda: Peer(self), sock=connected)
        return peer

    async def settle(self) -> None:
        """Returns when everybody has reacted to everything."""
        seen, since = self.happened, perf_counter()
        while perf_counter() - since < QUIET:
            await asyncio.sleep(0)
            if self.happened != seen:
                seen, since = self.happened, perf_counter()

    async def until(self, condition: Callable[[], object], what: str, state: Callable[[], object] = str) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while not condition():
            assert loop.time() < end, f"never: {what} {state()}"
            await asyncio.sleep(0)

    async def rest(self) -> None:
        """Ends all that the test plays, and looks for what the proxy kept of it."""
        await self.until(lambda: not any(self._left().values()), "the end of everything", self._left)
        self.upstreams.clear()
        self.hears = lambda _: None
        assert not self.unexpected, self.unexpected
        self._judge_log()

    def _left(self) -> dict[str, int]:
        """What is still there, by kind. Connections that were on their way may arrive as late as this."""
        for peer in list(self.peers):
            peer.abort()
        left = {
            "peers": len(self.peers),
            "in_flight": self.traffic.in_flight,
            "clients": len(self.serving.connections._open),
            **self.pool.counts(),
            "tasks": len(asyncio.all_tasks()) - 1,
        }
        if not any(left.values()):
            left["descriptors"] = _descriptors() - self._descriptors
            if left["descriptors"]:
                # asyncio.staggered forgets a socket that was connected in the turn in which its caller was cancelled.
                gc.collect()
        return left

    def _judge_log(self) -> None:
        written = self._log.getvalue()
        self._log.seek(0)
        self._log.truncate()
        assert "canary" not in written
        assert {json.loads(line)["event"] for line in written.splitlines()} <= {"request"}, written


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def stage() -> Iterator[Stage]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield Stage(runner)
