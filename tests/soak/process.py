"""The proxy of a soak: its configuration, and what it takes of the machine."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import yaml

from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Proxy, clean_environment, until
from tests.soak.api import Api

_INTERVAL = 1.0
_KIB = 1024


@dataclass
class Configuration:
    """In a file that can be written anew. `content` is all of it."""

    file: Path
    content: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, file: Path, provider: DemoProvider, api: Api, workers: int) -> "Configuration":
        content = {
            "listen": {"address": "127.0.0.1:0"},
            "admin": {"address": "127.0.0.1:0"},
            "upstream": {"url": api.url},
            "oauth": {
                "token_url": provider.token_url,
                "jwks_url": provider.jwks_url,
                "verify": {"mode": "require"},
                # At three quarters, the default, a provider that is away for a moment outlasts what is left of a token.
                "refresh": {"at": 0.5},
            },
            "log": {"format": "json"},
            "workers": workers,
        }
        return cls(file, content)

    def write(self, number: int) -> None:
        """Each time another content."""
        self.content["upstream"]["headers"] = {"set": {"X-Reload": str(number)}}
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump(self.content))
        new.replace(self.file)


@contextmanager
def started(configuration: Configuration, provider: DemoProvider) -> Iterator[Proxy]:
    """A proxy that is ready; it is ended with the block, if it has not been by then."""
    directory = configuration.file.parent
    configuration.write(0)
    log_file = directory / "proxy.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "run", "-c", configuration.file],
            stdout=log,
            stderr=log,
            cwd=directory,
            env=clean_environment(provider),
        )
    proxy = Proxy(process, 0, 0, log_file)
    try:
        proxy.find_ports()
        until(lambda: proxy.is_ready, "ready")
        yield proxy
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class Sample:
    """`resident`, bytes, and `descriptors` are those of all its processes; `lag` is of its event loop, in seconds."""

    at: float
    resident: int
    descriptors: int
    lag: float


def sample(proxy: Proxy) -> Sample:
    pids = [proxy.process.pid, *_children(proxy.process.pid)]
    resident = sum(map(_resident, pids))
    descriptors = sum(map(_descriptors, pids))
    return Sample(monotonic(), resident, descriptors, proxy.metric("thg_proxy_event_loop_lag_seconds"))


def at_rest(proxy: Proxy) -> int:
    """Its descriptors, without the connections to the API that it keeps."""
    kept = sum(proxy.metric("thg_proxy_upstream_connections", state=state) for state in ("idle", "active"))
    return sample(proxy).descriptors - int(kept)


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _resident(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * _KIB
    return 0


def _descriptors(pid: int) -> int:
    with suppress(OSError):
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return 0


@contextmanager
def sampled(proxy: Proxy) -> Iterator[list[Sample]]:
    """Each second one, and one scrape, until the end of the block."""
    samples: list[Sample] = []
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(_INTERVAL):
            samples.append(sample(proxy))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stopped.set()
        thread.join()
