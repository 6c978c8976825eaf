"""What a service manager hears, at a socket as it has one."""

import asyncio
import io
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.log import Log
from proxy.notify import ServiceManager


@contextmanager
def listening(name: str) -> Iterator[socket.socket]:
    """The manager's end; `name` is a path, or begins with @."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.setblocking(False)
        yield sock


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def lines() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(lines: io.StringIO) -> Log:
    return Log(lines)


def heard(sock: socket.socket) -> list[str]:
    """The messages that have come."""
    messages = []
    while True:
        try:
            messages.append(sock.recv(4096).decode())
        except BlockingIOError:
            return messages


async def beats(manager: ServiceManager, sock: socket.socket, count: int) -> list[str]:
    """Lets the manager be told until it has heard `count` messages; the status is a number that goes up."""
    numbers = iter(range(count))
    messages: list[str] = []
    async with asyncio.timeout(20):
        task = asyncio.get_running_loop().create_task(manager.keep_told(lambda: f"beat {next(numbers)}"))
        while len(messages) < count:
            await asyncio.sleep(0)
            messages += heard(sock)
        task.cancel()
    return messages


def test_nobody_to_tell(log: Log, lines: io.StringIO) -> None:
    """A process that no service manager has started tells nobody, and does not mention it."""
    manager = ServiceManager({}, log)
    manager.reloading()
    manager.reloaded()
    manager.stopping(within=30)

    assert lines.getvalue() == ""


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_ready_and_alive(log: Log, path: str, kind: str) -> None:
    """READY=1 comes first, then again and again that the process is alive, and how it is."""
    name = path if kind == "path" else f"@{path}"
    with listening(name) as sock:
        manager = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000"}, log)
        messages = asyncio.run(beats(manager, sock, 3))

    assert messages[:3] == ["READY=1", "WATCHDOG=1\nSTATUS=beat 0", "WATCHDOG=1\nSTATUS=beat 1"]


@pytest.mark.parametrize(
    "usec, interval", [("30000000", 5.0), ("4000000", 2.0), ("", 5.0), ("0", 5.0), ("infinity", 5.0)]
)
def test_interval(log: Log, usec: str, interval: float) -> None:
    """A manager that watches hears twice in its time at least; a status is at most five seconds old."""
    assert ServiceManager({"WATCHDOG_USEC": usec}, log)._interval == interval


def test_reload(log: Log, path: str) -> None:
    """A reload begins with the time by the manager's clock, and ends with READY=1."""
    with listening(path) as sock:
        manager = ServiceManager({"NOTIFY_SOCKET": path}, log)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        manager.reloading()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        manager.reloaded()
        begun, ended = heard(sock)

    assert begun.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert before <= int(begun.rpartition("=")[2]) <= after
    assert ended == "READY=1"


def test_stop(log: Log, path: str) -> None:
    """The manager is told how long the drain may last, and waits for it."""
    with listening(path) as sock:
        ServiceManager({"NOTIFY_SOCKET": path}, log).stopping(within=600.5)

        assert heard(sock) == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=605500000"]


def test_unreachable_manager(log: Log, lines: io.StringIO, path: str) -> None:
    """One line says that the manager hears nothing, and another one only when it had heard something since."""
    manager = ServiceManager({"NOTIFY_SOCKET": path}, log)
    manager.reloading()
    manager.reloaded()
    with listening(path):
        manager.reloading()
    manager.reloaded()

    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["service_manager_unreachable"] * 2
    assert [event["reason"] for event in events] == ["No such file or directory", "Connection refused"]


def test_manager_that_does_not_read(log: Log, path: str) -> None:
    """Telling does not wait for a manager whose queue is full."""
    with listening(path) as sock:
        manager = ServiceManager({"NOTIFY_SOCKET": path}, log)
        told = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 2
        for _ in range(told):
            manager.reloaded()

        assert 0 < len(heard(sock)) < told
