"""What thg-proxy is meant to reach, and whether it did."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isnan

from .cases import CASES
from .peers import THG_PROXY
from .report import Column, Rows


@dataclass(frozen=True)
class Goal:
    """A bound of a figure in a case: of its ratio, where `is_ratio`. `column` is the title of the figure."""

    case: str
    column: str
    bound: float
    is_most: bool = True
    is_ratio: bool = True

    def verdict(self, rows: Rows) -> str:
        column = self._column()
        value = column.compared(THG_PROXY, rows) if self.is_ratio else column.value(THG_PROXY, rows)
        if isnan(value):
            return f"{self}: not measured"
        reached = value <= self.bound if self.is_most else value >= self.bound
        return f"{self}: {value:.2f}, {'reached' if reached else 'MISSED'}"

    def __str__(self) -> str:
        unit = f" x {self._column().ratio}" if self.is_ratio else ""
        return f"{self.case}: {self.column} at {'most' if self.is_most else 'least'} {self.bound:g}{unit}"

    def _column(self) -> Column:
        return next(column for column in CASES[self.case].columns if column.title == self.column)


def least(case: str, column: str, bound: float) -> Goal:
    return Goal(case, column, bound, is_most=False)


GOALS = (
    Goal("json", "CPU us/request", 1.0),
    least("json", "requests/s", 1.0),
    Goal("post", "CPU us/request", 1.0),
    Goal("log", "CPU us/request", 1.25),
    Goal("latency", "added p50", 1.2),
    Goal("latency", "added p99", 1.2),
    least("bulk", "down MiB/s", 0.9),
    least("bulk", "up MiB/s", 0.9),
    Goal("bulk", "down RSS + MB", 8, is_ratio=False),
    Goal("bulk", "up RSS + MB", 8, is_ratio=False),
    least("websocket", "messages/s", 0.8),
    Goal("clients", "RSS KiB each", 12, is_ratio=False),
    Goal("clients", "with/without", 0.95, is_most=False, is_ratio=False),
    Goal("memory", "RSS idle MB", 55, is_ratio=False),
    Goal("memory", "growth MB", 5, is_ratio=False),
    Goal("start", "ms", 500, is_ratio=False),
    Goal("tail", "p99.9 ms", 1.2),
    least("workers", "requests/s", 1.8),
)


def verdicts(results: Mapping[str, Rows]) -> Iterator[str]:
    """A line for each goal of the cases that were run."""
    return (goal.verdict(results[goal.case]) for goal in GOALS if goal.case in results)
