"""Several processes on one port: they look like one."""

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo import faults
from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.canaries import leaks
from tests.behaviour.crew import TWO, Crew
from tests.behaviour.running import Launch, Launcher, token_calls, until
from tests.behaviour.test_inbound import connect_tls, connect_unix
from tests.behaviour.test_reload import Configured, reloads
from tests.behaviour.test_replay import refusing
from tests.behaviour.test_token_clocks import Judge
from tests.collector import spans
from tests.peers import TIMEOUT, Minting, Slow, Upstream, http_answer, request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems don't share a port out")


@pytest.fixture
def crew(launch: Launcher, upstream: Upstream) -> Crew:
    return Crew(launch(upstream, *TWO))


def test_all_serve(crew: Crew) -> None:
    """Connections are shared out among the processes, which say in the log who they are."""
    with crew.connected() as clients:
        assert clients.keys() == {1, 2}
    assert {line["pid"] for line in crew.proxy.log_lines("worker_serving")} == set(crew.pids())
    assert crew.proxy.metric("thg_proxy_workers") == 2


def test_unix_socket(launch: Launcher, upstream: Upstream, tmp_path: Path) -> None:
    """A Unix socket is shared; its mode and the callers that it takes are those of one process, and so is its end."""
    path = tmp_path / "proxy.sock"
    proxy = launch(upstream, *TWO, f"listen.address=unix:{path}", f"listen.allowed_uids=[{os.getuid()}]")
    crew = Crew(proxy)
    assert path.stat().st_mode & 0o777 == 0o600
    with crew.connected(lambda: connect_unix(path)) as clients:
        assert clients.keys() == {1, 2}

    assert proxy.stop() == 0
    assert not path.exists()


def test_callers_of_a_unix_socket(launch: Launcher, upstream: Upstream, tmp_path: Path) -> None:
    """Who may not call is refused by every worker."""
    path = tmp_path / "proxy.sock"
    Crew(launch(upstream, *TWO, f"listen.address=unix:{path}", f"listen.allowed_uids=[{os.getuid() + 1}]"))
    for _ in range(20):
        with connect_unix(path) as client:
            assert client.get().status == 403
    assert upstream.requests == []


def test_tls(launch: Launcher, upstream: Upstream, authority: CertificateAuthority) -> None:
    """Every worker has the certificate."""
    files = authority.issue("localhost", "127.0.0.1")
    keys = f"listen.tls.cert_file={files.cert_file}", f"listen.tls.key_file={files.key_file}"
    crew = Crew(launch(upstream, *TWO, *keys))
    with crew.connected(lambda: connect_tls(crew.proxy, authority)) as clients:
        assert clients.keys() == {1, 2}


def test_a_port_in_use(launch: Launcher, upstream: Upstream, crew: Crew) -> None:
    """A second proxy on the port of the first says so, though the kernel would let them share it."""
    process = launch.spawn(upstream, "workers=2", f"listen.address=127.0.0.1:{crew.proxy.port}")
    _, output = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert output.startswith(b"listen.address: can't listen on 127.0.0.1:")


def test_nobody_can_start(launch: Launcher, upstream: Upstream) -> None:
    """Where no worker can serve at all, the proxy ends with 1, and the log says why."""
    process = launch.spawn(upstream, "workers=2", environment={"AIOHTTP_NO_EXTENSIONS": "1"})
    _, output = process.communicate(timeout=TIMEOUT)
    lines = output.decode().splitlines()
    assert process.returncode == 1
    assert [line for line in lines if line[0] != "{"] == ["workers: none could start; the log says why"]
    events = [json.loads(line) for line in lines if line[0] == "{"]
    failures = {event["worker"]: event["reason"] for event in events if event["event"] == "worker_failed"}
    assert failures.keys() == {1, 2}
    assert all("C extensions" in reason for reason in failures.values())


# The token


def test_first_token(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """However many requests wait in however many processes, one token is asked for (R85)."""
    go_on = threading.Event()

    async def wait(call: web.BaseRequest) -> web.StreamResponse:
        await asyncio.to_thread(go_on.wait, TIMEOUT)
        return await provider.issue_token(call)

    provider.faults.token = wait
    crew = Crew(launch(upstream, *TWO, "oauth.refresh.wait=1h", "oauth.timeout=1h", ready=False))
    assert crew.proxy.admin("/readyz")[0] == 503
    with ExitStack() as opened:
        clients = [opened.enter_context(crew.proxy.connect()) for _ in range(100)]
        for client in clients:
            client.send(request(b"GET", b"/a"))
        until(lambda: crew.proxy.metric("thg_proxy_requests_in_flight") == 100)
        go_on.set()
        assert [client.response().status for client in clients] == [200] * 100

    assert token_calls(provider) == 1
    until(lambda: {line["worker"] for line in crew.proxy.log_lines("request")} == {1, 2})
    assert crew.proxy.metric("thg_proxy_token_waits_total", result="ok") == 100


def test_refused_token_of_many(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """A hundred requests that are refused at once, in two processes, share one token request (R93)."""
    crew = Crew(launch(upstream, *TWO, f"oauth.refresh.min_interval={MIN_INTERVAL}"))
    until(lambda: crew.proxy.token_age > MIN_INTERVAL)
    upstream.answer = refusing(provider, at_once=100)
    with ExitStack() as opened:
        clients = [opened.enter_context(crew.proxy.connect()) for _ in range(100)]
        for client in clients:
            client.send(request(b"GET", b"/a"))
        assert [client.response().status for client in clients] == [200] * 100

    assert token_calls(provider) == 2
    assert len(upstream.requests) == 200
    until(lambda: {line["worker"] for line in crew.proxy.log_lines("request")} == {1, 2})


def test_reasons(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """Who gets no token is told why, and when to come again, as by one process (R91)."""
    refusal = b'{"error": "invalid_client"}'
    provider.faults.token = faults.answer(401, refusal, {"Content-Type": "application/json"})
    proxy = launch(upstream, *TWO, "oauth.refresh.backoff={rejected: 300s}", ready=False)
    until(lambda: proxy.log_lines("token_unavailable"))
    with proxy.connect() as client:
        response = client.get()
    assert (response.status, json.loads(response.body)["code"]) == (503, "client_rejected")
    assert 200 < int(response.values(b"Retry-After")[0]) <= 300


def test_parent_that_is_stuck(launch_with: Launch, upstream: Upstream, issuer: Upstream) -> None:
    """No token is sent after its end, even where the process that would replace it is stopped (R90)."""
    issuer.answer = minting = Minting(expires_in=4)
    upstream.answer = api = Judge(minting, lifetime=4)
    proxy = launch_with(*TWO, "oauth.refresh.wait=100ms")
    crew = Crew(proxy)
    with crew.connected() as clients:
        proxy.process.send_signal(signal.SIGSTOP)
        try:
            for client, *_ in clients.values():
                until(lambda client=client: client.get().status == 503)  # type: ignore[misc]
                refused = client.get()
                assert json.loads(refused.body)["code"] == "token_unavailable"
        finally:
            proxy.process.send_signal(signal.SIGCONT)
        for client, *_ in clients.values():
            until(lambda client=client: client.get().status == 200)  # type: ignore[misc]

    assert api.expired == []


# What is seen from outside


def test_figures(crew: Crew, upstream: Upstream) -> None:
    """One admin port shows what all have served: every request is counted once, and the last hundred are there."""
    upstream.answer = http_answer(200, b"12345678")
    with crew.connected() as clients:
        before = len(upstream.requests)
        for _ in range(60):
            for client, *_ in clients.values():
                client.send(request(b"POST", b"/a?query=1", body=b"123"))
                assert client.response().body == b"12345678"
        proxy = crew.proxy
        # A scrape does not wait for ever for a worker that is slow to answer.
        until(lambda: proxy.metric("thg_proxy_request_duration_seconds_count") == before + 120)
        status = proxy.status()

    assert proxy.metric("thg_proxy_requests_total", method="GET", status="200", outcome="ok") == before
    assert proxy.metric("thg_proxy_requests_total", method="POST", status="200", outcome="ok") == 120
    assert proxy.metric("thg_proxy_request_bytes_total") == 360
    assert proxy.metric("thg_proxy_response_bytes_total") == 8 * (before + 120)
    assert proxy.metric("thg_proxy_upstream_ttfb_seconds_count") == before + 120
    assert proxy.metric("thg_proxy_upstream_connects_total", result="ok") == upstream.connections
    assert sum(status["upstream"]["connections"].values()) == upstream.connections
    assert [row["method"] for row in status["recent"]] == ["POST"] * 100
    assert status["counters"]["requests"] == before + 120
    assert {row["path"] for row in status["recent"]} == {"/a"}
    assert [row["at"] for row in status["recent"]] == sorted((row["at"] for row in status["recent"]), reverse=True)
    assert [set(worker) for worker in status["workers"]] == [{"pid", "state", "started", "in_flight", "restarts"}] * 2


def test_in_flight(crew: Crew, upstream: Upstream) -> None:
    """What is being served is the sum, and /status says where."""
    slow = Slow()
    with crew.connected() as clients:
        upstream.answer = slow
        for client, *_ in clients.values():
            client.send(request(b"GET", b"/slow"))
        until(lambda: crew.proxy.metric("thg_proxy_requests_in_flight") == 2)
        assert [worker["in_flight"] for worker in crew.statuses()] == [1, 1]
        assert crew.proxy.metric("thg_proxy_upstream_connections", state="active") == 2
        slow.go_on.set()
        assert [client.response().status for (client, *_) in clients.values()] == [200, 200]
    until(lambda: crew.proxy.metric("thg_proxy_requests_in_flight") == 0)


def test_a_worker_that_is_stuck(crew: Crew, upstream: Upstream) -> None:
    """A scrape does not wait for a worker that does not answer; what it has said last counts on."""
    with crew.connected() as clients:
        before = len(upstream.requests)
        until(lambda: crew.proxy.metric("thg_proxy_request_duration_seconds_count") == before)
        crew.kill(1, signal.SIGSTOP)
        assert clients[2][0].get().status == 200
        until(lambda: crew.proxy.metric("thg_proxy_request_duration_seconds_count") == before + 1)
        crew.kill(1, signal.SIGCONT)
        assert clients[1][0].get().status == 200
        until(lambda: crew.proxy.metric("thg_proxy_request_duration_seconds_count") == before + 2)


def test_log_lines_are_whole(launch: Launcher, upstream: Upstream) -> None:
    """Two processes that write to one pipe, as fast as they can, share no line: each request has one of its own."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source:
        lines: list[bytes] = []
        drain = threading.Thread(target=lambda: lines.extend(source), daemon=True)
        drain.start()
        proxy = launch(upstream, *TWO, stderr=writer)
        os.close(writer)
        Crew(proxy)

        def work(number: int) -> None:
            with proxy.connect() as client:
                for index in range(10):
                    client.send(request(b"GET", b"/%d-%d-" % (number, index) + b"x" * 200) * 50)
                    assert {client.response().status for _ in range(50)} == {200}

        with ThreadPoolExecutor(8) as callers:
            list(callers.map(work, range(8)))
        assert proxy.metric("thg_proxy_log_lines_dropped_total") == 0
        assert proxy.stop() == 0
        drain.join(TIMEOUT)

    events = [json.loads(line) for line in lines]
    requests = [event for event in events if event["event"] == "request"]
    assert len(requests) == 8 * 10 * 50
    assert {event["worker"] for event in requests} == {1, 2}


def test_last_log_lines(launch: Launcher, upstream: Upstream) -> None:
    """A worker that ends with its last request has logged it (R166)."""
    upstream.answer = slow = Slow()
    proxy = launch(upstream, *TWO)
    with proxy.connect() as client:
        client.send(request(b"GET", b"/last"))
        until(lambda: upstream.requests)
        proxy.process.send_signal(signal.SIGTERM)
        until(lambda: proxy.log_lines("stopping"))
        slow.go_on.set()
        assert client.response().status == 200
        assert proxy.stop() == 0
    assert [line["path"] for line in proxy.log_lines("request")] == ["/last"]


def test_dropped_log_lines(launch: Launcher, upstream: Upstream) -> None:
    """The lines that all of them could not write are counted together (R166, F47)."""
    with Path("/dev/full").open("wb") as nowhere:
        proxy = launch(upstream, *TWO, stderr=nowhere)
    for _ in range(20):
        with proxy.connect() as client:
            assert client.get().status == 200
    until(lambda: proxy.metric("thg_proxy_log_lines_dropped_total") >= 20)


def test_spans(launch: Launcher, upstream: Upstream) -> None:
    """Each worker sends the spans of its requests, the last ones before it ends (R168)."""
    with Upstream(answer=http_answer(200, b"")) as collector:
        crew = Crew(launch(upstream, *TWO, f"tracing.otlp_endpoint={collector.url}"))
        with crew.connected() as clients:
            for client, *_ in clients.values():
                assert client.get(b"/last").status == 200
        assert crew.proxy.stop() == 0
        ids = [span.span_id.hex() for span in spans(collector.requests)]
    told = [received.values(b"traceparent")[0].split(b"-")[2].decode() for received in upstream.requests]
    assert sorted(ids) == sorted(told)
    assert len(collector.requests) >= 2


def test_service_manager(launch: Launcher, upstream: Upstream, tmp_path: Path) -> None:
    """The service manager is told that the proxy is ready when a worker serves, and by nobody but the parent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(TIMEOUT)
        proxy = launch(upstream, *TWO, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(4096) == b"READY=1"
        assert proxy.log_lines("worker_serving")
        for pid in Crew(proxy).pids():
            assert "NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_text()


@pytest.mark.uncounted
def test_no_secret_in_a_worker(crew: Crew, provider: DemoProvider) -> None:
    """What a worker was started with holds neither the secret nor where it is, nor the provider (R147)."""
    for pid in crew.pids():
        place = Path(f"/proc/{pid}")
        seen = (place / "environ").read_text() + (place / "cmdline").read_text()
        assert "proxy.workers" in seen
        assert leaks(seen, provider) == []
        assert "THG_" not in seen
        assert provider.token_url not in seen


# Another configuration


@pytest.fixture
def configured(launch: Launcher, provider: DemoProvider) -> Configured:
    return Configured(launch, provider)


def start(configured: Configured, to: Upstream, **sections: Any) -> Crew:
    sections = {"log": {"format": "json", "level": "debug", "access": "all"}} | sections
    return Crew(configured.start(to, workers=2, **sections))


@pytest.fixture
def other() -> Iterator[Upstream]:
    with Upstream(answer=http_answer(200, b"other")) as upstream:
        yield upstream


def test_reload(configured: Configured, upstream: Upstream, other: Upstream, provider: DemoProvider) -> None:
    """Once a reload is done, every worker obeys it; connections stay, and so does the token (R165)."""
    crew = start(configured, upstream)
    with crew.connected() as clients:
        configured.change("upstream", url=other.url)
        until(lambda: reloads(crew.proxy, "ok"), "reloaded")
        assert [client.get().body for (client, *_) in clients.values()] == [b"other"] * 2
    assert crew.proxy.log_lines("reload_failed") == []
    assert token_calls(provider) == 1
    assert crew.restarts() == 0


def test_request_in_flight(configured: Configured, upstream: Upstream, other: Upstream) -> None:
    """A request that has begun ends as it began, in every worker."""
    slow = Slow()
    crew = start(configured, upstream)
    with crew.connected() as clients:
        upstream.answer = slow
        for client, *_ in clients.values():
            client.send(request(b"GET", b"/slow"))
        until(lambda: crew.proxy.metric("thg_proxy_requests_in_flight") == 2)
        configured.change("upstream", url=other.url)
        until(lambda: reloads(crew.proxy, "ok"), "reloaded")
        slow.go_on.set()
        for client, *_ in clients.values():
            assert client.response().body == b"onetwo"
            assert client.get().body == b"other"


def test_bad_configuration(configured: Configured, upstream: Upstream) -> None:
    """What is wrong reaches no worker (R165)."""
    crew = start(configured, upstream, upstream={"url": upstream.url, "headers": {"set": {"X-New": "0"}}})
    with crew.connected() as clients:
        configured.content["limits"] = {"max_in_flight": 0}
        configured.change("upstream", headers={"set": {"X-New": "1"}})
        until(lambda: reloads(crew.proxy, "failed"), "refused")
        for client, *_ in clients.values():
            assert client.get().status == 200
            assert upstream.requests[-1].values(b"x-new") == [b"0"]


def test_another_client(configured: Configured, upstream: Upstream, provider: DemoProvider) -> None:
    """After a reload with another client every worker sends that client's token (R100)."""
    crew = start(configured, upstream)
    second = RegisteredClient(client_id="second", client_secret="canary-2")
    provider.clients[second.client_id] = second
    secret = configured.launch.directory / "secret"
    secret.write_text("canary-2")
    with crew.connected() as clients:
        registered = {"name": "new", "client_id": "second", "client_secret": {"file": str(secret)}}
        configured.change("oauth", clients=[registered])
        until(lambda: reloads(crew.proxy, "ok"), "reloaded")
        bearer = f"Bearer {provider.tokens[-1]}".encode()
        for client, *_ in clients.values():
            assert client.get().status == 200
            assert upstream.requests[-1].values(b"authorization") == [bearer]
    assert token_calls(provider) == 2


def test_number_of_workers_needs_a_restart(configured: Configured, upstream: Upstream) -> None:
    """A reload that changes `workers` says so, and takes the rest."""
    crew = start(configured, upstream)
    configured.content["workers"] = 3
    configured.change("limits", max_body=3)
    until(lambda: reloads(crew.proxy, "ok"), "reloaded")
    assert crew.proxy.log_lines("reload_needs_restart")[0]["sections"] == "workers"
    with crew.proxy.connect() as client:
        client.send(request(b"POST", b"/", b"Content-Length: 4", body=b"four"))
        assert client.response().status == 413
    assert len(crew.pids()) == 2
