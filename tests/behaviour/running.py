"""The command in its own process, and the servers around it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from proxy.demo.idp import TOKEN_PATH, DemoProvider
from tests.behaviour.canaries import leaks
from tests.peers import TIMEOUT, Client, Load, Response, Upstream, free_ports, request

T = TypeVar("T")


def _port(address: str) -> int:
    """Of the first address in a list."""
    return 0 if address.startswith("unix:") else int(address.partition(",")[0].rpartition(":")[2])


def until(condition: Callable[[], T], what: str = "") -> T:
    """Waits for a state, never for a time; returns what `condition` returned."""
    end = time.monotonic() + TIMEOUT
    while not (result := condition()):
        assert time.monotonic() < end, f"never: {what or condition}"
        time.sleep(0.01)
    return result


def call(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    """The status, and the body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Backstage:
    """An event loop in a thread, for the asyncio servers that stand behind the proxy."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()


@dataclass
class Proxy:
    """A running `thg-proxy run`."""

    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    log_file: Path
    expected_exit: int = 0

    def find_ports(self) -> None:
        """Waits until it listens; the port of a Unix socket is 0."""
        (line,) = until(self._listening, "listening")
        self.port, self.admin_port = (_port(line[key]) for key in ("address", "admin"))

    def _listening(self) -> list[dict[str, Any]]:
        assert self.process.poll() is None, f"the proxy has ended:\n{self.log}"
        return self.log_lines("listening")

    def connect(self) -> Client:
        return Client(self.port)

    def admin(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        return call(self.admin_port, path, method)

    def status(self) -> dict[str, Any]:
        decoded: dict[str, Any] = msgspec.json.decode(self.admin("/status")[1])
        return decoded

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample; 0 if it is not there."""
        text = self.admin("/metrics")[1].decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0

    @property
    def token_age(self) -> float:
        """Seconds since the token was asked for; it is not replaced before oauth.refresh.min_interval has passed."""
        return time.time() - self.metric("thg_proxy_token_issued_timestamp_seconds")

    @property
    def is_ready(self) -> bool:
        return self._is_well("/readyz")

    @property
    def is_live(self) -> bool:
        return self._is_well("/livez")

    def _is_well(self, probe: str) -> bool:
        try:
            return self.admin(probe)[0] == 200
        except OSError:
            assert self.process.poll() is None, f"the proxy has ended:\n{self.log}"
            return False

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        # Who reads while the proxy writes finds a part of the last line.
        whole, _, _ = self.log.rpartition("\n")
        # What is said of the configuration before the start is text.
        lines = [msgspec.json.decode(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    @property
    def library_messages(self) -> list[dict[str, Any]]:
        """But for those of asyncio's debug mode that the machine is slow."""
        lines = self.log_lines("library_message")
        return [line for line in lines if line["message"] != "Executing %s took %.3f seconds"]

    @property
    def descriptors(self) -> int:
        """How many it has open, without the connections to the upstream that it keeps."""
        kept = sum(self.metric("thg_proxy_upstream_connections", state=state) for state in ("idle", "active"))
        return int(self.metric("process_open_fds") - kept)

    @contextmanager
    def under_load(self) -> Iterator[Load]:
        """With `Load` on it, which leaves no descriptor open."""
        before = self.descriptors
        with Load(self.port) as load:
            yield load
        until(lambda: self.descriptors <= before, "descriptors closed")

    @property
    def output(self) -> str:
        """All that it has let out, and what it shows now."""
        pages = []
        for path in ("/metrics", "/status", "/readyz", "/"):
            with suppress(OSError):  # it has ended
                pages.append(self.admin(path)[1].decode())
        return "\n".join([self.log, *pages])

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT + 30)


def ask(proxy: Proxy, method: bytes = b"GET") -> Response:
    with proxy.connect() as client:
        client.send(request(method, b"/a", body=b"body" if method == b"POST" else b""))
        return client.response()


def problem(response: Response) -> tuple[int, bytes]:
    """The status, and what it says of the upstream."""
    (proxy_status,) = response.values(b"Proxy-Status")
    return response.status, proxy_status.removeprefix(b"thg-proxy; error=")


def token_calls(provider: DemoProvider) -> int:
    return sum(received.path == TOKEN_PATH for received in provider.received)


Launch = Callable[..., Proxy]
"""Starts a proxy with overrides, as a Launcher does, in front of what a fixture has chosen."""


@dataclass
class Launcher:
    """Starts proxies, and ends them with the test."""

    directory: Path
    provider: DemoProvider
    started: list[Proxy] = field(default_factory=list)
    working_directory: Path | None = None  # `directory`, unless it is another one
    prefix: tuple[str, ...] = ()  # a command that runs the command

    def __call__(
        self,
        upstream: Upstream | str,
        *overrides: str,
        ready: bool = True,
        environment: dict[str, str] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> Proxy:
        """A proxy with `overrides`, KEY=VALUE, that logs to `stderr` or a file; returns once it is ready, or live."""
        log_file = self.directory / f"proxy-{len(self.started)}.log"
        # The kernel chooses the ports, and the log tells, unless there may be nothing in it.
        is_logged = stderr is None and not self.prefix
        port, admin_port = (0, 0) if is_logged else free_ports(2)
        with log_file.open("wb") as log:
            process = self.spawn(
                upstream,
                f"listen.address=127.0.0.1:{port}",
                f"admin.address=127.0.0.1:{admin_port}",
                *overrides,
                environment=environment,
                stderr=log if stderr is None else stderr,
            )
        proxy = Proxy(process, port, admin_port, log_file)
        self.started.append(proxy)
        if is_logged:
            proxy.find_ports()
        until(lambda: proxy.is_ready if ready else proxy.is_live, "ready" if ready else "live")
        return proxy

    def spawn(
        self,
        upstream: Upstream | str,
        *overrides: str,
        environment: dict[str, str] | None = None,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """The bare command, on ports that the kernel chooses; who calls it ends it."""
        settings = [
            "listen.address=127.0.0.1:0",
            "admin.address=127.0.0.1:0",
            f"upstream.url={upstream if isinstance(upstream, str) else upstream.url}",
            f"oauth.token_url={self.provider.token_url}",
            "log.format=json",
            "log.level=debug",
            *overrides,
        ]
        return subprocess.Popen(
            [
                *self.prefix,
                sys.executable,
                "-m",
                "proxy",
                "run",
                *(part for item in settings for part in ("--set", item)),
            ],
            stdout=stderr,
            stderr=stderr,
            cwd=self.working_directory or self.directory,
            env=clean_environment(self.provider) | (environment or {}),
        )

    def close(self) -> None:
        outputs = [proxy.output for proxy in self.started]
        codes = [proxy.stop() for proxy in self.started]
        for proxy, output, code in zip(self.started, outputs, codes, strict=True):
            assert not leaks(output + proxy.log, self.provider), proxy.log
            assert code == proxy.expected_exit, proxy.log
            assert "Traceback" not in proxy.log, proxy.log
            assert "unexpected_error" not in proxy.log, proxy.log
            assert not proxy.library_messages, proxy.log


def clean_environment(provider: DemoProvider) -> dict[str, str]:
    """Nothing of the machine's own configuration, and the provider's client."""
    (client,) = provider.clients.values()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("THG_")}
    root = str(Path(__file__).parents[2])
    return kept | {"PYTHONPATH": root, "THG_CLIENT_ID": client.client_id, "THG_CLIENT_SECRET": client.client_secret}
