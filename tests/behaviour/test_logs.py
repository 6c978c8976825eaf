"""What the process writes, and what becomes of it when nobody takes what it writes."""

import asyncio
import json
import os
import socket
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest
from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.canaries import leaks
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import TIMEOUT, Received, Upstream, http_answer, request, token_answer

DROPPED = "thg_proxy_log_lines_dropped_total"


def by_path(received: Received, sock: socket.socket) -> bool:
    """An API with a path for each thing that can come of a request."""
    if received.target == b"/cut":
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        return False
    sock.sendall(http_answer({b"/missing": 404, b"/broken": 500}.get(received.target, 200), b"ok"))
    return True


ENDS = [
    ("/fine", 200, "", "ok"),
    ("/missing", 404, "", "client_error"),
    ("/broken", 500, "", "upstream_error"),
    ("/cut", 200, "upstream_incomplete", "aborted"),
    ("/fragment", 400, "bad_target", "client_error"),
]


@pytest.mark.parametrize("access, logged", [("all", ENDS), ("errors", ENDS[1:]), ("off", [])])
def test_access(launch: Launcher, upstream: Upstream, access: str, logged: list[tuple[object, ...]]) -> None:
    """`log.access` says which requests get a line: all, those that were not well, or none; probes get none (R152)."""
    upstream.answer = by_path
    proxy = launch(upstream, f"log.access={access}")
    for path in ("/livez", "/readyz", "/startupz", "/metrics", "/status", "/no-such-page"):
        proxy.admin(path)
    for target in (b"/fine?q=1", b"/missing", b"/broken", b"/cut", b"/fragment#f"):
        with proxy.connect() as client:
            client.send(request(b"GET", target, b"Connection: close"))
            client.rest()
    until(lambda: proxy.metric("thg_proxy_request_duration_seconds_count") == len(ENDS))
    proxy.stop()

    lines = proxy.log_lines("request")
    assert [(line["path"], line["status"], line["code"], line["outcome"]) for line in lines] == logged


def test_canonical_fields(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """The line of a request says how many bytes went each way, and where the time went, in milliseconds (R170)."""
    waited_for = threading.Event()

    async def wait(call: web.BaseRequest) -> web.StreamResponse:
        await asyncio.to_thread(waited_for.wait, TIMEOUT)
        return await provider.issue_token(call)

    provider.faults.token = wait
    proxy = launch(upstream, "log.access=all", ready=False)
    with proxy.connect() as client:
        client.send(request(b"POST", b"/v1/x?q=1", b"X-Request-Id: abc", body=b"12345"))
        until(lambda: proxy.metric("thg_proxy_requests_in_flight"))
        waited_for.set()
        client.response()
        client.send(request(b"POST", b"/v1/x?q=1", b"X-Request-Id: abc", body=b"12345"))
        client.response()
    first, second = until(lambda: proxy.log_lines("request")[1:] and proxy.log_lines("request"))

    known = {"level": "info", "request_id": "abc", "method": "POST", "path": "/v1/x", "status": 200, "code": ""}
    known |= {"outcome": "ok", "bytes_in": 5, "bytes_out": 2, "replayed": False}
    times = {"duration_ms", "token_wait_ms", "connect_ms", "ttfb_ms"}
    for line in (first, second):
        assert line.keys() == known.keys() | times | {"time", "event"}
        assert {name: line[name] for name in known} == known
        assert line["duration_ms"] >= line["token_wait_ms"] + line["connect_ms"] + line["ttfb_ms"]
    assert min(first[name] for name in times) > 0
    assert (second["token_wait_ms"], second["connect_ms"]) == (0, 0)


HOSTILE = [
    b"/%0d%0aFAKE",
    b"/%1b[31m",
    b"/\x1b]0;title\x07",
    b"/\x9b31m",
    b"/\xe2\x80\xae\xff",
    b"/" + b"\x7f" * 10_000,
    b"/a\x00b",
    b'/","level":"error',
]
BYTES = st.binary(max_size=300).map(lambda data: data.replace(b"\n", b"\r"))


def test_hostile_bytes(launch: Launcher, upstream: Upstream) -> None:
    """Whatever a client puts into its request line and its fields, a request is one line of JSON, and no field is
    another's (R151, R152).
    """
    proxy = launch(upstream, "log.access=all")

    @settings(max_examples=150, deadline=None)
    @example(b"/", b"x" * 1_000_000, b"User-Agent")
    @given(st.sampled_from(HOSTILE) | BYTES, BYTES, st.sampled_from([b"User-Agent", b"X-Request-Id", b"Referer"]))
    def send(target: bytes, value: bytes, name: bytes) -> None:
        with proxy.connect() as client, suppress(ConnectionError):  # it may be refused before all of it is sent
            client.send(request(b"GET", target, name + b": " + value, b"Connection: close"))
            client.rest()

    send()
    until(lambda: proxy.metric("thg_proxy_request_duration_seconds_count") == len(proxy.log_lines("request")))
    lines = proxy.log_lines("request")

    assert len(lines) > 100
    assert proxy.log.count("\n") == len(proxy.log.splitlines())
    assert proxy.log.replace("\n", "").isprintable()
    assert len({frozenset(line) for line in lines}) == 1
    assert all(len(text) <= 256 for line in lines for text in line.values() if isinstance(text, str))


@contextmanager
def broken_pipe() -> Iterator[IO[bytes]]:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stream:
        yield stream


FULL_DISK = Path("/dev/full")


@pytest.mark.parametrize(
    "opened",
    [
        pytest.param(
            lambda: FULL_DISK.open("wb"),
            id="full disk",
            marks=pytest.mark.skipif(not FULL_DISK.exists(), reason="/dev/full is Linux's"),
        ),
        pytest.param(broken_pipe, id="broken pipe"),
    ],
)
def test_nothing_can_be_written(
    launch: Launcher, upstream: Upstream, opened: Callable[[], AbstractContextManager[IO[bytes]]]
) -> None:
    """A log that can't be written costs its lines, which are counted, and nothing else (R166, F47)."""
    with opened() as stream:
        proxy = launch(upstream, "log.access=all", stderr=stream)
    assert {status_of(proxy) for _ in range(20)} == {200}
    until(lambda: proxy.metric(DROPPED) >= 20)

    assert proxy.stop() == 0


def status_of(proxy: Proxy, target: bytes = b"/a") -> int:
    with proxy.connect() as client:
        return client.get(target).status


def test_closed_descriptors(launch: Launcher, upstream: Upstream) -> None:
    """A process that is started without stdin, stdout and stderr serves, counts its lines, and ends well: none of its
    sockets gets their numbers (R166, F47).
    """
    launch.prefix = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    proxy = launch(upstream, "log.access=all")
    assert {status_of(proxy) for _ in range(20)} == {200}
    until(lambda: proxy.metric(DROPPED) >= 20)

    assert proxy.stop() == 0


@contextmanager
def stopped_reader() -> Iterator[tuple[IO[bytes], int]]:
    """What nobody reads yet, and where to write it."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source:
        try:
            yield source, writer
        finally:
            os.close(writer)


def test_reader_who_stops(launch: Launcher, upstream: Upstream) -> None:
    """While nobody reads the log every request is answered. Who reads again finds the older lines, then how many are
    missing, and after that each line as it comes, to the last (R166, F47).
    """
    requests, pipelined = 10_000, 100
    with stopped_reader() as (source, writer):
        proxy = launch(upstream, "log.access=all", stderr=writer)
        with proxy.connect() as client:
            for _ in range(requests // pipelined):
                client.send(request(b"GET", b"/" + b"a" * 200) * pipelined)
                assert {client.response().status for _ in range(pipelined)} == {200}
        dropped = until(lambda: int(proxy.metric(DROPPED)))
        assert proxy.metric("thg_proxy_requests_total", method="GET", status="200", outcome="ok") == requests

        events = (json.loads(line) for line in source)
        told = next_event(events, "log_lines_dropped")
        assert status_of(proxy) == 200
        assert next_event(events, "request")["path"] == "/a"
        assert proxy.stop() == 0
        assert next_event(events, "stopped")
    assert (told["level"], told["count"]) == ("warning", dropped)
    assert requests > dropped > requests // 2


def next_event(events: Iterator[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(event for event in events if event["event"] == name)


def test_exit_without_a_reader(launch: Launcher, upstream: Upstream) -> None:
    """A reader who has stopped does not keep the process from ending (R162, R166, F47)."""
    with stopped_reader() as (_, writer):
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
        proxy = launch(upstream, "log.access=all", stderr=writer)
        assert status_of(proxy) == 200

        assert proxy.stop() == 0


def test_bare_surroundings(launch: Launcher, upstream: Upstream, tmp_path: Path) -> None:
    """No place to write to, no home, no locale and another time zone change nothing: what is logged and sent is in UTC
    and in English (F47, F51).
    """
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir(mode=0o555)
    launch.working_directory = nowhere
    variables = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "LC_ALL": "C", "LANG": "", "TZ": "Asia/Tokyo"}
    proxy = launch(upstream, "log.access=all", environment=variables)
    assert status_of(proxy, b"/%C3%A9") == 200
    assert status_of(proxy, "/é".encode()) == 400
    line = until(lambda: proxy.log_lines("request"))[0]

    logged = datetime.fromisoformat(line["time"])
    assert (line["time"][-1], abs(datetime.now(UTC) - logged) < timedelta(minutes=5)) == ("Z", True)
    assert list(nowhere.iterdir()) == []


def test_nothing_on_the_disk(
    launch: Launcher, provider: DemoProvider, authority: CertificateAuthority, tmp_path: Path
) -> None:
    """With the memory store nothing is written anywhere: no token, and no TLS keys for $SSLKEYLOGFILE (R150, R154)."""
    place = tmp_path / "place"
    place.mkdir()
    launch.working_directory = place
    variables = {"HOME": str(place), "TMPDIR": str(place), "SSLKEYLOGFILE": str(place / "keys")}
    certified = f"{{ca_file: {authority.ca_file}}}"
    with (
        Upstream(tls=authority.server_context("localhost")) as api,
        Upstream(answer=token_answer(), tls=authority.server_context("localhost")) as issuer,
    ):
        proxy = launch(
            api,
            f"upstream.tls={certified}",
            f"oauth.tls={certified}",
            f"oauth.token_url={issuer.url}/token",
            environment=variables,
        )
        assert status_of(proxy) == 200
        assert proxy.stop() == 0

    assert list(place.rglob("*")) == []


def test_nobody_says_a_secret(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """A provider that repeats what it was sent, an API that refuses, clients that leave, and asyncio's debug mode: no
    secret is in the answers, and none in what the process lets out (R128, R145).

    The second is searched at the end of each test in this directory.
    """

    async def repeat(call: web.BaseRequest) -> web.StreamResponse:
        said = call.headers["Authorization"]
        decoded = b64decode(said.removeprefix("Basic ")).decode()
        body = {"error": "invalid_scope", "error_description": f"{said} {decoded}", "error_uri": decoded}
        return web.json_response(body, status=400, headers={"X-Said": said}, reason=decoded)

    upstream.answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"
    provider.faults.token = repeat
    proxy = launch(
        upstream,
        "log.access=all",
        "oauth.refresh.backoff={initial: 500ms, max: 500ms, rejected: 500ms}",
        ready=False,
        environment={"PYTHONASYNCIODEBUG": "1"},
    )
    until(lambda: proxy.log_lines("token_unavailable"))
    said = [whole_answer(proxy, b"/a")]
    provider.faults.token = None
    until(lambda: proxy.is_ready)
    said += [whole_answer(proxy, target) for target in (b"/refused", b"/a#b", b"/a?access_token=x")]
    upstream.answer = b"SSH-2.0-OpenSSH\r\n\r\n"
    said.append(whole_answer(proxy, b"/broken"))
    with proxy.connect() as client:
        client.send(request(b"POST", b"/gone", b"Content-Length: 10", body=b"12345"))

    assert [answer[9:12] for answer in said] == [b"503", b"401", b"400", b"401", b"502"]
    assert leaks(b"".join(said).decode(), provider) == []


def whole_answer(proxy: Proxy, target: bytes) -> bytes:
    with proxy.connect() as client:
        client.send(request(b"GET", target, b"Connection: close"))
        return client.rest()
