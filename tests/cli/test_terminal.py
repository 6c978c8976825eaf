import os
import pty
import subprocess
import sys

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


def test_terminal() -> None:
    """On a terminal the line is rewritten, never longer than the terminal is wide, and gone at the end."""
    master, slave = pty.openpty()
    environ = os.environ | {"COLUMNS": "40"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=slave, env=environ, check=True
    )
    os.close(slave)
    shown = os.read(master, 4096).decode()
    os.close(master)
    assert done.stdout == b"True\n"
    assert shown == f"\r\x1b[K{'a' * 39}\r\x1b[Kshort\r\x1b[K"


def test_closed() -> None:
    """A process that was started without stderr goes without."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2), check=True
    )
    assert done.stdout == b"False\n"
