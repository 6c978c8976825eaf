"""What every token store promises, wherever it keeps the token."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from proxy.core.stored import Shared

# How long one operation of a store may take, in seconds. Requests can be waiting for the token meanwhile.
TIMEOUT = 2.0
_PAUSE = 0.1

T = TypeVar("T")


class Lock(Protocol):
    """Held by the one of all processes that asks for the next token."""

    async def write(self, shared: Shared) -> bool:
        """What the others will read. False, and nothing is written, where the lock was lost to a successor meanwhile.

        Raises StoreUnavailable.
        """

    async def release(self) -> None:
        """Never raises. A second time it does nothing."""


class TokenStore(Protocol):
    """Where processes share one token."""

    async def read(self) -> Shared:
        """Raises StoreUnavailable; ValueError, which says why, where what is kept there is not to be used."""

    async def lock(self, wait: float) -> Lock | None:
        """None where others held it for all of `wait` seconds. Raises StoreUnavailable."""

    async def close(self) -> None: ...


async def attempts(attempt: Callable[[], Awaitable[T | None]], wait: float) -> T | None:
    """What `attempt` gives, tried again and again for `wait` seconds; None where it gave nothing in that time."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + wait
    while (result := await attempt()) is None and loop.time() < ends:  # noqa: ASYNC110 - others can't set an Event here
        await asyncio.sleep(_PAUSE)
    return result
