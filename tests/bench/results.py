"""The results that are kept: a run is appended to RESULTS.md."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from .cases import CASES
from .goals import verdicts
from .report import Rows, markdown

RESULTS = Path(__file__).with_name("RESULTS.md")


def entry(command: str, now: datetime, facts: Mapping[str, str], results: Mapping[str, Rows]) -> str:
    """One run in Markdown: when, with which command, on what; a table for each case; the goals."""
    return "\n\n".join(
        [
            f"## {now:%Y-%m-%d %H:%M} UTC",
            f"    {command}",
            _bullets(f"{name}: {fact}" for name, fact in facts.items()),
            *(_section(name, rows) for name, rows in results.items()),
            "### Goals",
            _bullets(verdicts(results)),
        ]
    )


def _section(name: str, rows: Rows) -> str:
    case = CASES[name]
    return f"### {name}\n\n{case.what}\n\n{markdown(case.columns, rows)}"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def record(command: str, facts: Mapping[str, str], results: Mapping[str, Rows]) -> None:
    with RESULTS.open("a") as file:
        file.write(f"\n{entry(command, datetime.now(UTC), facts, results)}\n")
