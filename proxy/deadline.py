"""A timeout that moves often and fires seldom."""

import asyncio
from collections.abc import Callable
from math import inf


class Deadline:
    """Calls `expired` once the time that was last set has passed.

    A connection moves its deadline with each request and each piece of a body. Moving it is an assignment: the loop's
    timer is left where it is, and looks when it fires whether it came too early.
    """

    __slots__ = ("_at", "_expired", "_fires_at", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._at = inf
        self._fires_at = inf
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Moves the deadline to `seconds` from now."""
        self._at = at = self._loop.time() + seconds
        if at < self._fires_at:
            self._arm(at)

    def clear(self) -> None:
        """Nothing is awaited."""
        self._at = inf

    def close(self) -> None:
        """Ends it for good: it can't be set again, and the timer no longer holds its owner."""
        self._at = inf
        self._fires_at = -inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._fires_at = at
        self._handle = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._fires_at = inf
        if self._at == inf:
            return
        if self._loop.time() < self._at:
            self._arm(self._at)
        else:
            self._at = inf
            self._expired()
