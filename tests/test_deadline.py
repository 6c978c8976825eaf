"""A deadline on a loop whose clock the test moves."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from proxy.deadline import Deadline


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Clock:
    """As much of an event loop as a deadline needs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(at, callback))
        return self.timers[-1]

    @property
    def pending(self) -> list[Timer]:
        return [timer for timer in self.timers if timer.callback is not None]

    def advance(self, to: float) -> None:
        """Moves the time, and fires what is due on the way."""
        while due := [timer for timer in self.pending if timer.at <= to]:
            timer = min(due, key=lambda timer: timer.at)
            self.now = max(self.now, timer.at)
            callback, timer.callback = timer.callback, None
            cast(Callable[[], None], callback)()
        self.now = to


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.expired: list[float] = []
        self.deadline = Deadline(
            cast(asyncio.AbstractEventLoop, self.clock), lambda: self.expired.append(self.clock.now)
        )


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_it_expires_once_at_its_time(scene: Scene) -> None:
    """What was set passes, once (R124)."""
    scene.deadline.set(5)
    scene.clock.advance(4.9)
    assert scene.expired == []
    scene.clock.advance(100)
    assert scene.expired == [5]


def test_the_last_time_set_counts(scene: Scene) -> None:
    """Each piece of a body moves the deadline, so that a slow but living transfer never expires (R124)."""
    for second in range(100):
        scene.clock.advance(second)
        scene.deadline.set(5)
    assert scene.expired == []
    scene.clock.advance(200)
    assert scene.expired == [104]


def test_moving_it_back_costs_no_timer(scene: Scene) -> None:
    """A thousand requests on one connection need as many timers as their time spans deadlines, not a thousand."""
    for step in range(1000):
        scene.clock.advance(step / 100)
        scene.deadline.set(5)
    assert len(scene.clock.timers) <= 3
    assert len(scene.clock.pending) == 1


def test_it_can_be_moved_forward(scene: Scene) -> None:
    """A short timeout after a long one holds: the response timeout behind the keep-alive timeout."""
    scene.deadline.set(60)
    scene.clock.advance(1)
    scene.deadline.set(2)
    scene.clock.advance(100)
    assert scene.expired == [3]
    assert scene.clock.pending == []


def test_a_cleared_deadline_does_not_expire(scene: Scene) -> None:
    """While nothing is awaited nothing expires, however long it takes."""
    scene.deadline.set(5)
    scene.deadline.clear()
    scene.clock.advance(100)
    assert scene.expired == []


@pytest.mark.parametrize("pause", [1, 100])
@pytest.mark.parametrize("seconds", [2, 20])
def test_it_can_be_set_after_it_was_cleared(scene: Scene, pause: float, seconds: float) -> None:
    """Clearing is not the end, whether the timer has fired in the meantime or not."""
    scene.deadline.set(5)
    scene.deadline.clear()
    scene.clock.advance(pause)
    scene.deadline.set(seconds)
    scene.clock.advance(1000)
    assert scene.expired == [pause + seconds]


def test_it_can_be_set_after_it_expired(scene: Scene) -> None:
    """A deadline serves one exchange after another."""
    scene.deadline.set(1)
    scene.clock.advance(10)
    scene.deadline.set(1)
    scene.clock.advance(20)
    assert scene.expired == [1, 11]


def test_it_can_be_set_by_what_it_calls() -> None:
    """Whoever is told may wait again."""
    clock = Clock()
    times: list[float] = []

    def again() -> None:
        times.append(clock.now)
        if len(times) < 3:
            deadline.set(10)

    deadline = Deadline(cast(asyncio.AbstractEventLoop, clock), again)
    deadline.set(1)
    clock.advance(100)
    assert times == [1, 11, 21]


def test_a_closed_deadline_holds_nothing(scene: Scene) -> None:
    """A closed connection is not kept alive by a timer."""
    scene.deadline.set(5)
    scene.deadline.close()
    assert scene.clock.pending == []
    scene.clock.advance(100)
    assert scene.expired == []


@pytest.mark.parametrize("before", [None, 5, 500])
def test_a_closed_deadline_stays_closed(scene: Scene, before: float | None) -> None:
    """Closing is for good: what is set afterwards arms nothing."""
    if before is not None:
        scene.deadline.set(before)
    scene.deadline.close()
    scene.deadline.set(50)
    assert scene.clock.pending == []
