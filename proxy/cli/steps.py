"""The doctor's steps as a person sees them."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from proxy.cli.terminal import StatusLine
from proxy.doctor.record import Record, Result

_NAME_WIDTH = 22
_MARGIN = " " * (_NAME_WIDTH + 13)


@contextmanager
def shown(*, results: bool = True) -> Iterator[Record]:
    """A record that tells on a terminal what is being done. `results`: are they printed as they come?"""
    line = StatusLine()

    def ended(result: Result) -> None:
        line.clear()
        if results:
            _print(result)

    try:
        yield Record(begun=lambda step: line.show(f"{step} ..."), ended=ended)
    finally:
        line.clear()


def summary(record: Record) -> str:
    failed = sum(not result.ok for result in record.results)
    if not failed:
        return f"All {len(record.results)} steps succeeded."
    return f"{failed} of {len(record.results)} steps failed. What needs what they give was not tried."


def _print(result: Result) -> None:
    mark = click.style("✓", fg="green") if result.ok else click.style("✗", fg="red", bold=True)
    first, *others = [*_lines(result)] or [""]
    click.echo(f"{mark} {result.step:<{_NAME_WIDTH}} {result.seconds * 1000:6.0f} ms  {first}")
    for line in others:
        click.echo(_MARGIN + line)


def _lines(result: Result) -> Iterator[str]:
    if result.cause is not None:
        yield click.style(result.cause, bold=True)
    yield from result.found
    if result.next is not None:
        yield f"Next: {result.next}"
