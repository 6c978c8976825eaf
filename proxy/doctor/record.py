"""One step after another: what it found, how long it took, and what is wrong if it failed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, NamedTuple, TypeVar

from proxy.core.text import one_line
from proxy.settings import AuthMethod

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a step. Each text is one printable line of at most 256 characters.

    `found`: what a person may want to know, in both cases. `cause` and `next`, what to do about it: of a failure.
    """

    step: str
    ok: bool
    seconds: float
    found: tuple[str, ...]
    cause: str | None = None
    next: str | None = None


class Finding(NamedTuple, Generic[T]):
    """A step that succeeded. `value`: what later steps need of it."""

    value: T
    found: tuple[str, ...] = ()


class Failed(Exception):
    """A step that failed. `remedy`: the next thing to do.

    Of a token request, `result` is the label of the metric, and `auth_method` the one that would do.
    """

    def __init__(
        self,
        cause: str,
        remedy: str,
        found: tuple[str, ...] = (),
        *,
        result: str | None = None,
        auth_method: AuthMethod | None = None,
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy
        self.found = found
        self.result = result
        self.auth_method = auth_method


class Record:
    """The results so far, and why steps failed, by their names.

    `begun` is told the name of each step, `ended` its result.
    """

    def __init__(self, begun: Callable[[str], None], ended: Callable[[Result], None]) -> None:
        self.results: list[Result] = []
        self.failures: dict[str, Failed] = {}
        self._begun = begun
        self._ended = ended

    @property
    def ok(self) -> bool:
        return all(result.ok for result in self.results)

    async def step(self, name: str, action: Awaitable[Finding[T]]) -> T | None:
        """The value that the step gives; None where it failed."""
        self._begun(name)
        began = perf_counter()
        try:
            value, found = await action
        except Failed as exc:
            self.failures[name] = exc
            self._add(name, began, exc.found, exc)
            return None
        self._add(name, began, found)
        return value

    def _add(self, name: str, began: float, found: tuple[str, ...], failure: Failed | None = None) -> None:
        result = Result(
            step=name,
            ok=failure is None,
            seconds=round(perf_counter() - began, 4),
            found=tuple(map(one_line, found)),
            cause=one_line(failure.cause) if failure else None,
            next=one_line(failure.remedy) if failure else None,
        )
        self.results.append(result)
        self._ended(result)
