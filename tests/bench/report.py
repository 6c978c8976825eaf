"""Figures of peers, as a table for people and as JSON for programs; and what is going on meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import isnan, nan
from statistics import median
from typing import TextIO

Figures = dict[str, float]


@dataclass
class Row:
    """One peer: what each round measured, and why it failed if it did."""

    name: str
    rounds: list[Figures] = field(default_factory=list)
    failure: str = ""

    @property
    def kept(self) -> list[Figures]:
        """None of a peer that failed."""
        return [] if self.failure else self.rounds


Rows = Sequence[Row]


@dataclass(frozen=True)
class Column:
    """`reduce` makes one figure of those of all rounds. `over` is a row that is subtracted from the others; `ratio` is
    one that they are divided by, in another column. A figure is NaN where something of that is missing.
    """

    key: str
    title: str
    form: str
    ratio: str = ""
    over: str = ""
    reduce: Callable[[Sequence[float]], float] = median

    def value(self, row: str, rows: Rows) -> float:
        if self.over and row == self.over:
            return nan
        return self._reduced(row, rows) - (self._reduced(self.over, rows) if self.over else 0)

    def compared(self, row: str, rows: Rows) -> float:
        reference = self.value(self.ratio, rows)
        return self.value(row, rows) / reference if reference > 0 else nan

    def _reduced(self, name: str, rows: Rows) -> float:
        figures = [figures[self.key] for row in rows if row.name == name for figures in row.kept if self.key in figures]
        return self.reduce(figures) if figures else nan


def spread(values: Sequence[float]) -> float:
    """How far apart the rounds lie, as a fraction of their median: below it a difference means nothing."""
    return (max(values) - min(values)) / median(values)


def table(columns: Sequence[Column], rows: Rows) -> str:
    """Aligned plain text; `x <peer>` is the figure divided by that of the peer with this name."""
    cells = _cells(columns, rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([*lines, *_failures(rows)])


def markdown(columns: Sequence[Column], rows: Rows) -> str:
    """The same as a Markdown table."""
    titles, *cells = _cells(columns, rows)
    ruler = ["---", *["---:"] * (len(titles) - 1)]
    lines = ["| " + " | ".join(line) + " |" for line in (titles, ruler, *cells)]
    return "\n".join([*lines, *(f"\n{failure}" for failure in _failures(rows))])


def _cells(columns: Sequence[Column], rows: Rows) -> list[list[str]]:
    titles = [[column.title, f"x {column.ratio}"] if column.ratio else [column.title] for column in columns]
    lines = [[row.name, *_line(columns, row.name, rows)] for row in rows if not row.failure]
    return [["", *chain.from_iterable(titles)], *lines]


def _line(columns: Sequence[Column], row: str, rows: Rows) -> Iterator[str]:
    for column in columns:
        yield _text(column.form, column.value(row, rows))
        if column.ratio:
            yield _text("{:.2f}", column.compared(row, rows))


def _text(form: str, value: float) -> str:
    return "-" if isnan(value) else form.format(value)


def _failures(rows: Rows) -> list[str]:
    return [f"{row.name}: FAILED: {row.failure}" for row in rows if row.failure]


def as_json(rows: Rows) -> dict[str, object]:
    return {row.name: {"failure": row.failure, "median": _medians(row), "rounds": row.rounds} for row in rows}


def _medians(row: Row) -> Figures:
    keys = row.rounds[0] if row.rounds else ()
    return {key: median(figures[key] for figures in row.rounds) for key in keys}


class Progress:
    """What is being measured: on a terminal one line that changes, elsewhere a line a step."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()

    def step(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}" if self._live else f"{text}\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def clear(self) -> None:
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
