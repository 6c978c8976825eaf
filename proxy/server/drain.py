"""The end: asked for once, it waits for what is in flight; asked for twice, for nothing."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

from proxy.server.listener import Listener
from proxy.server.serving import Connections

# How long a stopping proxy leaves idle connections to clients that may be sending on them right now: their next answer
# says `Connection: close`, which spares them a reset (RFC 9112 §9.6).
IDLE_GRACE = 1.0


class Stop:
    """Asked once: drain. Asked twice: end at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()

    def ask(self) -> None:
        (self.hurried if self.asked.is_set() else self.asked).set()

    def __bool__(self) -> bool:
        return self.asked.is_set()


async def drain(listener: Listener, connections: Connections, grace: float, stop: Stop) -> None:
    """Lets every request in flight end, for `grace` seconds; tunnels end with the last of them."""

    async def all_gone() -> None:
        await listener.settled()
        await connections.wait_empty()

    connections.drain()
    handshakes = min(listener.refuse(), grace)
    await unless(stop.hurried, asyncio.sleep(handshakes))
    listener.close()
    grace -= handshakes
    idle_grace = min(IDLE_GRACE, grace)
    await unless(stop.hurried, within(idle_grace, all_gone()))
    connections.close_idle()
    await unless(stop.hurried, within(grace - idle_grace, all_gone()))
    connections.abort()


async def within(seconds: float, waiting: Awaitable[None]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting


async def unless(event: asyncio.Event, waiting: Awaitable[None]) -> None:
    """Waits until one of the two has come; raises what `waiting` raises."""
    tasks: set[asyncio.Future[object]] = {asyncio.ensure_future(waiting), asyncio.ensure_future(event.wait())}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()
