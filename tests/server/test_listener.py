"""Connections are taken as long as there are file descriptors for them."""

import asyncio
import io
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, Self, cast

import pytest
import uvloop

from proxy.log import Log
from proxy.server import listener as module
from proxy.server.listener import Listener
from proxy.server.serving import Connections
from proxy.server.sockets import listen_together
from proxy.settings import Address

TIMEOUT = 10


class Greeter(asyncio.Protocol):
    """In place of a client's connection: says that it is there."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.opened(cast(Any, self))
        cast(asyncio.Transport, transport).write(b"hello")

    def connection_lost(self, _exc: Exception | None) -> None:
        self._connections.lost(cast(Any, self))


class Noticed(io.StringIO):
    """A log that tells when there is a line in it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def write(self, line: str) -> int:
        self.written.set()
        return super().write(line)


class Scene:
    def __init__(
        self, sockets: Sequence[socket.socket], limit: Callable[[], float] = lambda: inf, at_once: float = inf
    ) -> None:
        self.connections = Connections()
        self.log = Noticed()
        self.address = sockets[0].getsockname()
        self.listener = Listener(
            sockets,
            lambda: Greeter(self.connections),
            Log(self.log),
            count=lambda: self.connections.count,
            limit=limit,
            at_once=at_once,
        )

    async def connect(self) -> "Caller":
        return Caller(*await asyncio.open_connection(*self.address))


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, listening: socket.socket) -> Self:
        return cls(*await asyncio.open_connection(*listening.getsockname()))

    async def is_served(self) -> bool:
        return await self._reader.read(5) == b"hello"

    async def leave(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def play(story: Callable[[Scene], Awaitable[None]], *sockets: socket.socket, limit: float = inf) -> None:
    async def run() -> None:
        scene = Scene(sockets or [socket.create_server(("127.0.0.1", 0))], lambda: limit)
        async with asyncio.timeout(TIMEOUT):
            await story(scene)
            scene.listener.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("limit, clients", [(1, 1), (2, 2), (2.5, 3)])
def test_who_comes_too_many_waits(limit: float, clients: int) -> None:
    """When there are as many as there may be, the next waits for a place (R160, F48)."""

    async def story(scene: Scene) -> None:
        callers = [await scene.connect() for _ in range(clients)]
        assert all([await caller.is_served() for caller in callers])
        late = await scene.connect()
        waiting = asyncio.ensure_future(late.is_served())
        await scene.log.written.wait()
        assert not waiting.done()
        assert scene.connections.count == clients
        await callers.pop().leave()
        assert await waiting
        for caller in (late, *callers):
            await caller.leave()

    play(story, limit=limit)


def test_a_full_house_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it lasts, and however often it comes back, the log is not flooded (R160)."""
    monkeypatch.setattr(module, "_RETRY", 0)

    async def story(scene: Scene) -> None:
        for _ in range(50):
            first, second = await scene.connect(), await scene.connect()
            assert await first.is_served()
            await first.leave()
            assert await second.is_served()
            await second.leave()
        assert scene.log.getvalue().count("accept_paused") == 1
        assert f"127.0.0.1:{scene.address[1]}" in scene.log.getvalue()

    play(story, limit=1)


class Exhausted(socket.socket):
    """A listening socket of a process that has no descriptor left, three times."""

    failures = 3

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(24, "Too many open files")
        return super().accept()


def test_accept_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no descriptor to give, it is asked again after a while (R160)."""
    monkeypatch.setattr(module, "_RETRY", 0)
    listening = Exhausted()
    listening.bind(("127.0.0.1", 0))
    listening.listen()

    async def story(scene: Scene) -> None:
        caller = await scene.connect()
        assert await caller.is_served()
        await caller.leave()
        assert listening.failures == 0
        assert "Too many open files" in scene.log.getvalue()

    play(story, listening)


def test_watch() -> None:
    """It accepts where it is told to, and leaves the rest to others until it is told otherwise."""
    watched, left = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))

    async def story(scene: Scene) -> None:
        scene.listener.watch({watched})
        waiting = await Caller.to(left)
        callers = []
        # Whoever comes after it is served before it.
        for count in range(1, 4):
            callers.append(await Caller.to(watched))
            assert await callers[-1].is_served()
            assert scene.connections.count == count
        scene.listener.watch({watched, left})
        assert await waiting.is_served()
        for caller in (waiting, *callers):
            await caller.leave()

    play(story, watched, left)


def test_one_at_a_time() -> None:
    """Of many that come at once to a socket that two accept on, each gets a part."""

    async def story(_scene: Scene) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        both = [Scene([each], at_once=1) for each in (listening, listening.dup())]
        callers = [socket.create_connection(listening.getsockname(), TIMEOUT) for _ in range(20)]
        loop = asyncio.get_running_loop()
        for caller in callers:
            caller.settimeout(0)
            assert await loop.sock_recv(caller, 5) == b"hello"
        assert min(scene.connections.count for scene in both) > 5
        for scene in both:
            scene.listener.close()
        for caller in callers:
            caller.close()

    play(story)


def test_close_takes_what_was_left() -> None:
    """At the end, connections of a socket that nobody watches are taken like the others (R162)."""
    watched, left = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))

    async def story(scene: Scene) -> None:
        scene.listener.watch({watched})
        waiting = await Caller.to(left)
        scene.listener.close()
        assert await waiting.is_served()
        await waiting.leave()

    play(story, watched, left)


def test_close() -> None:
    """After the end nobody is taken in any more, and who is there stays (R162)."""

    async def story(scene: Scene) -> None:
        caller = await scene.connect()
        assert await caller.is_served()
        scene.listener.close()
        with pytest.raises(ConnectionRefusedError):
            await scene.connect()
        assert scene.connections.count == 1
        await caller.leave()

    play(story)


def test_who_has_connected_before_the_end_is_taken() -> None:
    """A connection that the kernel has made is one that a client may have sent on already (R162)."""

    async def story(scene: Scene) -> None:
        with socket.create_connection(scene.address, TIMEOUT) as caller:
            scene.listener.close()
            await scene.listener.settled()
            assert scene.connections.count == 1
            loop = asyncio.get_running_loop()
            caller.settimeout(0)
            assert await loop.sock_recv(caller, 5) == b"hello"

    play(story)


class Crowd:
    """Clients that connect, are greeted and leave, over and over until they are refused. `lost`: who was reset.

    When each of them has been greeted they wait for whoever else waits at `ready`.
    """

    SIZE = 6

    def __init__(self, listening: socket.socket) -> None:
        self._family, self._address = listening.family, listening.getsockname()
        self._threads = [threading.Thread(target=self._come) for _ in range(self.SIZE)]
        self.ready = threading.Barrier(self.SIZE + 1, timeout=TIMEOUT)
        self.lost: list[str] = []
        for thread in self._threads:
            thread.start()

    def _come(self) -> None:
        self._visit()
        self.ready.wait()
        with suppress(ConnectionRefusedError, FileNotFoundError):
            while True:
                self._visit()

    def _visit(self) -> None:
        with socket.socket(self._family) as caller:
            caller.settimeout(TIMEOUT)
            caller.connect(self._address)
            try:
                assert caller.recv(5) == b"hello"
            except OSError as exc:
                self.lost.append(repr(exc))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT)


async def end(scene: Scene) -> None:
    await asyncio.sleep(scene.listener.refuse())
    scene.listener.close()
    await scene.listener.settled()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a listener can't be closed without a reset")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("is_unix", [False, True], ids=["TCP", "Unix socket"])
def test_nobody_is_reset_by_the_end(tmp_path: Path, workers: int, *, is_unix: bool) -> None:
    """Who connects in the very moment in which a listener closes is refused or served, at many ends (R162, F44)."""
    lost: list[str] = []

    async def story(_scene: Scene) -> None:
        address = Address(path=str(tmp_path / "socket")) if is_unix else Address("127.0.0.1", 0)
        together = {listening for each in listen_together(address, 0o600, workers) for listening in each}
        # Each worker has the sockets of all.
        scenes = [Scene([each.dup() for each in together]) for _ in range(workers)]
        crowd = Crowd(next(iter(together)))
        for listening in together:
            listening.close()
        await asyncio.to_thread(crowd.ready.wait)
        await asyncio.gather(*map(end, scenes))
        await asyncio.to_thread(crowd.join)
        lost.extend(crowd.lost)

    for _ in range(60):
        play(story)

    assert lost == []
