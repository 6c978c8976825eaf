"""What the token endpoint answers when it fails, over TLS and under traffic: what clients, the upstream and the
provider notice of it.
"""

import json
import socket
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import NamedTuple

import pytest

from proxy.core.lifecycle import MIN_INTERVAL
from tests.behaviour.running import Launch, Proxy, until
from tests.peers import TIMEOUT, Answer, Minting, Received, Upstream, http_answer, mute, reset, token_answer

HTML = b"<html>" + b"broken " * 1000
JSON = b"Content-Type: application/json"


def refused(error: str, status: int = 400) -> bytes:
    """RFC 6749 §5.2."""
    return http_answer(status, json.dumps({"error": error, "error_description": "no"}).encode(), JSON)


def dribble(head: bytes, piece: bytes) -> Answer:
    """The head, and then `piece` after `piece`, slowly, until the client has gone."""

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(head)
        sock.settimeout(0.02)  # the pace
        while True:
            try:
                return sock.recv(1) != b""
            except TimeoutError:
                sock.sendall(piece)

    return answer


def endless(_received: Received, sock: socket.socket) -> bool:
    """A body without an end, as fast as it is taken."""
    sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        sock.sendall(b" " * 65536)


def jwt(**claims: object) -> str:
    """An access token that nobody has signed."""
    parts = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "RS256"}, claims)]
    return ".".join([*parts, "c2ln"])


class Fault(NamedTuple):
    """What the issuer answers, and what the proxy counts and tells its clients because of it."""

    answer: Answer
    result: str
    code: str = "token_unavailable"


def garbage(body: bytes, *fields: bytes) -> Fault:
    return Fault(http_answer(200, body, JSON, *fields), "invalid_response")


def rejection(error: str, status: int = 400) -> Fault:
    return Fault(refused(error, status), error, "client_rejected")


FAULTS = {
    "silence": Fault(mute, "timeout"),
    "reset": Fault(reset, "network"),
    "no answer": Fault(lambda *_: False, "network"),
    "slow head": Fault(dribble(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "timeout"),
    "slow body": Fault(dribble(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" "), "timeout"),
    "500": Fault(http_answer(500, HTML), "http_5xx"),
    "502": Fault(http_answer(502, HTML), "http_5xx"),
    "503": Fault(http_answer(503, HTML), "http_5xx"),
    "server_error": Fault(refused("server_error", 500), "server_error"),
    "temporarily_unavailable": Fault(refused("temporarily_unavailable", 503), "temporarily_unavailable"),
    "invalid_client": rejection("invalid_client", 401),
    "invalid_client as 400": rejection("invalid_client"),
    "401 without JSON": Fault(http_answer(401, HTML), "invalid_client", "client_rejected"),
    "invalid_scope": rejection("invalid_scope"),
    "unauthorized_client": rejection("unauthorized_client"),
    "unsupported_grant_type": rejection("unsupported_grant_type"),
    "not HTTP": Fault(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "invalid_response"),
    "empty": garbage(b""),
    "HTML": garbage(HTML),
    "a list": garbage(b"[]"),
    "half a document": garbage(b'{"access_token":'),
    "deep nesting": garbage(b"[" * 100_000),
    "a member twice": garbage(b'{"a":1,"a":2}'),
    "2 MB of nothing": garbage(b" " * 2_000_000),
    "5000 digits": garbage(b"9" * 5000),
    "NaN": garbage(b'{"access_token":"a","token_type":"bearer","expires_in":NaN}'),
    "infinite life": garbage(b'{"access_token":"a","token_type":"bearer","expires_in":1e999}'),
    "gzip": garbage(b"\x1f\x8b" + b"\0" * 1000, b"Content-Encoding: gzip"),
    "expired": Fault(token_answer(jwt(exp=1_000_000_000)), "rejected_token"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_without_a_token(launch_with: Launch, issuer: Upstream, upstream: Upstream, name: str) -> None:
    """A provider that fails from the start: one token request, and for every client a 503 at once that says when to
    come back; nothing goes upstream (F4, F5, F7, F8, F9, F12, F15, R67, R70, R76, R78, R81, R82, R86).
    """
    fault = FAULTS[name]
    issuer.answer = fault.answer
    proxy = launch_with(f"oauth.timeout={'300ms' if fault.result == 'timeout' else '10s'}", ready=False)
    until(lambda: failures(proxy, fault.result))
    with proxy.under_load() as load:
        assert load.next(9) == {503}
    with proxy.connect() as client:
        problem = client.get()

    assert json.loads(problem.body)["code"] == fault.code
    assert int(problem.values(b"Retry-After")[0]) >= 1
    assert upstream.requests == []
    assert issuer.connections == 1
    assert proxy.admin("/readyz")[0] == 503
    (line,) = proxy.log_lines("token_unavailable")
    assert (line["result"], len(line["reason"]) < 400) == (fault.result, True)


def failures(proxy: Proxy, result: str) -> float:
    return proxy.metric("thg_proxy_token_requests_total", client="primary", result=result)


def bearers(upstream: Upstream) -> set[bytes]:
    return {value for received in upstream.requests for value in received.values(b"Authorization")}


# No two neighbours with the same result: each is a condition of its own, and a line in the log.
OUTAGES = ("silence", "reset", "502", "invalid_client", "deep nesting", "invalid_scope")


def test_with_a_token(launch_with: Launch, issuer: Upstream, upstream: Upstream) -> None:
    """While the token is good no request notices what its provider does, or waits for it; each failure is one token
    request and one line in the log, and the token of a provider that is well again is used
    (F1, F3, F5, F7, F8, F9, F15, R82, R86, R89).
    """
    proxy = launch_with("oauth.timeout=2s")
    with proxy.under_load() as load:
        for fault in map(FAULTS.__getitem__, OUTAGES):
            issuer.answer = fault.answer
            failed = failures(proxy, fault.result)
            assert proxy.admin("/refresh", "POST")[0] == 503
            until(lambda: failures(proxy, fault.result) == failed + 1)  # noqa: B023 - called before the next turn
            assert load.next() == {200}
            assert json.loads(proxy.admin("/readyz")[1])["status"] == "degraded"
        assert bearers(upstream) == {b"Bearer first"}
        issuer.answer = token_answer("second")
        proxy.admin("/refresh", "POST")
        until(lambda: proxy.status()["token"]["generation"] == 2)
        load.next()

    assert load.statuses == {200}
    assert bearers(upstream) == {b"Bearer first", b"Bearer second"}
    assert issuer.connections == len(OUTAGES) + 2
    assert {proxy.metric("thg_proxy_token_waits_total", result=result) for result in ("ok", "timeout", "error")} == {0}
    assert [line["result"] for line in proxy.log_lines("token_refresh_failed")] == [FAULTS[n].result for n in OUTAGES]
    assert len(proxy.log_lines("token_obtained")) == 2


def test_endless_body(launch_with: Launch, issuer: Upstream) -> None:
    """A body that is too large is not read on: the connection to the provider is cut (F9, R78, R86)."""
    proxy = launch_with()
    with proxy.under_load() as load:
        issuer.answer = endless
        proxy.admin("/refresh", "POST")
        until(lambda: failures(proxy, "invalid_response"))
        load.next()

    assert load.statuses == {200}
    assert proxy.metric("process_resident_memory_bytes") < 200e6


def in_nine_minutes() -> bytes:
    return format_datetime(datetime.now(UTC) + timedelta(minutes=9), usegmt=True).encode()


@pytest.mark.parametrize(
    "retry_after, least, most",
    [
        pytest.param(lambda: b"120", 100, 120, id="seconds"),
        pytest.param(in_nine_minutes, 300, 540, id="date"),
        pytest.param(lambda: b"99999999", 590, 600, id="years"),
        pytest.param(lambda: b"-5", 1, 1, id="negative"),
        pytest.param(lambda: b"soon", 1, 1, id="words"),
        pytest.param(lambda: b"Wed, 21 Oct 2015 07:28:00 GMT", 1, 1, id="past"),
    ],
)
def test_rate_limited(
    launch_with: Launch, issuer: Upstream, retry_after: Callable[[], bytes], least: int, most: int
) -> None:
    """A provider's Retry-After is waited for, at most ten minutes, and told to clients; nonsense is not (F6, R83)."""
    issuer.answer = http_answer(429, HTML, b"Retry-After: " + retry_after())
    proxy = launch_with("oauth.refresh.backoff={initial: 500ms, max: 500ms}", ready=False)
    until(lambda: failures(proxy, "rate_limited"))
    with proxy.under_load() as load:
        assert load.next(9) == {503}
    with proxy.connect() as client:
        told = int(client.get().values(b"Retry-After")[0])

    assert least <= told <= most
    assert issuer.connections == 1 or least == 1


@pytest.mark.parametrize("expires_in, lifetime", [("3600", 3600), (3600.5, 3600.5), (10**9, 30 * 86400)])
def test_lifetime(launch_with: Launch, issuer: Upstream, expires_in: object, lifetime: float) -> None:
    """A lifetime is a number of seconds, also as text, and is never taken for more than thirty days (F11, R77)."""
    issuer.answer = token_answer(expires_in=expires_in)
    (line,) = launch_with().log_lines("token_obtained")

    assert (line["lifetime"], line["lifetime_assumed"]) == (lifetime, False)


def test_no_lifetime(launch_with: Launch, issuer: Upstream) -> None:
    """Without any word on its lifetime a token is taken to live for five minutes (F11, R77)."""
    issuer.answer = http_answer(200, b'{"access_token": "first", "token_type": "Bearer"}', JSON)
    (line,) = launch_with().log_lines("token_obtained")

    assert (line["lifetime"], line["lifetime_assumed"]) == (300, True)


def test_a_second_of_life(launch_with: Launch, issuer: Upstream) -> None:
    """Tokens of one second serve every request, and cost a token request a second at most (F11, R92)."""
    issuer.answer = minting = Minting(expires_in=1)
    proxy = launch_with()
    with proxy.under_load() as load:
        until(lambda: len(minting.moments) >= 4)

    assert load.statuses == {200}
    assert minting.moments[-1] - minting.moments[0] > (len(minting.moments) - 2) * MIN_INTERVAL


def test_the_same_token_again(launch_with: Launch, issuer: Upstream, upstream: Upstream) -> None:
    """Where the API refuses the only token that the provider has, its 401 is the answer: at most two tries a request,
    a token request an interval (F12, R95).
    """
    upstream.answer = http_answer(401, b"no", b'WWW-Authenticate: Bearer error="invalid_token"')
    proxy = launch_with(f"oauth.refresh.min_interval={MIN_INTERVAL}")
    began = time.monotonic()
    with proxy.under_load() as load:
        until(lambda: len(issuer.requests) >= 3)

    assert load.statuses == {401}
    assert len(issuer.requests) <= 2 + (time.monotonic() - began) / MIN_INTERVAL
    assert len(upstream.requests) <= 2 * load.count
    assert bearers(upstream) == {b"Bearer first"}


def test_late_answer(launch_with: Launch, issuer: Upstream, upstream: Upstream) -> None:
    """The answer to a token request that was given up changes nothing when it comes after a newer one (F18)."""
    newer, late = threading.Event(), threading.Event()

    def answer(_received: Received, sock: socket.socket) -> bool:
        if len(issuer.requests) > 1:
            sock.sendall(token_answer("newer"))
            return True
        newer.wait(TIMEOUT)
        with suppress(OSError):
            sock.sendall(token_answer("older"))
        late.set()
        return False

    issuer.answer = answer
    proxy = launch_with("oauth.timeout=1s", "oauth.refresh.backoff={initial: 500ms, max: 500ms}")
    with proxy.under_load() as load:
        newer.set()
        assert late.wait(TIMEOUT)
        load.next()

    assert load.statuses == {200}
    assert proxy.status()["token"]["generation"] == 1
    assert bearers(upstream) == {b"Bearer newer"}
