"""A coroutine driven by signals: who runs when, and what a cancellation meets."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.steps import Signal, Steps, in_task

Body = Callable[[Signal, list[str]], Coroutine[Any, Any, None]]


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scene()

    asyncio.run(bounded())


def begun(coroutine: Coroutine[Any, Any, None]) -> Steps:
    steps = Steps(coroutine, asyncio.get_running_loop())
    steps.step()
    return steps


def next_turn() -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.set_result, None)
    return future


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await next_turn()


async def _three_times(signal: Signal, said: list[str]) -> None:
    for number in range(3):
        said.append(f"waits {number}")
        await signal
    said.append("ends")


def test_a_signal_runs_the_coroutine_on() -> None:
    """Whoever gives the signal finds the coroutine's next step done when the call returns."""

    async def scene() -> None:
        signal, said = Signal(), list[str]()
        steps = begun(_three_times(signal, said))
        assert said == ["waits 0"]
        for number in range(1, 3):
            signal.set()
            assert said[-1] == f"waits {number}"
        assert not steps.is_done
        signal.set()
        assert (said[-1], steps.is_done) == ("ends", True)
        signal.set()

    play(scene)


def test_a_signal_is_not_remembered() -> None:
    """A signal that nobody waits for is lost: who waits looks at the state first."""

    async def scene() -> None:
        signal, said = Signal(), list[str]()
        signal.set()
        begun(_three_times(signal, said))
        assert said == ["waits 0"]
        assert signal.is_awaited

    play(scene)


def test_futures() -> None:
    """A future is awaited as in a task: its result, its exception."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        said = []

        async def body() -> None:
            said.append(await first)
            try:
                await second
            except KeyError:
                said.append("failed")

        steps = begun(body())
        first.set_result("result")
        await next_turn()
        assert said == ["result"]
        second.set_exception(KeyError())
        await next_turn()
        assert (said, steps.is_done) == (["result", "failed"], True)

    play(scene)


async def _until_cancelled(awaitable: Any, said: list[str]) -> None:
    try:
        await awaitable
    except asyncio.CancelledError:
        said.append("cancelled")
        await next_turn()
        said.append("cleaned up")
        raise


@pytest.mark.parametrize("kind", ["signal", "future", "task"])
def test_cancellation(kind: str) -> None:
    """It reaches the coroutine at once, which cleans up in its own time; what it waited for runs nobody any more."""

    async def scene() -> None:
        signal, said = Signal(), list[str]()
        future = asyncio.get_running_loop().create_future()
        ended: list[str] = []
        awaited = (
            in_task(_until_cancelled(Signal(), ended)) if kind == "task" else signal if kind == "signal" else future
        )
        steps = begun(_until_cancelled(awaited, said))
        await next_turn()
        steps.cancel()
        assert said == ["cancelled"]
        signal.set()
        future.set_result(None)
        assert said == ["cancelled"]
        await until(lambda: steps.is_done)
        assert said == ["cancelled", "cleaned up"]
        steps.cancel()
        await until(lambda: kind != "task" or "cleaned up" in ended)

    play(scene)


@pytest.mark.parametrize("fails", [False, True])
def test_cancellation_behind_the_end_of_a_future(fails: bool) -> None:
    """A future that has ended runs nobody whom a cancellation has reached before, nor is its exception missed."""

    async def scene() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        said: list[str] = []
        future = asyncio.get_running_loop().create_future()
        steps = begun(_until_cancelled(future, said))
        if fails:
            future.set_exception(ConnectionError())
        else:
            future.set_result(None)
        steps.cancel()
        del future
        await until(lambda: steps.is_done)
        assert (said, reported) == (["cancelled", "cleaned up"], [])

    play(scene)


def test_a_coroutine_that_cancels_itself() -> None:
    """What it calls can end its connection, and with it the coroutine: it learns of that where it waits next."""

    async def scene() -> None:
        signal, said = Signal(), list[str]()

        async def body() -> None:
            steps[0].cancel()
            said.append("runs on")
            await _until_cancelled(signal, said)

        steps = [Steps(body(), asyncio.get_running_loop())]
        steps[0].step()
        assert said == ["runs on", "cancelled"]
        await until(lambda: steps[0].is_done)

    play(scene)


def test_a_failure_is_reported() -> None:
    """Nobody awaits the coroutine: its exception goes to the loop, as a task's would."""

    async def scene() -> None:
        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

        async def body() -> None:
            raise KeyError

        assert begun(body()).is_done
        assert [type(exc) for exc in reported] == [KeyError]

    play(scene)


def test_a_signal_in_a_task() -> None:
    """A task can await a signal, too; it runs in the loop's next turn, and can be cancelled."""

    async def scene() -> None:
        signal, said = Signal(), list[str]()
        task = asyncio.ensure_future(_three_times(signal, said))
        for _ in range(3):
            await next_turn()
            signal.set()
            signal.set()
        await task
        assert said[-1] == "ends"

        task = asyncio.ensure_future(_until_cancelled(signal, said))
        await next_turn()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not signal.is_awaited

    play(scene)


def test_what_needs_a_task() -> None:
    """`asyncio.timeout` and its like run in a task of their own, and give their result or exception."""

    async def scene() -> None:
        said: list[object] = []

        async def timed(seconds: float) -> str:
            async with asyncio.timeout(seconds):
                await asyncio.sleep(0 if seconds else 10)
            return "result"

        async def body() -> None:
            said.append(await in_task(timed(10)))
            try:
                await in_task(timed(0))
            except TimeoutError:
                said.append("timeout")

        steps = begun(body())
        await until(lambda: steps.is_done)
        assert said == ["result", "timeout"]

    play(scene)
