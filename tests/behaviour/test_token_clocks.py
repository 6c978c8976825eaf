"""The token when time is not what it seems: clocks that jump, a process that stands still, one that hardly runs."""

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launch, Launcher, Proxy, until
from tests.peers import OK, Minting, Received, Upstream, http_answer, request
from tests.real_parts import real_part


class WallClock:
    """The wall clock of processes that get `environment`, which can be moved while they run (libfaketime)."""

    def __init__(self, directory: Path) -> None:
        faketime = real_part("faketime", "faketime")
        shown = subprocess.run([faketime, "now", "printenv", "LD_PRELOAD"], capture_output=True, check=True, text=True)
        self._file = directory / "clock"
        self.move("+0")
        self.environment = {
            "LD_PRELOAD": shown.stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def move(self, how: str) -> None:
        """`+2d`, `-2d`, `+0 x1.1` (a tenth too fast)."""
        # In one piece: the processes read it at any time.
        new = self._file.with_suffix(".new")
        new.write_text(how)
        new.rename(self._file)


class Judge:
    """An API that takes every token, and keeps the ages (seconds) of those that were over when they were sent."""

    ON_THE_WAY = 1.0  # seconds that a request may take on a busy machine

    def __init__(self, minting: Minting, lifetime: float) -> None:
        self.expired: list[float] = []
        self._minting = minting
        self._lifetime = lifetime

    def __call__(self, received: Received, sock: socket.socket) -> bool:
        (bearer,) = received.values(b"Authorization")
        age = time.monotonic() - self._minting.moments[int(bearer.removeprefix(b"Bearer token-")) - 1]
        if age > self._lifetime + self.ON_THE_WAY:
            self.expired.append(age)
        sock.sendall(OK)
        return True


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


def test_forward(launch_with: Launch, issuer: Upstream, upstream: Upstream, wall_clock: WallClock) -> None:
    """After a jump ahead of the wall clock, or a sleep of the machine, the token counts as over: no request is sent
    with it, one token request replaces it (F19, R91).
    """
    issuer.answer = Minting()
    proxy = launch_with("oauth.refresh.min_interval=1s", environment=wall_clock.environment)
    with proxy.connect() as client, proxy.under_load() as load:
        load.next()
        wall_clock.move("+2d")
        client.get(b"/after")
        load.next(50)

    assert load.statuses == {200}
    assert len(issuer.requests) == 2
    (after,) = [received for received in upstream.requests if received.target == b"/after"]
    assert after.values(b"Authorization") == [b"Bearer token-2"]


def test_backward(launch_with: Launch, issuer: Upstream, upstream: Upstream, wall_clock: WallClock) -> None:
    """After a jump back of the wall clock a token lives no longer than it would have, and is not replaced before its
    time (F19, R91).
    """
    issuer.tls = None  # whose certificate was not valid two days ago
    issuer.answer = minting = Minting(expires_in=3)
    upstream.answer = api = Judge(minting, lifetime=3)
    proxy = launch_with(environment=wall_clock.environment)
    with proxy.under_load() as load:
        wall_clock.move("-2d")
        until(lambda: len(minting.moments) == 2)
        assert minting.moments[1] - minting.moments[0] > 1.5
        issuer.answer = http_answer(500, b"")
        until(lambda: 503 in load.statuses)
        issuer.answer = minting
        proxy.admin("/refresh", "POST")
        until(lambda: load.next() == {200})

    assert load.statuses == {200, 503}
    assert api.expired == []


def test_slewed(launch_with: Launch, issuer: Upstream, upstream: Upstream, wall_clock: WallClock) -> None:
    """While the wall clock runs a tenth too fast, tokens are replaced in time and no more often (F19, R91)."""
    issuer.answer = minting = Minting(expires_in=2)
    upstream.answer = api = Judge(minting, lifetime=2)
    proxy = launch_with(environment=wall_clock.environment)
    wall_clock.move("+0 x1.1")
    began = time.monotonic()
    with proxy.under_load() as load:
        until(lambda: len(minting.moments) >= 3)

    assert (load.statuses, api.expired) == ({200}, [])
    assert len(minting.moments) <= 2 + (time.monotonic() - began)


@pytest.mark.parametrize("ahead", [120, -7200])
def test_provider_clock(launch: Launcher, upstream: Upstream, provider: DemoProvider, ahead: int) -> None:
    """A provider whose clock is wrong is known by its answers' Date: tokens that are not valid yet, or not any more,
    by this machine's clock are used (F20, R110).
    """
    provider.clock = lambda: time.time() + ahead
    proxy = launch(upstream, f"oauth.jwks_url={provider.jwks_url}")
    with proxy.under_load() as load:
        load.next()

    assert load.statuses == {200}
    assert provider.minted == 1
    assert proxy.status()["token"]["verification"] == "require"
    assert abs(proxy.metric("thg_proxy_clock_skew_seconds") - ahead) < 5


def test_api_clock(launch_with: Launch, issuer: Upstream, upstream: Upstream) -> None:
    """An API that does not take tokens before their time: its 401s are few tries, fewer tokens, and then over (F20)."""
    issuer.answer = Minting()

    def not_yet(_received: Received, sock: socket.socket) -> bool:
        early = len(upstream.requests) < 60
        sock.sendall(b"HTTP/1.1 401 Early\r\nContent-Length: 0\r\n\r\n" if early else OK)
        return True

    upstream.answer = not_yet
    proxy = launch_with("oauth.refresh.min_interval=1s")
    with proxy.under_load() as load:
        until(lambda: load.next() == {200})

    assert load.statuses == {200, 401}
    assert len(issuer.requests) <= 3


def test_stopped(launch_with: Launch, issuer: Upstream, upstream: Upstream) -> None:
    """A process that was stopped past its token's end goes on with a new token, and with the connections that were
    closed meanwhile (F45, R91).
    """
    issuer.answer = minting = Minting(expires_in=2)
    upstream.answer = api = Judge(minting, lifetime=2)
    proxy = launch_with()
    with proxy.connect() as client:
        assert client.get().status == 200
        proxy.process.send_signal(signal.SIGSTOP)
        client.send(request(b"POST", b"/late", body=b"x"))
        upstream.drop_connections()
        until(lambda: time.monotonic() > minting.moments[-1] + 2 + Judge.ON_THE_WAY)
        proxy.process.send_signal(signal.SIGCONT)
        assert client.response().status == 200
    with proxy.under_load() as load:
        load.next()

    assert (load.statuses, api.expired) == ({200}, [])
    assert len(minting.moments) <= 3


@contextmanager
def starved(proxy: Proxy) -> Iterator[None]:
    """The process runs for five milliseconds of every hundred."""
    fed = threading.Event()

    def ration() -> None:
        while not fed.is_set():
            proxy.process.send_signal(signal.SIGSTOP)
            fed.wait(0.095)
            proxy.process.send_signal(signal.SIGCONT)
            fed.wait(0.005)

    thread = threading.Thread(target=ration)
    thread.start()
    yield
    fed.set()
    thread.join()


def test_starved(launch_with: Launch, issuer: Upstream, upstream: Upstream) -> None:
    """On a twentieth of a processor requests are slow, but none fails or goes out with a token that is over (F50)."""
    issuer.answer = minting = Minting(expires_in=3)
    upstream.answer = api = Judge(minting, lifetime=3)
    proxy = launch_with()
    with proxy.under_load() as load:
        with starved(proxy):
            until(lambda: len(minting.moments) >= 3)
        load.next()

    assert (load.statuses, api.expired) == ({200}, [])
