"""An admin port over real sockets, with small fakes behind it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from http.client import parse_headers
from io import BytesIO
from time import perf_counter
from typing import Any

from aiohttp import web

from proxy.admin.app import AdminParts, AdminPort
from proxy.admin.history import History
from proxy.credential import ClientStatus, JwksStatus, TokenStatus
from proxy.metrics import Metrics, WorkerStatus
from proxy.record import RequestRecord
from proxy.settings import Settings

NO_TOKEN = TokenStatus(
    state="none",
    usable=False,
    ever_obtained=False,
    client=None,
    generation=0,
    issued_at=None,
    expires_at=None,
    refresh_at=None,
    last_error=None,
    last_error_at=None,
    retry_after=None,
    scope=None,
    verification="off",
    jwks=None,
    clients=(),
)
GOOD_TOKEN = replace(
    NO_TOKEN,
    state="fresh",
    usable=True,
    ever_obtained=True,
    client="primary",
    generation=3,
    issued_at=1_700_000_000.0,
    expires_at=1_700_003_600.0,
    refresh_at=1_700_002_700.0,
    scope="vehicles",
    verification="require",
    jwks=JwksStatus(keys=2, fetched_at=1_700_000_000.0, last_error=None),
    clients=(
        ClientStatus("primary", "active", 1_700_000_000.0, None),
        ClientStatus("reserve", "standby", None, None),
    ),
)
SERVING = WorkerStatus(pid=7, state="serving", started=1_700_000_000.0, in_flight=1, restarts=0)
OUTAGE = replace(GOOD_TOKEN, state="due", last_error="timeout", last_error_at=1_700_002_701.0, retry_after=7.25)


def served(target: str = "/v1/vehicles", **known: object) -> RequestRecord:
    """A request that is over."""
    record = RequestRecord("GET", target, perf_counter())
    for name, value in known.items():
        setattr(record, name, value)
    return record


@dataclass
class Proxy:
    """The proxy behind the admin port, as far as the port sees it."""

    settings: Settings = field(default_factory=Settings)
    status: TokenStatus = GOOD_TOKEN
    stopping: bool = False
    refreshes: bool = True
    refreshed: int = 0
    stopped: int = 0
    updated: int = 0
    metrics: Metrics = field(default_factory=Metrics)
    workers: tuple[WorkerStatus, ...] = (SERVING,)
    has_served: bool = True
    descriptors: tuple[int, int] | None = (20, 1024)
    token_fault: Exception | None = None
    recent: list[RequestRecord] = field(default_factory=list)
    provider_answers: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.provider_answers.set()
        self.metrics.traffic.pool = lambda: {"idle": 1, "active": 2}

    def token(self) -> TokenStatus:
        if self.token_fault is not None:
            raise self.token_fault
        return self.status

    async def update(self) -> None:
        self.updated += 1

    async def refresh(self) -> bool:
        self.refreshed += 1
        await self.provider_answers.wait()
        return self.refreshes

    def stop(self) -> None:
        self.stopped += 1

    def parts(self) -> AdminParts:
        return AdminParts(
            settings=lambda: self.settings,
            origin="/etc/thg-proxy/config.yaml",
            metrics=self.metrics,
            history=History(self.metrics.traffic),
            engine={"loop": "uvloop", "transport": "aiofastnet", "parser": "llhttp"},
            token=self.token,
            workers=lambda: self.workers,
            has_served=lambda: self.has_served,
            descriptors=lambda: self.descriptors,
            update=self.update,
            recent=lambda: self.recent,
            stopping=lambda: self.stopping,
            refresh=self.refresh,
            stop=self.stop,
        )


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def parse(cls, raw: bytes) -> "Answer":
        head, _, body = raw.partition(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        headers = parse_headers(BytesIO(fields + b"\r\n\r\n"))
        return cls(int(line.split()[1]), {name.lower(): value for name, value in headers.items()}, body)

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@asynccontextmanager
async def serving(proxy: Proxy, limit: int = 64) -> AsyncIterator[int]:
    runner = web.ServerRunner(AdminPort(proxy.parts(), lambda: limit), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def send(port: int, raw: bytes) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    try:
        return Answer.parse(await reader.read())
    finally:
        writer.close()
        await writer.wait_closed()


def request_bytes(method: str, path: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def ask(proxy: Proxy, path: str, method: str = "GET", host: str = "localhost:9090", **fields: str) -> Answer:
    """One request on a port of its own; a keyword becomes a header field."""
    headers = [("Host", host), *((name.replace("_", "-"), value) for name, value in fields.items())]

    async def conversation() -> Answer:
        async with serving(proxy) as port:
            return await send(port, request_bytes(method, path, headers))

    return asyncio.run(conversation())


def is_problem(answer: Answer, status: int, code: str) -> bool:
    document = answer.document
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["instance"] == answer.headers["x-request-id"]
    return (answer.status, document["status"], document["code"]) == (status, status, code)
