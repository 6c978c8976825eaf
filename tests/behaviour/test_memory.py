"""A thousand clients that want a great deal and read nothing, in little memory."""

import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from proxy.server import descriptors
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import OK, Client, Received, Upstream, request

CLIENTS, STREAMS = 1000, 8
LIMIT = 64 << 20
# For each stream whose reader stands still, and for each client.
GROWTH = STREAMS * (1 << 20) + CLIENTS * (20 << 10)
CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def limited_memory() -> Iterator[Path]:
    """A control group of LIMIT bytes (cgroups(7)), of either version; skips where none can be made."""
    old = CGROUPS / "memory"
    directory = (old if old.is_dir() else CGROUPS) / f"thg-proxy-test-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError as exc:
        pytest.skip(f"no control group can be made here: {exc.strerror}")
    try:
        (directory / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")).write_text(str(LIMIT))
        yield directory
    except FileNotFoundError:
        pytest.skip("there is no memory controller for a new control group")
    finally:
        until(lambda: is_removed(directory), "removed")


def is_removed(directory: Path) -> bool:
    """That can be done when the last process in it has been waited for."""
    with suppress(OSError):
        directory.rmdir()
    return not directory.exists()


@pytest.fixture
def many_descriptors() -> None:
    descriptors.raise_limit()
    limit = descriptors.limit()
    if limit < 2 * CLIENTS:
        pytest.skip(f"{CLIENTS} clients need more file descriptors than {limit:.0f}")


def endless(_received: Received, sock: socket.socket) -> bool:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    for _ in range(1000):
        sock.sendall(b"x" * 1_000_000)
    return False


def largest_size(proxy: Proxy) -> int:
    """Bytes in memory at the worst moment until now (proc_pid_status(5))."""
    status = Path(f"/proc/{proxy.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def status_of(client: Client) -> bytes:
    """Of the answer, which stays unread."""
    return client.sock.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL)


def hold_a_thousand(proxy: Proxy, upstream: Upstream) -> None:
    upstream.answer = endless
    before = largest_size(proxy)
    with ExitStack() as opened:
        clients = [opened.enter_context(proxy.connect()) for _ in range(CLIENTS)]
        for client in clients:
            client.send(request(b"GET", b"/large"))
        statuses = Counter(map(status_of, clients))
        assert statuses == {b"HTTP/1.1 200": STREAMS, b"HTTP/1.1 503": CLIENTS - STREAMS}
        assert proxy.metric("thg_proxy_errors_total", code="overloaded") == CLIENTS - STREAMS
        assert proxy.metric("thg_proxy_requests_in_flight") == STREAMS
        assert largest_size(proxy) - before < GROWTH
    until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 0)
    upstream.answer = OK
    with proxy.connect() as client:
        assert client.get().status == 200


SETTINGS = f"upstream.max_connections={STREAMS}", "upstream.connect_timeout=1s"


def test_slow_streams(launch: Launcher, upstream: Upstream, many_descriptors: None) -> None:
    """As many as may be are held back, and pin a bounded part of memory each; the others get 503 (R156, F49)."""
    hold_a_thousand(launch(upstream, *SETTINGS), upstream)


@pytest.mark.uncounted
def test_in_little_memory(launch: Launcher, upstream: Upstream, many_descriptors: None) -> None:
    """In a container of 64 MB they don't get the process killed (R156, F49)."""
    with limited_memory() as group:
        launch.prefix = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
        proxy = launch(upstream, *SETTINGS)
        assert str(group.name) in Path(f"/proc/{proxy.process.pid}/cgroup").read_text()
        hold_a_thousand(proxy, upstream)
        assert proxy.stop() == 0
