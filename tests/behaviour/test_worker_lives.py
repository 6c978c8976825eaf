"""Workers that die, and a parent that does: what their clients notice of it."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.demo.certificates import CertificateAuthority
from tests.behaviour.crew import TWO, Crew, is_running
from tests.behaviour.running import Launcher, until
from tests.behaviour.test_inbound import connect_tls, connect_unix
from tests.behaviour.test_process import refuses
from tests.peers import OK, BodyCut, Client, Load, Slow, Upstream, request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems don't share a port out")


@pytest.fixture
def crew(launch: Launcher, upstream: Upstream) -> Crew:
    return Crew(launch(upstream, *TWO))


def is_cut(client: Client) -> bool:
    """Does the answer that has begun end before its end?"""
    try:
        client.response()
    except (BodyCut, ConnectionError):
        return True
    return False


def test_a_worker_dies(crew: Crew, upstream: Upstream) -> None:
    """Its requests in flight fail, the others don't; who connects meanwhile is served; then it is there again."""
    proxy, slow = crew.proxy, Slow()
    with crew.connected() as clients:
        upstream.answer = slow
        for client, *_ in clients.values():
            client.send(request(b"GET", b"/slow"))
        until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 2)
        upstream.answer = OK
        lost, pid = crew.statuses()[0]["pid"], crew.statuses()[1]["pid"]
        counted = proxy.metric("thg_proxy_request_duration_seconds_count")
        crew.kill(1)
        for _ in range(20):
            with proxy.connect() as caller:
                assert caller.get().status == 200
        assert is_cut(clients[1][0])
        slow.go_on.set()
        assert clients[2][0].response().body == b"onetwo"
        assert clients[2][0].get().status == 200
    until(crew.is_complete, "there again")

    (died,) = proxy.log_lines("worker_died")
    assert (died["worker"], died["pid"], died["signal"]) == (1, lost, "SIGKILL")
    assert crew.pids()[1] == pid
    assert lost not in crew.pids()
    assert crew.restarts() == 1
    assert [worker["restarts"] for worker in crew.statuses()] == [1, 0]
    # What was in flight in the worker that died is counted nowhere; all the rest is.
    assert proxy.metric("thg_proxy_request_duration_seconds_count") == counted + 20 + 2
    assert proxy.metric("thg_proxy_requests_in_flight") == 0
    with crew.connected() as clients:
        assert clients.keys() == {1, 2}


def test_under_load(crew: Crew) -> None:
    """Under load each death costs no more than the requests that are in flight there, and counters never go down."""
    counts = []
    with Load(crew.proxy.port) as load:
        for restarts in (1, 2):
            load.next()
            counts.append(crew.proxy.metric("thg_proxy_request_duration_seconds_count"))
            crew.kill(restarts)
            until(lambda restarts=restarts: crew.restarts() == restarts and crew.is_complete())  # type: ignore[misc]
            counts.append(crew.proxy.metric("thg_proxy_request_duration_seconds_count"))
        assert load.next() == {200}
        assert load.statuses <= {200, 0}
    assert counts == sorted(counts)


def test_a_worker_gets_stuck(crew: Crew) -> None:
    """The others serve in the place of one that does not come to it, until it does; one that never does is ended."""
    proxy, pids = crew.proxy, crew.pids()
    with crew.connected() as clients:
        crew.kill(1, signal.SIGSTOP)
        until(lambda: crew.statuses()[0]["state"] == "stuck")
        assert proxy.metric("thg_proxy_workers") == 1
        for _ in range(20):
            with proxy.connect() as caller:
                assert caller.get().status == 200
        crew.kill(1, signal.SIGCONT)
        until(crew.is_complete, "there again")
        assert clients[1][0].get().status == 200
    with crew.connected() as clients:
        assert clients.keys() == {1, 2}
    assert crew.pids() == pids

    crew.kill(1, signal.SIGSTOP)
    until(lambda: proxy.log_lines("worker_died"))
    until(crew.is_complete, "there again")
    assert [line["pid"] for line in proxy.log_lines("worker_stuck")] == [pids[0]] * 2


def test_who_waited_for_it(crew: Crew) -> None:
    """What waits in the queue of a worker that dies is served by the other one."""
    with ExitStack() as opened:
        crew.kill(1, signal.SIGSTOP)
        # About half of them are in its queue.
        clients = [opened.enter_context(crew.proxy.connect()) for _ in range(20)]
        for client in clients:
            client.send(request(b"GET", b"/a"))
        crew.kill(1)
        assert [client.response().status for client in clients] == [200] * 20
        assert {crew.number_for(client) for client in clients} == {2}
    until(crew.is_complete, "there again")


def test_one_that_can_t_come_back(
    launch: Launcher, upstream: Upstream, authority: CertificateAuthority, tmp_path: Path
) -> None:
    """While one worker serves, everybody is served, however often the other one dies; without any, nobody is ready."""
    files = authority.issue("localhost", "127.0.0.1")
    certificate, elsewhere = tmp_path / "cert.pem", tmp_path / "elsewhere.pem"
    certificate.write_bytes(Path(files.cert_file).read_bytes())
    keys = f"listen.tls.cert_file={certificate}", f"listen.tls.key_file={files.key_file}"
    crew = Crew(launch(upstream, *TWO, *keys))
    proxy = crew.proxy
    certificate.rename(elsewhere)
    crew.kill(1)
    until(lambda: len(proxy.log_lines("worker_failed")) == 2)
    for _ in range(20):
        with connect_tls(proxy, authority) as client:
            assert client.get().status == 200
    assert proxy.is_ready
    assert proxy.metric("thg_proxy_workers") == 1

    crew.kill(2)
    until(lambda: proxy.admin("/readyz")[0] == 503)
    assert proxy.admin("/startupz")[0] == 200
    assert proxy.is_live
    elsewhere.rename(certificate)
    until(crew.is_complete, "there again")
    assert proxy.is_ready
    delays = [line["restart_in"] for line in proxy.log_lines("worker_died") if line["worker"] == 1]
    assert delays[1:] == sorted(delays[1:])
    assert "listen.tls: a file can't be loaded" in proxy.log_lines("worker_failed")[0]["reason"]


def test_signals_are_the_parent_s(crew: Crew) -> None:
    """Ctrl-C, and a service manager, signal every process: workers leave it to their parent what that means."""
    pids = crew.pids()
    for pid in pids:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    with crew.connected() as clients:
        assert clients.keys() == {1, 2}
    assert crew.pids() == pids


@pytest.mark.parametrize("is_unix", [False, True])
def test_without_a_parent(launch: Launcher, upstream: Upstream, tmp_path: Path, is_unix: bool) -> None:
    """Workers end with their parent, whatever ends that: what is in flight has its grace, and nobody can connect."""
    path = tmp_path / "proxy.sock"
    crew = Crew(launch(upstream, *TWO, *((f"listen.address=unix:{path}",) if is_unix else ())))
    connect: Callable[[], Client] = (lambda: connect_unix(path)) if is_unix else crew.proxy.connect
    slow, pids = Slow(), crew.pids()
    with crew.connected(connect) as clients:
        upstream.answer = slow
        for client, *_ in clients.values():
            client.send(request(b"GET", b"/slow"))
        until(lambda: crew.proxy.metric("thg_proxy_requests_in_flight") == 2)
        crew.proxy.expected_exit = -signal.SIGKILL
        crew.proxy.process.kill()
        until((lambda: not path.exists()) if is_unix else (lambda: refuses(crew.proxy.port)))
        slow.go_on.set()
        assert [client.response().body for (client, *_) in clients.values()] == [b"onetwo"] * 2
    until(lambda: not any(map(is_running, pids)), "ended")


def test_a_successor_takes_the_port(launch: Launcher, upstream: Upstream) -> None:
    """A proxy that is started after a crash gets the port, though workers of the old one still serve their last."""
    crew, slow = Crew(launch(upstream, *TWO)), Slow()
    upstream.answer = slow
    with crew.proxy.connect() as client:
        client.send(request(b"GET", b"/slow"))
        upstream.wait_for(1)
        upstream.answer = OK
        crew.proxy.expected_exit = -signal.SIGKILL
        crew.proxy.process.kill()
        until(lambda: refuses(crew.proxy.port))
        successor = launch(upstream, *TWO, f"listen.address=127.0.0.1:{crew.proxy.port}")
        with successor.connect() as other:
            assert other.get().status == 200
        slow.go_on.set()
        assert client.response().body == b"onetwo"


def test_no_descriptor_is_left(crew: Crew) -> None:
    """Workers that come and go, and their questions, leave nothing open in their parent."""
    before = crew.proxy.metric("process_open_fds")
    for restarts in (1, 2, 3):
        crew.kill(1)
        until(lambda restarts=restarts: crew.restarts() == restarts and crew.is_complete())  # type: ignore[misc]
    until(lambda: crew.proxy.metric("process_open_fds") <= before)
    descriptors = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in crew.pids()]
    assert max(descriptors) - min(descriptors) <= 2
