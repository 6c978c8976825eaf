"""Clients that are slow on purpose, as slowhttptest plays them: they are cut, and the others notice nothing.

They go on until each of them has been cut; with `THG_SLOW_CLIENTS=60` for a minute, against timeouts of ten seconds.
"""

import csv
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.behaviour.running import Launcher, until
from tests.peers import TIMEOUT as PATIENCE
from tests.peers import Received, Upstream, http_answer
from tests.real_parts import real_part

SECONDS = int(os.environ.get("THG_SLOW_CLIENTS", "0"))
TIMEOUT = SECONDS // 6 or 4  # of the proxy's, for a head and between two pieces of a body
CONNECTIONS = 100  # in each mode; bodies and readers hold one to the upstream, of which there may be 256
LARGE = bytes(4 << 20)  # more than a client's and the proxy's sockets take in
# Bytes that the process may grow by: what a reader who does not read leaves in it, and some more.
MEMORY = CONNECTIONS * (1 << 20) + (16 << 20)
# A head that grows by a field now and then, a body that stops for longer than is allowed, and a response of which 32
# bytes are read now and then.
MODES = {
    "headers": ["-H", "-i", str(TIMEOUT // 2)],
    "body": ["-B", "-i", str(TIMEOUT * 2)],
    "read": ["-X", "-n", str(TIMEOUT * 2), "-z", "32", "-w", "512", "-y", "1024", "-k", "3"],
}


class Attack:
    """One slowhttptest, and what it says of the port in each second."""

    def __init__(self, mode: str, port: int, directory: Path) -> None:
        self._report = directory / mode
        self._process = subprocess.Popen(
            [
                *(real_part("slowhttptest", "slowhttptest"), *MODES[mode], "-c", str(CONNECTIONS), "-r", "50"),
                *("-l", str(SECONDS or 100), "-u", f"http://localhost:{port}/large", "-g", "-o", str(self._report)),
            ],
            stdout=subprocess.DEVNULL,
            env={"TERM": "dumb"},
        )

    @property
    def is_going_on(self) -> bool:
        return self._process.poll() is None

    def availability(self) -> list[int]:
        """Of each second: not 0 where its own probe was answered. Waits for the end, or makes it."""
        if not SECONDS:
            self._process.send_signal(signal.SIGINT)
        assert self._process.wait(SECONDS + PATIENCE) == 0
        with self._report.with_suffix(".csv").open() as report:
            return [int(row["Service Available"]) for row in csv.DictReader(report)]

    def stop(self) -> None:
        if self.is_going_on:
            self._process.kill()
            self._process.wait()


@pytest.mark.timeout(SECONDS + 100)
def test_slow_clients(launch: Launcher, upstream: Upstream) -> None:
    """Three hundred clients who are slow with their head, their body or their reading are all cut in time; nobody else
    fails meanwhile, and nothing is left of them (R155, R156, F42, P7).
    """

    def answer(received: Received, sock: socket.socket) -> bool:
        sock.sendall(http_answer(200, LARGE if received.target == b"/large" else b"ok"))
        return True

    upstream.answer = answer
    proxy = launch(upstream, f"listen.header_timeout={TIMEOUT}s", f"upstream.idle_timeout={TIMEOUT}s")

    def ended(method: str, status: str, outcome: str) -> float:
        return proxy.metric("thg_proxy_requests_total", method=method, status=status, outcome=outcome)

    before = proxy.metric("process_resident_memory_bytes")
    with proxy.under_load() as load:
        load.next()
        attacks = {mode: Attack(mode, proxy.port, launch.directory) for mode in MODES}
        try:
            # A head that never came has no method.
            until(lambda: ended("other", "408", "client_error") == CONNECTIONS)
            until(lambda: ended("POST", "408", "client_error") == CONNECTIONS)
            until(lambda: ended("GET", "200", "client_gone") >= CONNECTIONS)
            # These have not gone by themselves.
            assert attacks["read"].is_going_on
            availability = [second for attack in attacks.values() for second in attack.availability()]
        finally:
            for attack in attacks.values():
                attack.stop()
        load.next()

    assert load.statuses == {200}
    assert availability
    assert 0 not in availability
    assert proxy.metric("process_resident_memory_bytes") - before < MEMORY
