"""Figures of peers, as a table for people and as JSON for programs; and what is going on meanwhile."""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TextIO

Figures = dict[str, float]


@dataclass(frozen=True)
class Column:
    """`reduce` makes one figure of those of all rounds; with `ratio` another column compares it to the reference."""

    key: str
    title: str
    form: str
    ratio: bool = False
    reduce: Callable[[Sequence[float]], float] = median


@dataclass
class Row:
    """One peer: what each round measured, and why it failed if it did."""

    peer: str
    rounds: list[Figures] = field(default_factory=list)
    failure: str = ""

    def figure(self, column: Column) -> float:
        return column.reduce([figures[column.key] for figures in self.rounds])


def spread(values: Sequence[float]) -> float:
    """How far apart the rounds lie, as a fraction of their median: below it a difference means nothing."""
    return (max(values) - min(values)) / median(values)


def table(columns: Sequence[Column], rows: Sequence[Row], reference: str) -> str:
    """Aligned plain text; `x <reference>` is the figure divided by that of the peer with this name."""
    good = {row.peer: row for row in rows if not row.failure}
    cells = [["", *_titles(columns, reference)]]
    cells += [[name, *_cells(columns, row, good.get(reference))] for name, row in good.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(lines + [f"{row.peer}: FAILED: {row.failure}" for row in rows if row.failure])


def _titles(columns: Sequence[Column], reference: str) -> Iterator[str]:
    for column in columns:
        yield column.title
        if column.ratio:
            yield f"x {reference}"


def _cells(columns: Sequence[Column], row: Row, reference: Row | None) -> Iterator[str]:
    for column in columns:
        yield column.form.format(row.figure(column))
        if column.ratio:
            yield f"{row.figure(column) / reference.figure(column):.2f}" if reference else "-"


def as_json(rows: Sequence[Row]) -> dict[str, object]:
    return {row.peer: {"failure": row.failure, "median": _medians(row), "rounds": row.rounds} for row in rows}


def _medians(row: Row) -> Figures:
    keys = row.rounds[0] if row.rounds else ()
    return {key: median(figures[key] for figures in row.rounds) for key in keys}


def machine() -> dict[str, object]:
    return {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}


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
