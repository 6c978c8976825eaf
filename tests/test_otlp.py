"""The way of spans to a collector, over real sockets."""

import asyncio
import io
import json
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from proxy import __version__, otlp
from proxy.demo.certificates import CertificateAuthority
from proxy.log import Log
from proxy.otlp import CLIENT, FAILED, MAX_BATCH, MAX_WAITING, Exporter, export_request, piece_of_span
from tests.collector import attributes, names, resource_spans
from tests.peers import TIMEOUT, Received, Upstream, free_port, http_answer, mute, trap

ACCEPTED = http_answer(200, b"")
AN_HOUR = 3600.0


def span(name: object) -> bytes:
    return piece_of_span({}, name=str(name))


@pytest.fixture
def collector() -> Iterator[Upstream]:
    with Upstream(answer=ACCEPTED) as collector:
        yield collector


class Stage:
    """An exporter, and what it logs."""

    def __init__(self, endpoint: str) -> None:
        self._log = io.StringIO()
        self.exporter = Exporter(endpoint, Log(self._log))

    def take(self, *spans: object) -> None:
        for name in spans:
            self.exporter.take(span(name))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]

    async def close(self, within: float = TIMEOUT) -> None:
        await self.exporter.close(asyncio.get_running_loop().time() + within)


@asynccontextmanager
async def exporting(endpoint: str) -> AsyncIterator[Stage]:
    stage = Stage(endpoint)
    try:
        yield stage
    finally:
        await stage.close(0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - the state belongs to what is tested, which announces nothing
            await asyncio.sleep(0.01)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the next attempt comes at once."""
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)


def test_pieces() -> None:
    """The parts of a span, one behind the other, are a span with the attributes of all."""
    data = piece_of_span({"server.address": "api", "server.port": 443}, kind=CLIENT) + piece_of_span(
        {"ttfb": 1.5}, name="GET", trace_id=b"t" * 16, status=FAILED
    )
    whole = Span.FromString(data)
    assert attributes(whole) == {"server.address": "api", "server.port": 443, "ttfb": 1.5}
    assert (whole.kind, whole.name, whole.trace_id) == (Span.SPAN_KIND_CLIENT, "GET", b"t" * 16)
    assert whole.status.code == Status.STATUS_CODE_ERROR


def test_request() -> None:
    """The body says whose spans they are."""
    (group,) = resource_spans([Received(b"", export_request([span("a"), span("b")]), 1)])
    assert attributes(group.resource) == {"service.name": "thg-proxy", "service.version": __version__}
    (scope,) = group.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("thg-proxy", __version__)
    assert [item.name for item in scope.spans] == ["a", "b"]


@pytest.mark.parametrize("path", ["", "/", "/otlp", "/otlp/"])
def test_where_it_is_sent(collector: Upstream, path: str) -> None:
    """OTLP/HTTP has a path of its own below the endpoint; what waits at the end is sent."""

    async def run() -> list[str]:
        async with exporting(collector.url + path) as stage:
            stage.take("a", "b")
            await stage.close()
            return stage.events

    assert asyncio.run(run()) == []
    (received,) = collector.requests
    assert received.request_line == b"POST %b/v1/traces HTTP/1.1" % path.rstrip("/").encode()
    assert received.values(b"Content-Type") == [b"application/x-protobuf"]
    assert names(collector.requests) == ["a", "b"]


def test_batches(collector: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as go into one batch wait for nothing; the rest waits for others."""
    monkeypatch.setattr(otlp, "_PAUSE", AN_HOUR)
    count = 2 * MAX_BATCH + 3

    async def run() -> None:
        async with exporting(collector.url) as stage:
            stage.take(*range(count))
            await until(lambda: len(names(collector.requests)) == 2 * MAX_BATCH)
            stage.take(*range(count, 3 * MAX_BATCH))
            await until(lambda: len(names(collector.requests)) == 3 * MAX_BATCH)

    asyncio.run(run())
    assert names(collector.requests) == [str(number) for number in range(3 * MAX_BATCH)]
    assert len(collector.requests) == 3


def test_few_spans(collector: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """They need not be many to be sent."""
    monkeypatch.setattr(otlp, "_PAUSE", 0.01)

    async def run() -> None:
        async with exporting(collector.url) as stage:
            for number in range(3):
                stage.take(number)
                await until(lambda number=number: len(names(collector.requests)) == number + 1)  # type: ignore[misc]

    asyncio.run(run())
    assert names(collector.requests) == ["0", "1", "2"]


def test_too_many(collector: Upstream) -> None:
    """The oldest make room, and are counted."""

    async def run() -> list[dict[str, Any]]:
        async with exporting(collector.url) as stage:
            stage.take(*range(MAX_WAITING + 5))
            await stage.close()
            return stage.lines

    (line,) = asyncio.run(run())
    assert (line["event"], line["level"], line["count"]) == ("spans_dropped", "warning", 5)
    assert names(collector.requests) == [str(number) for number in range(5, MAX_WAITING + 5)]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.usefixtures("no_backoff")
def test_collector_that_is_busy(collector: Upstream, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """The same spans are sent again until it takes them; the log says when that begins and ends."""
    monkeypatch.setattr(otlp, "_PAUSE", 0.01)
    collector.answer = http_answer(status, b"")

    async def run() -> list[dict[str, Any]]:
        async with exporting(collector.url) as stage:
            stage.take("a")
            await until(lambda: len(collector.requests) > 2)
            collector.answer = ACCEPTED
            await until(lambda: "collector_recovered" in stage.events)
            return stage.lines

    first, second = asyncio.run(run())
    assert (first["event"], first["reason"]) == ("collector_unavailable", f"it answers with status {status}")
    assert (second["event"], second["level"]) == ("collector_recovered", "info")
    assert set(names(collector.requests)) == {"a"}


@pytest.mark.parametrize("status", [302, 400, 401, 404, 500])
@pytest.mark.usefixtures("no_backoff")
def test_collector_that_refuses(collector: Upstream, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """What it will never take is dropped and counted. A redirect is not followed."""
    monkeypatch.setattr(otlp, "_PAUSE", 0.01)

    async def run(elsewhere: int) -> list[dict[str, Any]]:
        collector.answer = http_answer(status, b"", b"Location: http://127.0.0.1:%d/v1/traces" % elsewhere)
        async with exporting(collector.url) as stage:
            stage.take("a")
            await until(lambda: stage.events)
            collector.answer = ACCEPTED
            stage.take("b")
            await until(lambda: "spans_dropped" in stage.events)
            return stage.lines

    with trap() as elsewhere:
        first, second, third = asyncio.run(run(elsewhere.port))
        assert elsewhere.hits == 0
    assert (first["event"], first["reason"]) == ("collector_unavailable", f"it answers with status {status}")
    assert second["event"] == "collector_recovered"
    assert (third["event"], third["count"]) == ("spans_dropped", 1)
    assert names(collector.requests) == ["a", "b"]


@pytest.mark.usefixtures("no_backoff")
def test_collector_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans wait for it, as many as may; the end does not."""
    monkeypatch.setattr(otlp, "_PAUSE", 0.01)

    async def run() -> list[dict[str, Any]]:
        async with exporting(f"http://127.0.0.1:{free_port()}") as stage:
            stage.take(*range(MAX_BATCH))
            await until(lambda: stage.events)
            stage.take(*range(2 * MAX_WAITING))
            await stage.close()
            return stage.lines

    first, second = asyncio.run(run())
    assert first["event"] == "collector_unavailable"
    assert first["reason"].startswith("no answer: ")
    # Those that it was tried with are kept apart from those that wait.
    assert (second["event"], second["count"]) == ("spans_dropped", MAX_BATCH + 2 * MAX_WAITING)


def test_collector_that_is_slow(collector: Upstream) -> None:
    """The end of the process waits until its deadline, and no longer than for two seconds."""
    collector.answer = mute

    async def run(within: float) -> list[dict[str, Any]]:
        async with exporting(collector.url) as stage:
            stage.take("a", "b")
            await stage.close(within)
            return stage.lines

    for within in (0.0, 0.1, AN_HOUR):
        (line,) = asyncio.run(run(within))
        assert (line["event"], line["count"]) == ("spans_dropped", 2)


@pytest.mark.usefixtures("no_backoff")
def test_collector_without_an_answer(collector: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not come in time is none."""
    monkeypatch.setattr(otlp, "_PAUSE", 0.01)
    monkeypatch.setattr(otlp, "_TIMEOUT", 0.05)
    collector.answer = mute

    async def run() -> list[dict[str, Any]]:
        async with exporting(collector.url) as stage:
            stage.take("a")
            await until(lambda: stage.events)
            return stage.lines

    (line, *_) = asyncio.run(run())
    assert line["reason"] == "no answer within 0.05s"


def test_answer_without_end(collector: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status is all that is wanted of an answer; a body goes unread, and its connection ends."""
    monkeypatch.setattr(otlp, "_PAUSE", 0.01)

    def endless(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            sock.sendall(b"400\r\n%b\r\n" % (b"x" * 1024))

    collector.answer = endless

    async def run() -> list[str]:
        async with exporting(collector.url) as stage:
            stage.take("a")
            await until(collector.cut.is_set)
            stage.take("b")
            await until(lambda: names(collector.requests) == ["a", "b"])
            return stage.events

    assert asyncio.run(run()) == []


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.usefixtures("no_backoff")
def test_tls(authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch, *, is_trusted: bool) -> None:
    """A collector behind https has a certificate of a CA that the system trusts, or gets nothing."""
    monkeypatch.setattr(otlp, "_PAUSE", 0.01)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))

    async def run(to: Upstream) -> list[dict[str, Any]]:
        async with exporting(to.url) as stage:
            stage.take("a")
            await until(lambda: stage.events or to.requests)
            return stage.lines

    with Upstream(answer=ACCEPTED, tls=authority.server_context("localhost")) as collector:
        lines = asyncio.run(run(collector))
        assert names(collector.requests) == (["a"] if is_trusted else [])
    if not is_trusted:
        assert lines[0]["event"] == "collector_unavailable"
        assert "CERTIFICATE_VERIFY_FAILED" in lines[0]["reason"]


def test_another_endpoint(collector: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits goes there, too, at once: that the last one has failed is nothing to wait for."""
    monkeypatch.setattr(otlp, "_PAUSE", 0.01)
    monkeypatch.setattr(random, "uniform", lambda *_: AN_HOUR)

    async def run() -> None:
        async with exporting(f"http://127.0.0.1:{free_port()}") as stage:
            stage.take("a")
            await until(lambda: stage.events)
            stage.exporter.send_to(collector.url)
            stage.exporter.send_to(collector.url)
            await until(lambda: names(collector.requests) == ["a"])

    asyncio.run(run())


def test_closed_twice(collector: Upstream) -> None:
    """The second time does nothing."""

    async def run() -> list[str]:
        async with exporting(collector.url) as stage:
            stage.take("a")
            await stage.close()
            return stage.events

    assert asyncio.run(run()) == []
    assert names(collector.requests) == ["a"]
