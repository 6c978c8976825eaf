"""What the connections of the data port share: who is still connected, and the account of each request."""

import asyncio
import io
import json
from typing import Any, cast

import pytest

from proxy.engine import Engine
from proxy.log import Log
from proxy.metrics import Traffic
from proxy.record import RequestRecord
from proxy.server.serving import RECENT_REQUESTS, Connections, Serving
from proxy.settings import Log as LogSettings
from proxy.settings import OAuth, Settings


class FakeConnection:
    def __init__(self, *, idle: bool = False) -> None:
        self.is_idle = idle
        self.ended = ""

    def hang_up(self) -> None:
        self.ended = "hung up"

    def abort(self) -> None:
        self.ended = "aborted"


async def is_empty(connections: Connections) -> bool:
    waiting = asyncio.ensure_future(connections.wait_empty())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if not waiting.done():
        waiting.cancel()
        return False
    return True


def test_waits_for_the_last_connection() -> None:
    """A drain ends with the last connection, and at once where there is none (R162)."""

    async def story() -> None:
        connections = Connections()
        assert await is_empty(connections)
        first, second = FakeConnection(), FakeConnection()
        connections.opened(first)
        connections.opened(second)
        connections.lost(first)
        assert not await is_empty(connections)
        connections.lost(second)
        assert await is_empty(connections)
        connections.opened(first)
        assert not await is_empty(connections)

    asyncio.run(story())


def test_tunnels_are_not_waited_for() -> None:
    """A tunnel has no end of its own: a drain waits for the others, and its end takes the tunnels with it (R162)."""

    async def story() -> None:
        connections = Connections()
        tunnel, left, other = FakeConnection(), FakeConnection(), FakeConnection()
        for connection in (tunnel, left, other):
            connections.opened(connection)
        connections.tunnel_opened(tunnel)
        connections.tunnel_opened(left)
        assert not await is_empty(connections)
        connections.lost(left)
        connections.lost(other)
        assert await is_empty(connections)
        connections.abort()
        assert (tunnel.ended, left.ended, other.ended) == ("aborted", "", "")

    asyncio.run(story())


def test_idle_connections_are_let_go() -> None:
    """Whoever waits for a request is closed in peace; whoever serves one goes on (R162)."""
    connections = Connections()
    idle, busy = FakeConnection(idle=True), FakeConnection()
    connections.opened(idle)
    connections.opened(busy)
    connections.close_idle()
    assert (idle.ended, busy.ended) == ("hung up", "")


def account(access: str, *records: RequestRecord, scope: str | None = None) -> tuple[Serving, list[dict[str, Any]]]:
    """The serving after these requests, and the lines of its log."""
    stream = io.StringIO()
    settings = Settings(log=LogSettings(access=cast(Any, access)), oauth=OAuth(scope=scope))
    parts = cast(Any, None)
    log = Log(stream)
    serving = Serving(Engine(settings, parts, parts), traffic=Traffic(), log=log)

    async def story() -> None:
        for record in records:
            serving.finished(record)
        log.info("end")

    asyncio.run(story())
    return serving, [json.loads(line) for line in stream.getvalue().splitlines()][:-1]


def request(path: str, outcome: str = "ok", *, request_id: str = "") -> RequestRecord:
    record = RequestRecord("GET", path, 0.0)
    record.outcome, record.status, record.request_id = outcome, 200, request_id
    return record


@pytest.mark.parametrize("access, paths", [("all", ["/a", "/b"]), ("errors", ["/b"]), ("off", [])])
def test_which_requests_are_logged(access: str, paths: list[str]) -> None:
    """`log.access` says which requests get a line; all are counted and shown (R152)."""
    serving, lines = account(access, request("/a"), request("/b", "client_gone"))
    assert [line["path"] for line in lines] == paths
    assert [record.target for record in serving.recent] == ["/a", "/b"]
    assert sum(serving.traffic.requests.values()) == 2


def answered(status: int, code: str = "") -> RequestRecord:
    record = RequestRecord("GET", "/a", 0.0)
    record.status, record.code = status, code
    record.relayed()
    return record


@pytest.mark.parametrize(
    "records, scope, warnings",
    [
        ([answered(403), answered(403), answered(403)], None, 1),
        ([answered(403)], "", 1),
        ([answered(403)], "fleet.read", 0),
        ([answered(200), answered(401), answered(404), answered(500)], None, 0),
        ([answered(403, "not_allowed")], None, 0),
    ],
)
@pytest.mark.parametrize("access", ["all", "errors", "off"])
def test_scope_that_may_be_missing(access: str, records: list[RequestRecord], scope: str | None, warnings: int) -> None:
    """An API that forbids things to a token without a scope is worth one warning, whatever is logged else (R107)."""
    _, lines = account(access, *records, scope=scope)
    assert [line["level"] for line in lines if line["event"] == "scope_not_set"] == ["warning"] * warnings


def test_a_logged_request_has_an_id() -> None:
    """A line can be found again: by the client's id, or by one that is made for it (R170)."""
    _, lines = account("all", request("/a", request_id="mine"), request("/b"), request("/c"))
    first, second, third = (line["request_id"] for line in lines)
    assert first == "mine"
    assert len(second) == len(third) == 32
    assert second != third


def test_recent_requests_are_bounded() -> None:
    """What `/status` shows does not grow with the traffic."""
    serving, _ = account("off", *(request(f"/{number}") for number in range(RECENT_REQUESTS + 10)))
    assert len(serving.recent) == RECENT_REQUESTS
    assert serving.recent[-1].target == f"/{RECENT_REQUESTS + 9}"


def test_a_bug_is_told_by_its_type() -> None:
    """The text of an exception that nobody foresaw could be a peer's, and is not logged (R145)."""
    stream = io.StringIO()
    parts = cast(Any, None)
    serving = Serving(Engine(Settings(), parts, parts), traffic=Traffic(), log=Log(stream))
    serving.report_bug(ValueError("Bearer canary"))
    (line,) = stream.getvalue().splitlines()
    assert (json.loads(line)["event"], json.loads(line)["error"]) == ("unexpected_error", "ValueError")
