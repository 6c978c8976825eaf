"""The places of the three stores, and processes that use them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.core.secret import Secret
from proxy.stores import TokenStore, open_store
from tests.stores.redis_server import RedisServer
from tests.stores.samples import KEY, SECRET, Lines

ROOT = Path(__file__).parents[2]

Open = Callable[[], TokenStore]


class Process:
    """A `player` of its own, which is asked line by line."""

    def __init__(self, url: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.stores.player", url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "ready"

    def tell(self, command: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{command}\n")
        self._popen.stdin.flush()

    def answer(self) -> str:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().rstrip("\n")

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.answer()

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.communicate()


@pytest.fixture
def process() -> Iterator[Callable[[str], Process]]:
    """Starts a process that uses the store at a URL."""
    started: list[Process] = []

    def start(url: str) -> Process:
        started.append(Process(url))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    tmp_path.chmod(0o700)
    return f"file:{tmp_path / 'token'}"


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database."""
    redis_server.command("FLUSHALL")
    return redis_server.url


@pytest.fixture(params=["file", "redis"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """Of each of the stores that processes can share."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["memory", "file", "redis"])
def opened(request: pytest.FixtureRequest, lines: Lines) -> Open:
    """Opens each of the three stores: another process's view of the same place. Memory has one view only."""
    url = "memory" if request.param == "memory" else request.getfixturevalue(f"{request.param}_url")

    def opened() -> TokenStore:
        return open_store(url, key=KEY, secret=lambda: Secret(SECRET), log=lines.log)

    store = opened()
    return (lambda: store) if request.param == "memory" else opened
