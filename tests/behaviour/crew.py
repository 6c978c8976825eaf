"""A proxy whose data port is served by several processes, as tests see it."""

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from tests.behaviour.running import Proxy, until
from tests.peers import Client

TWO = ("workers=2", "log.access=all")
"""Settings of two workers, whose lines in the log tell who has served a request."""


class Crew:
    """The workers of a proxy that was launched with TWO, or more of them."""

    def __init__(self, proxy: Proxy, size: int = 2) -> None:
        self.proxy = proxy
        self.size = size
        until(self.is_complete, "all workers serve")

    def statuses(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self.proxy.status()["workers"]
        return workers

    def pids(self) -> list[int]:
        """Of those that serve, by their numbers where all do."""
        return [worker["pid"] for worker in self.statuses() if worker["state"] == "serving"]

    def is_complete(self) -> bool:
        return len(self.pids()) == self.size

    def restarts(self) -> float:
        return self.proxy.metric("thg_proxy_worker_restarts_total")

    def kill(self, number: int, signal_number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.statuses()[number - 1]["pid"], signal_number)

    def number_for(self, client: Client) -> int:
        """Of the worker that serves this connection."""
        name = token_hex(8)
        assert client.get(b"/who", b"X-Request-Id: " + name.encode()).status == 200
        (worker,) = until(lambda: self._served(name))
        return worker

    def _served(self, name: str) -> list[int]:
        return [line["worker"] for line in self.proxy.log_lines("request") if line["request_id"] == name]

    @contextmanager
    def connected(self, connect: Callable[[], Client] | None = None) -> Iterator[dict[int, list[Client]]]:
        """Connections that have served a request, one at least to each worker."""
        clients: dict[int, list[Client]] = defaultdict(list)
        with ExitStack() as opened:
            while len(clients) < self.size:
                client = opened.enter_context((connect or self.proxy.connect)())
                clients[self.number_for(client)].append(client)
            yield clients


def is_running(pid: int) -> bool:
    """Nobody may have waited for what has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
