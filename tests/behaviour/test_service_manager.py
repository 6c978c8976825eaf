"""What the process tells the service manager that has started it: sd_notify(3), over a real socket."""

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.demo import faults
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import OK, TIMEOUT, Received, Upstream, request


class Manager:
    """A service manager that writes down what it is told."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(TIMEOUT)

    def close(self) -> None:
        self._socket.close()

    def next(self, variable: str) -> dict[str, str]:
        """The next message that sets `variable`."""
        while True:
            message = dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())
            if variable in message:
                return message


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


Start = Callable[..., Proxy]


@pytest.fixture
def start(launch: Launcher, upstream: Upstream, manager: Manager) -> Start:
    """As `launch`; returns as soon as the process says that it is ready."""

    def start(*overrides: str, **environment: str) -> Proxy:
        proxy = launch(upstream, *overrides, ready=False, environment=manager.environment | environment)
        assert manager.next("READY")["READY"] == "1"
        return proxy

    return start


def test_ready(launch: Launcher, upstream: Upstream, provider: DemoProvider, manager: Manager) -> None:
    """READY=1 means that both ports are open; it does not wait for a provider that is down."""
    provider.faults.token = faults.hang
    process = launch.spawn(upstream, environment=manager.environment, stderr=subprocess.DEVNULL)
    try:
        assert manager.next("READY") == {"READY": "1"}
        assert len(listening_ports(process.pid)) == 2
        assert manager.next("STATUS")["STATUS"] == "No token has been obtained yet."
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT)


def listening_ports(pid: int) -> set[str]:
    """Of TCP, by proc(5)."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it is closed by now
            inodes.add(link.readlink().name)
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


def test_alive(start: Start, manager: Manager) -> None:
    """Who watches hears again and again that the loop runs, and how the token is."""
    start(WATCHDOG_USEC="200000")
    until(lambda: manager.next("WATCHDOG")["STATUS"] == "There is a usable token.")

    assert manager.next("WATCHDOG")["WATCHDOG"] == "1"


def test_reload(start: Start, manager: Manager) -> None:
    """A reload is announced with the manager's own clock, and its end too."""
    proxy = start()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    proxy.process.send_signal(signal.SIGHUP)
    begun = manager.next("RELOADING")
    manager.next("READY")

    assert before <= int(begun["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert proxy.metric("thg_proxy_config_reloads_total", result="ok") == 1


def test_failed_reload(start: Start, manager: Manager, tmp_path: Path, authority: CertificateAuthority) -> None:
    """A reload that comes to nothing ends as well: the service is as ready as it was."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.ca_file.read_bytes())
    proxy = start(f"oauth.tls.ca_file={ca_file}")
    ca_file.write_text("no certificate")
    proxy.process.send_signal(signal.SIGHUP)
    manager.next("RELOADING")
    manager.next("READY")

    assert proxy.metric("thg_proxy_config_reloads_total", result="failed") >= 1


def test_stop(start: Start, upstream: Upstream, manager: Manager) -> None:
    """The manager hears of the stop, and how long it may take, while requests in flight are still served."""
    release = threading.Event()

    def slow(_received: Received, sock: socket.socket) -> bool:
        release.wait(TIMEOUT)
        sock.sendall(OK)
        return True

    upstream.answer = slow
    proxy = start("shutdown.delay=2s", "shutdown.grace=3m")
    until(lambda: proxy.is_ready)
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a"))
        upstream.wait_for(1)
        proxy.process.send_signal(signal.SIGTERM)
        told = manager.next("STOPPING")
        release.set()
        assert client.response().status == 200

    assert told == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "187000000"}
    assert proxy.process.wait(TIMEOUT) == 0
