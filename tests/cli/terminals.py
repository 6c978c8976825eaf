"""A command on a terminal of its own, and a person who types."""

import fcntl
import os
import pty
import subprocess
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.behaviour.running import until
from tests.peers import TIMEOUT


class Terminal:
    """A process that has it for its controlling terminal."""

    def __init__(self, command: Sequence[str | Path], directory: Path, environ: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self._process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=directory,
            env=environ,
            start_new_session=True,
            # Ctrl-C and the prompt for a password are matters of the controlling terminal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - a single system call
        )
        os.close(slave)
        self._printed = b""
        self._waited_for = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(TIMEOUT)
        os.close(self._master)

    @property
    def shown(self) -> str:
        """Everything that has been on it so far, with what it echoes of the typing."""
        with suppress(OSError):  # nothing new, or nobody at the other side any more
            while piece := os.read(self._master, 65536):
                self._printed += piece
        return self._printed.decode(errors="replace")

    def expect(self, text: str) -> None:
        """Waits until it is shown, behind what was waited for before."""
        until(lambda: text in self.shown[self._waited_for :], f"{text!r} in {self.shown!r}")
        self._waited_for = self.shown.index(text, self._waited_for) + len(text)

    def answer(self, question: str, answer: str) -> None:
        self.expect(question)
        os.write(self._master, f"{answer}\n".encode())

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self._master, b"\x03")

    def end(self) -> int:
        """The exit code."""
        # A process whose terminal is full would not end.
        until(lambda: self.shown and self._process.poll() is not None, "the end")
        return self._process.wait(TIMEOUT)
