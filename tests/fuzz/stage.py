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
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar, cast

import aiofastnet

from proxy.core.secret import Secret
from proxy.credential import Credential
from proxy.engine import Engine
from proxy.log import Log
from proxy.loop import loop_factory
from proxy.metrics import Traffic
from proxy.server import DataPort
from proxy.server.serving import Serving
from proxy.settings import Address, Listen, Settings, Size, Upstream
from proxy.settings import Limits as LimitSettings
from proxy.settings import Log as LogSettings
from proxy.tokens import TokenSource
from proxy.upstream.pool import UpstreamPool

T = TypeVar("T")

# Seconds after which something that should have happened never will.
PATIENCE = 10
# After so many turns of the loop and so many seconds without an event that a peer can see, nothing is on its way any
# more. It decides when a peer acts next, never whether a test passes.
QUIET_TURNS, QUIET_SECONDS = 50, 0.0003
_BUFFER = 16 << 10


class Peer(asyncio.Protocol):
    """One end that a test plays: it keeps what it receives."""

    def __init__(self, stage: "Stage", heard: Callable[["Peer"], None] | None = None) -> None:
        self._stage = stage
        self._heard = heard
        self.received = bytearray()
        self.ended = False  # by the other side, or altogether
        self.finished = False  # by a FIN
        self.closed = self._has_finished = False

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
        self.ended = self.finished = True
        return not self._has_finished  # what is left to say can still be said

    def connection_lost(self, _exc: Exception | None) -> None:
        self._stage.happened += 1
        self._stage.peers.discard(self)
        self.ended = self.closed = True

    def send(self, data: bytes) -> None:
        if not self._transport.is_closing() and not self._has_finished:
            self._transport.write(data)

    def finish(self) -> None:
        """Says no more, and goes on listening: the kernel would make a reset of a close before all has been read."""
        if not self._transport.is_closing() and not self._has_finished:
            self._has_finished = True
            self._transport.write_eof()

    def close(self) -> None:
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
        return Credential(Secret(self.token.decode()), self.generation)

    async def acquire(self) -> Credential:
        return self.current()

    async def replace(self, generation: int, *, wait: bool) -> Credential:  # noqa: ARG002 - a token is always there
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
        engine = Engine(settings, cast(TokenSource, self.tokens), self.pool)
        self.serving = Serving(engine, traffic=self.traffic, log=Log(self._log))
        self._data_port = await aiofastnet.create_server(loop, DataPort(self.serving), "127.0.0.1", 0)
        self._port = self._data_port.sockets[0].getsockname()[1]
        self._descriptors = _descriptors()

    def close(self) -> None:
        self._data_port.close()
        self._upstream.close()
        self.run(asyncio.sleep(0))

    def _accept(self) -> Peer:
        peer = Peer(self, lambda peer: self.hears(peer))  # noqa: PLW0108 - `hears` is another for each scene
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
        seen, since, turns = self.happened, perf_counter(), 0
        while turns < QUIET_TURNS or perf_counter() - since < QUIET_SECONDS:
            await asyncio.sleep(0)
            os.sched_yield()  # the kernel may want a turn, too
            turns += 1
            if self.happened != seen:
                seen, since, turns = self.happened, perf_counter(), 0

    async def until(self, condition: Callable[[], object], what: str, state: Callable[[], object] = str) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while not condition():
            assert loop.time() < end, f"never: {what} {state()}"
            await self.settle()

    async def rest(self) -> None:
        """Ends all that the test plays, and looks for what the proxy kept of it."""
        await self.until(lambda: not any(self._left().values()), "the end of everything", self._left)
        self.upstreams.clear()
        self.hears = lambda _: None
        self.tokens.generation = 1
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
            left["descriptors"] = max(0, _descriptors() - self._descriptors)
            if left["descriptors"]:
                # asyncio.staggered forgets a socket that was connected in the turn in which its caller was cancelled:
                # the only thing that is left to the garbage collector.
                gc.collect()
        return left

    def _judge_log(self) -> None:
        written = self._log.getvalue()
        self._log.seek(0)
        self._log.truncate()
        assert "canary" not in written
        assert {json.loads(line)["event"] for line in written.splitlines()} <= {"request"}, written


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextmanager
def opened() -> Iterator[Stage]:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        stage = Stage(runner)
        yield stage
        stage.close()
