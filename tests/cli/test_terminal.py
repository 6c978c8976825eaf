import os
import pty
import subprocess
import sys

import pytest

PROGRAM = """
from proxy.cli.terminal import StatusLine
line = StatusLine()
line.show("a" * 500)
line.show("short")
line.clear()
print(line.is_shown)
"""


def test_elsewhere() -> None:
    """Where stderr is no terminal, nothing is shown."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def on_a_terminal(**environ: str) -> tuple[bytes, str]:
    """What the program prints, and what its terminal gets."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": "40", "TERM": "xterm"} | environ
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=slave, env=environment, check=True
    )
    # There is something to read in any case.
    os.write(slave, b".")
    os.close(slave)
    shown = os.read(master, 4096).decode()
    os.close(master)
    return done.stdout, shown.removesuffix(".")


@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}])
def test_terminal(environ: dict[str, str]) -> None:
    """On a terminal the line is rewritten, never longer than the terminal is wide, and gone at the end."""
    assert on_a_terminal(**environ) == (b"True\n", f"\r\x1b[K{'a' * 39}\r\x1b[Kshort\r\x1b[K")


def test_dumb_terminal() -> None:
    """A terminal that can't rewrite a line has none."""
    assert on_a_terminal(TERM="dumb") == (b"False\n", "")


def test_closed() -> None:
    """A process that was started without stderr goes without."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2), check=True
    )
    assert done.stdout == b"False\n"
