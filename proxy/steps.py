"""A coroutine that goes on the moment it can, where a task would wait for the loop's next turn.

A request waits once or twice, each time for one event of its own: the next request, the upstream's answer. A task would
need a future and a turn of the loop for each. Here the event runs the coroutine on, from within the callback that
brought it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Signal:
    """An event that one coroutine waits for, again and again."""

    __slots__ = ("_go_on",)

    def __init__(self) -> None:
        self._go_on: Callable[[], object] | None = None

    @property
    def is_awaited(self) -> bool:
        return self._go_on is not None

    def set(self) -> None:
        """Runs the coroutine that waits, until it waits again. Nothing is remembered for one that waits later."""
        go_on = self._go_on
        if go_on is not None:
            self._go_on = None
            go_on()

    def will_run(self, go_on: Callable[[], object] | None) -> None:
        """Who waits, or nobody."""
        self._go_on = go_on

    def __await__(self) -> Generator[Any, None, None]:
        if _running:
            yield self
        else:
            yield from self._in_task()

    def _in_task(self) -> Generator[Any, None, None]:
        future = asyncio.get_running_loop().create_future()
        self._go_on = partial(_resolve, future)
        try:
            yield from future
        finally:
            self._go_on = None


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


# Those whose coroutines run now, the innermost last.
_running: list["Steps"] = []


class Steps:
    """Runs `coroutine`, which may await signals and futures, but nothing that must be in a task (see `in_task`)."""

    __slots__ = ("_awaited", "_coroutine", "_go_on", "_is_cancelled", "_is_running", "_loop", "is_done")

    def __init__(self, coroutine: Coroutine[Any, None, None], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._awaited: Any = None
        self._is_running = self._is_cancelled = self.is_done = False
        self._go_on = self.step

    def step(self) -> None:
        """Runs until the coroutine waits, or ends."""
        _running.append(self)
        self._is_running = True
        try:
            if self._is_cancelled:
                self._is_cancelled = False
                awaited = self._coroutine.throw(asyncio.CancelledError())
            else:
                awaited = self._coroutine.send(None)
        except (StopIteration, asyncio.CancelledError):
            self.is_done = True
            return
        except Exception as exc:  # noqa: BLE001 - as of a task that nobody awaits
            self.is_done = True
            self._loop.call_exception_handler({"message": "a coroutine has failed", "exception": exc})
            return
        finally:
            self._is_running = False
            _running.pop()
        self._awaited = awaited
        if type(awaited) is Signal:
            awaited.will_run(self._go_on)
        else:
            # What a task does with a future (PEP 3156).
            awaited._asyncio_future_blocking = False  # noqa: SLF001
            awaited.add_done_callback(self._future_done)
        if self._is_cancelled:
            self.cancel()

    def cancel(self) -> None:
        """Raises CancelledError where the coroutine waits, or will wait next."""
        if self.is_done:
            return
        if not self._is_running:
            self._stop_waiting()
        self._is_cancelled = True
        if not self._is_running:
            self.step()

    def _stop_waiting(self) -> None:
        if type(self._awaited) is Signal:
            self._awaited.will_run(None)
        elif self._awaited is not None and self._awaited.done() and not self._awaited.cancelled():
            self._awaited.exception()  # which nobody else will look at
        self._awaited = None

    def _future_done(self, future: "asyncio.Future[Any]") -> None:
        # A cancellation may have come between the future's end and this call.
        if future is self._awaited:
            self.step()


async def in_task(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of what needs a task of its own, as `asyncio.timeout` does, and ends with who waits for it."""
    task = asyncio.get_running_loop().create_task(coroutine)
    try:
        return await task
    except asyncio.CancelledError:
        task.cancel()
        raise
