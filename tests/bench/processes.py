"""Starts a process on given cores, waits until it serves, and ends it by its id."""

import http.client
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .measure import BenchError

Cores = frozenset[int]

ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 30.0
_FETCH_TIMEOUT = 1.0
_POLL = 0.002
_LAST_LINES = 5
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy is not for loopback


def free_port() -> int:
    """A loopback port that the system picked; nothing holds it when this returns."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], ready: str, log: Path, environment: Mapping[str, str], cores: Cores
) -> Iterator[int]:
    """The id of a process on these cores that answers 200 at `ready` (an `http://` URL); its output goes to `log`.

    It appends there, so that the log can be emptied meanwhile. Raises `BenchError` if it ends or 30 seconds pass before
    it answers.
    """
    log.unlink(missing_ok=True)
    with log.open("ab") as output, on_cores(cores):
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait(process, ready, log)
        yield process.pid
    finally:
        _end(process)


@contextmanager
def on_cores(cores: Cores) -> Iterator[None]:
    """What is started within inherits the cores, and so do its threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _wait(process: subprocess.Popen[bytes], ready: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not _answers(ready):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            what = f"ended with {process.returncode}" if ended else f"not ready after {_START_TIMEOUT:.0f} s"
            raise BenchError("\n".join([what, *log.read_text(errors="replace").splitlines()[-_LAST_LINES:]]))
        time.sleep(_POLL)


def _answers(url: str) -> bool:
    try:
        fetch(url)
    except (OSError, http.client.HTTPException):
        return False
    return True


def fetch(url: str) -> str:
    """What is at an `http://` URL of this machine. Raises OSError if the status is not a good one."""
    with _OPENER.open(url, timeout=_FETCH_TIMEOUT) as answer:
        return str(answer.read(), "utf-8")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
