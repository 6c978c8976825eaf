"""A process in odd surroundings, and one that is killed and started again."""

import os
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launch, Launcher, Proxy, until
from tests.peers import TIMEOUT, Minting, Upstream, http_answer, mute, token_answer


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", ":/nowhere"])
def test_surroundings(
    launch: Launcher, launch_with: Launch, issuer: Upstream, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """No home, nowhere to write, the C locale and an odd time zone: everything works, dates are those of HTTP (F51)."""
    in_nine_minutes = format_datetime(datetime.now(UTC) + timedelta(minutes=9), usegmt=True)
    issuer.answer = http_answer(429, b"", b"Retry-After: " + in_nine_minutes.encode())
    monkeypatch.delenv("HOME", raising=False)
    launch.working_directory = Path("/proc")
    proxy = launch_with(
        "oauth.refresh.backoff={initial: 500ms, max: 500ms}",
        ready=False,
        environment={"TMPDIR": "/proc", "LC_ALL": "C", "TZ": zone},
    )
    until(lambda: proxy.status()["token"]["last_error"])
    assert 300 < proxy.status()["token"]["retry_after_seconds"] <= 540
    issuer.answer = token_answer("first")
    proxy.admin("/refresh", "POST")
    until(lambda: proxy.is_ready)
    with proxy.under_load() as load:
        load.next()

    assert load.statuses == {200}
    (line,) = proxy.log_lines("token_obtained")
    assert abs(datetime.fromisoformat(line["time"]).timestamp() - time.time()) < 60
    assert abs(datetime.fromisoformat(proxy.status()["token"]["issued_at"]).timestamp() - time.time()) < 60


AS_PROCESS_1 = (
    "unshare",
    *(() if os.geteuid() == 0 else ("--user", "--map-current-user")),
    *("--pid", "--fork", "--kill-child"),
)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has namespaces of process ids")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_1(launch: Launcher, upstream: Upstream, workers: int, number: signal.Signals) -> None:
    """As the first process of a container, to which no signal does anything by default, it serves and ends (F51)."""
    if subprocess.run([*AS_PROCESS_1, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make a namespace of process ids")
    launch.prefix = AS_PROCESS_1
    proxy = launch(upstream, f"workers={workers}")
    with proxy.under_load() as load:
        load.next()
        assert load.statuses == {200}
    outside = proxy.process.pid
    (first,) = Path(f"/proc/{outside}/task/{outside}/children").read_text().split()
    assert Path(f"/proc/{first}/status").read_text().partition("NSpid:")[2].split()[1] == "1"
    os.kill(int(first), number)
    assert proxy.process.wait(TIMEOUT) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux can limit another process")
def test_full_disk(launch: Launcher, upstream: Upstream, provider: DemoProvider, tmp_path: Path) -> None:
    """A disk that is full for a while costs neither a request nor a token, though log and store are on it (F47)."""
    provider.lifetime = 4
    proxy = launch(upstream, f"oauth.store=file:{tmp_path / 'token'}", "log.access=all")
    whole = resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (0, whole[1]))
    with proxy.under_load() as load:
        minted = provider.minted
        until(lambda: provider.minted >= minted + 2)
        assert proxy.is_ready
        assert proxy.metric("thg_proxy_log_lines_dropped_total") > 0
        resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, whole)
        until(lambda: proxy.log_lines("log_lines_dropped"))

    assert load.statuses == {200}


def kill(proxy: Proxy) -> None:
    """As the kernel does where memory is short."""
    proxy.process.kill()
    proxy.expected_exit = proxy.process.wait(TIMEOUT)


def test_killed(launch_with: Launch, issuer: Upstream, upstream: Upstream, tmp_path: Path) -> None:
    """A process that is killed and started again, however often, goes on with the token in the store (F52)."""
    issuer.answer = Minting()
    for _ in range(3):
        proxy = launch_with(f"oauth.store=file:{tmp_path / 'token'}")
        with proxy.under_load() as load:
            assert load.next() == {200}
        kill(proxy)

    assert len(issuer.requests) == 1
    assert {received.values(b"Authorization")[0] for received in upstream.requests} == {b"Bearer token-1"}


def test_killed_without_a_token(launch_with: Launch, issuer: Upstream, upstream: Upstream, tmp_path: Path) -> None:
    """A process that is killed and started again asks its provider no more often than one that lives on (F52)."""
    issuer.answer = http_answer(500, b"")
    for _ in range(3):
        proxy = launch_with(
            f"oauth.store=file:{tmp_path / 'token'}",
            "oauth.refresh.min_interval=1h",
            "oauth.refresh.wait=100ms",
            ready=False,
        )
        until(lambda: issuer.requests)
        with proxy.connect() as client:
            assert client.get().status == 503
        kill(proxy)

    assert (len(issuer.requests), upstream.requests) == (1, [])


def test_killed_while_it_asks(launch_with: Launch, issuer: Upstream, tmp_path: Path) -> None:
    """What dies in the middle of a token request leaves no lock that keeps its successor from a token (F52)."""
    issuer.answer = mute
    store = f"oauth.store=file:{tmp_path / 'token'}"
    proxy = launch_with(store, ready=False)
    until(lambda: issuer.requests)
    kill(proxy)
    issuer.answer = token_answer("first")
    successor = launch_with(store, "oauth.refresh.min_interval=1s")
    with successor.under_load() as load:
        assert load.next() == {200}

    assert len(issuer.requests) == 2
