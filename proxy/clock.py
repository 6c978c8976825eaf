"""The two clocks, as a value that tests can replace."""

from typing import Protocol

from proxy.core.lifecycle import Now


class Clock(Protocol):
    """What the module `time` has."""

    def monotonic(self) -> float: ...

    def time(self) -> float: ...


def read(clock: Clock) -> Now:
    return Now(clock.monotonic(), clock.time())
