"""What commands that take a while show of it."""

import os
import sys
from shutil import get_terminal_size

import click


def is_dumb() -> bool:
    """Does the terminal show an escape sequence as it is (terminfo's entry `dumb`)?"""
    return os.environ.get("TERM") == "dumb"


class StatusLine:
    """One line on stderr that is rewritten, if that is a terminal that can; elsewhere nothing."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr is not None and sys.stderr.isatty() and not is_dumb()

    def show(self, text: str) -> None:
        self._write(text[: get_terminal_size().columns - 1])

    def clear(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        if self.is_shown:
            # With NO_COLOR, click would leave out what erases the line as well.
            click.echo(f"\r\x1b[K{text}", err=True, nl=False, color=True)
