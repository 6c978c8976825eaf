"""What commands that take a while show of it."""

import sys
from shutil import get_terminal_size

import click


class StatusLine:
    """One line on stderr that is rewritten, if that is a terminal; elsewhere nothing."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr is not None and sys.stderr.isatty()

    def show(self, text: str) -> None:
        self._write(text[: get_terminal_size().columns - 1])

    def clear(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        if self.is_shown:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
