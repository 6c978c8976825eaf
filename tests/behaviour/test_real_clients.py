"""Real HTTP clients, each making the same calls to the API directly and through the proxy: same bytes, but for what the
README says about changes on the way.
"""

import hashlib
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import pytest

from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.idp import DemoProvider
from tests.behaviour import sample_api
from tests.behaviour.conftest import Node
from tests.behaviour.real_clients import (
    Aiohttp,
    Call,
    Curl,
    Httpx,
    Pairs,
    Program,
    RealClient,
    Requests,
    Seen,
)
from tests.behaviour.running import Backstage, Launcher, Proxy, until
from tests.peers import TIMEOUT, Received, Upstream
from tests.real_parts import real_part

HERE = Path(__file__).parent / "clients"


class Case(NamedTuple):
    """`needs`: a feature that not all clients have."""

    calls: tuple[Call, ...]
    needs: str = ""
    at_once: bool = False


# Fields that end at the proxy, or are its own.
IDENTITY = {
    "Authorization": "Basic ZTpl",
    "Cookie": "a=1",
    "X-Forwarded-For": "192.0.2.1",
    "Forwarded": "for=192.0.2.1",
}
CASES = {
    "get": Case((Call(target="/things/%7e%2Fa//b?x=%20+&y=%2F&&z"),)),
    "fields": Case((Call(fields={"X-Custom": "a,  b", "x-lower": "1", "Accept": "text/*;q=0.5", **IDENTITY}),)),
    "head": Case((Call("HEAD", "/large"), Call("HEAD", "/gzip"))),
    "put, patch and delete": Case((Call("PUT", body="small"), Call("PATCH", body="small"), Call("DELETE", "/empty"))),
    "large upload": Case((Call("POST", body="large"),)),
    "chunked upload": Case((Call("POST", body="large", chunked=True),), needs="chunks"),
    "gzip upload": Case((Call("POST", body="gzip", fields={"Content-Encoding": "gzip"}),)),
    "gzip download": Case((Call(target="/gzip", fields={"Accept-Encoding": "gzip"}),)),
    "gzip that the client undoes": Case((Call(target="/gzip"),)),
    "range": Case((Call(target="/large", fields={"Range": "bytes=1000000-1999999"}),)),
    "conditional": Case((Call(target="/tagged", fields={"If-None-Match": '"v1"'}), Call(target="/tagged"))),
    "errors": Case((Call(target="/missing"), Call(target="/broken"))),
    "redirects": Case((Call(target="/moved"), Call("POST", "/moved-away", body="small"))),
    "trailers": Case((Call(target="/trailers"),)),
    "expectation": Case((Call("POST", body="large", fields={"Expect": "100-continue"}),), needs="expect"),
    "large downloads at once": Case((Call(target="/large"), Call(target="/chunked")), at_once=True),
    "leaving in the middle": Case((Call(target="/large", leaves=True), Call(target="/small?next"))),
}
CLIENTS = {
    "curl": {"chunks", "expect"},
    "curl with HTTP 1.0": set(),
    "requests": {"chunks"},
    "httpx2": {"chunks"},
    "aiohttp": {"chunks", "expect"},
    "fetch": {"chunks"},
    "undici": {"chunks"},
    "http": {"chunks", "expect"},
    "go": {"chunks", "expect"},
}
IN_PYTHON: dict[str, type[RealClient]] = {"requests": Requests, "httpx2": Httpx, "aiohttp": Aiohttp}
# One of each kind, the last ones small: a client that keeps its connection needs no other.
IN_A_ROW = (
    *(Call(), Call("HEAD", "/large"), Call("POST", body="large"), Call(target="/chunked"), Call(target="/gzip")),
    *(Call("DELETE", "/empty"), Call(target="/tagged", fields={"If-None-Match": '"v1"'}), Call(target="/missing")),
    *(Call("POST", "/moved-away", body="small"), Call(target="/small?last")),
)

# README, "What changes on the way".
OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding"}
NOT_ANSWERED = OF_ONE_CONNECTION | {
    *("x-hop", "trailer", "access-control-allow-origin", "strict-transport-security", "alt-svc"),
}
NOT_SENT = OF_ONE_CONNECTION | {"authorization", "cookie", "x-forwarded-for", "forwarded", "te", "host", "via"}
FRAMING = {"content-length", "transfer-encoding", "expect"}


class Door:
    """Leads to another port of this machine, and counts who comes in."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.count = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://localhost:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._open, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _open(self) -> None:
        with suppress(OSError):
            while True:
                inside, _ = self._listener.accept()
                self.count += 1
                outside = socket.create_connection(("127.0.0.1", self._to), TIMEOUT)
                for pair in ((inside, outside), (outside, inside)):
                    threading.Thread(target=self._lead, args=pair, daemon=True).start()

    def _lead(self, source: socket.socket, sink: socket.socket) -> None:
        with closing(source), suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class Side(NamedTuple):
    """What a client and the API saw of each other."""

    seen: list[Seen]
    received: list[Received]


class Stage:
    """The API, the proxy in front of it, and what clients send."""

    def __init__(self, upstream: Upstream, proxy: Proxy, directory: Path) -> None:
        self.upstream = upstream
        self.proxy = proxy
        self._directory = directory
        for name, content in (("small", b"small"), ("large", sample_api.LARGE), ("gzip", sample_api.GZIPPED)):
            (directory / name).write_bytes(content)

    def _plan(self, calls: Iterable[Call]) -> list[Call]:
        """With the files for the names of bodies."""
        return [msgspec.structs.replace(call, body=call.body and str(self._directory / call.body)) for call in calls]

    def play(self, case: Case, client: RealClient, port: int) -> Side:
        """A case, with the API or the proxy on `port`."""
        self.upstream.requests.clear()
        seen = client.run(f"http://localhost:{port}", self._plan(case.calls), at_once=case.at_once)
        received = list(self.upstream.requests)
        if case.at_once:
            received.sort(key=lambda request: request.target)
        return Side(seen, received)

    def connections(self, client: RealClient, port: int) -> int:
        """How many a client makes to `port` for requests in a row."""
        with Door(port) as door:
            client.run(door.url, self._plan(IN_A_ROW))
            return door.count


@pytest.fixture(scope="module")
def stage(backstage: Backstage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("stage")
    provider = DemoProvider(RegisteredClient(client_secret="canary-6f1d9c0b"))
    backstage.run(provider.start())
    launcher = Launcher(directory, provider)
    with Upstream(answer=sample_api.answer, when_head=sample_api.go_ahead) as upstream:
        yield Stage(upstream, launcher(upstream), directory)
        launcher.close()
    backstage.run(provider.stop())


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Program:
    compiler = real_part("go", "golang-go")
    directory = tmp_path_factory.mktemp("go")
    environment = {"PATH": "/usr/bin", "HOME": str(directory), "GO111MODULE": "off"}
    subprocess.run([compiler, "build", "-o", directory / "client", HERE / "client.go"], env=environment, check=True)
    return Program(directory / "client")


@pytest.fixture
def client(request: pytest.FixtureRequest, tmp_path: Path) -> RealClient:
    match request.param:
        case "curl":
            return Curl(tmp_path)
        case "curl with HTTP 1.0":
            return Curl(tmp_path, "--http1.0")
        case "requests" | "httpx2" | "aiohttp" as name:
            return IN_PYTHON[name]()
        case "go":
            program: Program = request.getfixturevalue("go")
            return program
        case name:
            node: Node = request.getfixturevalue("node")
            return Program(*node(name))


def without(names: set[str], fields: Pairs) -> Pairs:
    return [(name, value) for name, value in fields if name.lower() not in names]


def answered(seen: Seen, *, not_passed: set[str]) -> tuple[object, ...]:
    """What of an answer must be the same."""
    return seen.status, without(not_passed, seen.fields), seen.length, seen.digest


def fields_of(received: Received) -> Pairs:
    pairs = (line.decode("latin-1").split(":", 1) for line in received.lines)
    return [(name, value.strip()) for name, value in pairs]


def sent(received: Received) -> tuple[object, ...]:
    """What of a request must be the same; only what frames the body may stand in another place."""
    method, target, _ = received.request_line.split(b" ")
    fields = fields_of(received)
    framing = {(name.lower(), value) for name, value in fields if name.lower() in FRAMING}
    body = len(received.body), hashlib.sha256(received.body).hexdigest()
    return method, target, without(NOT_SENT | FRAMING, fields), framing, body


@pytest.mark.parametrize(
    "client, case",
    [
        pytest.param(client, case, id=f"{name} by {client}")
        for client, features in CLIENTS.items()
        for name, case in CASES.items()
        if not case.needs or case.needs in features
    ],
    indirect=["client"],
)
def test_same_as_direct(stage: Stage, client: RealClient, case: Case) -> None:
    """The client sees the same status, fields and body as without a proxy, and the API the same method, target, fields
    and body, but for the published changes (R34, R51-R56, R60, R63, R71, P5).
    """
    direct = stage.play(case, client, stage.upstream.port)
    proxied = stage.play(case, client, stage.proxy.port)

    assert [answered(one, not_passed=OF_ONE_CONNECTION) for one in proxied.seen] == [
        answered(one, not_passed=NOT_ANSWERED) for one in direct.seen
    ]
    assert not any(one.trailers for one in proxied.seen)
    assert list(map(sent, proxied.received)) == list(map(sent, direct.received))
    until(lambda: stage.proxy.metric("thg_proxy_upstream_connections", state="active") == 0)
    for received, unchanged in zip(proxied.received, direct.received, strict=True):
        version = unchanged.request_line[-3:]
        assert received.values(b"Host") == [b"localhost:%d" % stage.upstream.port]
        assert [value[:9] for value in received.values(b"Authorization")] == [b"Bearer ey"]
        assert received.values(b"Via") == [version + b" thg-proxy"]
        assert [received.values(name) for name in (b"Cookie", b"Forwarded", b"X-Forwarded-For")] == [[], [], []]


@pytest.mark.parametrize("client", [name for name in CLIENTS if name != "curl with HTTP 1.0"], indirect=True)
def test_kept_connection(stage: Stage, client: RealClient) -> None:
    """For requests of every kind in a row a client needs as many connections as directly: one, unless it trusts none
    after a HEAD (R29, R56).
    """
    directly = stage.connections(client, stage.upstream.port)
    proxied = stage.connections(client, stage.proxy.port)

    assert directly < 4
    assert proxied == directly
