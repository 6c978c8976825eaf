"""A pool, and an exchange on one of its connections, in an event loop as the proxy has it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from proxy.errors import UpstreamError
from proxy.loop import loop_factory
from proxy.metrics import Traffic
from proxy.settings import Upstream as Settings
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.pool import UpstreamPool
from proxy.upstream.response import Response
from tests.outbound import outbound

PATIENCE = 20  # seconds after which something that should have happened never will

Scene = Callable[[], Coroutine[Any, Any, None]]


def response_of(connection: UpstreamConnection) -> Response:
    assert connection.response is not None
    return connection.response


def play(scene: Scene) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene()
            # Tasks of asyncio's own, which a cancelled connect leaves, need a moment to end.
            while asyncio.all_tasks() != {asyncio.current_task()}:  # noqa: ASYNC110 - tasks tell nobody
                await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(bounded())


@asynccontextmanager
async def pool_to(url: str, **settings: Any) -> AsyncIterator[UpstreamPool]:
    pool = UpstreamPool(Settings(url=url, **settings), Traffic())
    try:
        yield pool
    finally:
        pool.close()
        await until(lambda: sum(pool.counts().values()) == 0)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop run until a state is reached."""
    while not condition():  # noqa: ASYNC110 - the state belongs to what is tested, which announces nothing
        await asyncio.sleep(0)


async def exchange(connection: UpstreamConnection) -> bytes:
    connection.start(outbound(), b"", finished=True)
    while not response_of(connection).complete:
        await connection.wait()
    return connection.take()


async def begin(pool: UpstreamPool, turns: int) -> "asyncio.Future[UpstreamConnection]":
    """A request that waits for its connection, so many turns of the loop later."""
    connecting = asyncio.ensure_future(pool.acquire())
    for _ in range(turns):
        await asyncio.sleep(0)
    return connecting


async def cancel(pool: UpstreamPool, turns: int) -> None:
    """A request is cancelled by then; what was made for it serves another."""
    connecting = await begin(pool, turns)
    connecting.cancel()
    await asyncio.wait([connecting])
    await until(lambda: not pool._dials)
    if connecting.cancelled():
        await until(lambda: pool.counts()["idle"] == pool._traffic.connects["ok"])
        assert await exchange(await pool.acquire()) == b"ok"


def failure(url: str, **settings: Any) -> tuple[UpstreamError, str]:
    """The error of one connect, and what the metric calls it; the pool is as before."""
    found: list[tuple[UpstreamError, str]] = []

    async def scene() -> None:
        async with pool_to(url, **settings) as pool:
            with pytest.raises(UpstreamError) as caught:
                await pool.acquire()
            ((result, count),) = pool._traffic.connects.items()
            found.append((caught.value, result))
            assert (pool._connecting, pool.counts(), count) == (0, {"idle": 0, "active": 0}, 1)

    play(scene)
    return found[0]


class Directory(uvloop.Loop):
    """A loop for which `api.example` has these addresses and ports; none: nobody answers."""

    addresses: list[tuple[str, int]]

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        if host != "api.example":
            return await super().getaddrinfo(host, port, **options)
        if not self.addresses:
            await self.create_future()
        return [
            (
                socket.AF_INET6 if ":" in host else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (host, port),
            )
            for host, port in self.addresses
        ]


def resolving(scene: Callable[[Directory], Coroutine[Any, Any, None]]) -> None:
    loops: list[Directory] = []

    def make() -> Directory:
        loops.append(Directory())
        return loops[0]

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(asyncio.wait_for(scene(loops[0]), PATIENCE))
