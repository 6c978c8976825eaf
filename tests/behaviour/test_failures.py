"""What a client sees when the upstream fails, and what the upstream sees when a client does."""

import json
import os
import socket
import ssl
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from proxy.demo.certificates import CertificateAuthority
from tests.behaviour.running import Launcher, Proxy, clean_environment, until
from tests.peers import OK, STALL, TIMEOUT, Received, Upstream, request

RESET = struct.pack("ii", 1, 0)


def closing_with(answer: bytes) -> object:
    """An upstream's answer after which it closes."""

    def answer_and_close(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(answer)
        return False

    return answer_and_close


@pytest.mark.parametrize(
    "framing, rest",
    [
        (b"Content-Length: 10", b"ort"),
        (b"Transfer-Encoding: chunked", b"a\r\nshort"),
        (b"Transfer-Encoding: chunked", b"5\r\nshort\r\n"),
        (b"Transfer-Encoding: chunked", b"5\r\nshort\r\nZZ\r\n"),
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_truncated_response(proxy: Proxy, upstream: Upstream, framing: bytes, rest: bytes, version: bytes) -> None:
    """A response that breaks off is one that breaks off: no second response, no clean end (R115, F31)."""
    relayed = threading.Event()

    def break_off(_received: Received, sock: socket.socket) -> bool:
        first = b"sh" if framing.startswith(b"Content") else b"2\r\nsh\r\n"
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + first)
        relayed.wait(TIMEOUT)
        sock.sendall(rest)
        return False

    upstream.answer = break_off
    received, reset = b"", False
    with proxy.connect() as client:
        client.send(b"GET /a HTTP/%b\r\nHost: localhost\r\n\r\n" % version)
        try:
            while data := client.sock.recv(65536):
                received += data
                relayed.set()
        except ConnectionResetError:
            reset = True

    assert received.startswith(b"HTTP/1.1 200")
    assert received.count(b"HTTP/1.1") == 1
    assert not received.endswith(b"\r\n0\r\n\r\n")
    # Without a length or chunks, only a reset tells the client.
    assert reset or b"Content-Length: 10" in received or b"chunked" in received
    until(lambda: proxy.metric("thg_proxy_requests_total", method="GET", status="200", outcome="aborted") == 1)


@pytest.mark.parametrize(
    "answer, error",
    [
        (b"", b"http_response_incomplete"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", b"http_response_incomplete"),
        (b"garbage\r\n\r\n", b"http_protocol_error"),
        (b"<html>", b"http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok", b"http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", b"http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", b"http_protocol_error"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"http_protocol_error"),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", b"http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", b"http_response_header_size"),
    ],
)
def test_failure_before_the_head(proxy: Proxy, upstream: Upstream, answer: bytes, error: bytes) -> None:
    """Whatever comes in place of a response is a 502 problem document that repeats none of it (R116, R117, R128)."""
    upstream.answer = closing_with(answer)  # type: ignore[assignment]
    with proxy.connect() as client:
        response = client.get()
        problem = json.loads(response.body)
        upstream.answer = OK
        assert client.get(b"/b").body == b"ok"

    assert response.status == problem["status"] == 502
    assert response.values(b"Proxy-Status") == [b"thg-proxy; error=" + error]
    assert response.values(b"X-Request-Id") == [problem["instance"].encode()]
    assert b"localhost" not in response.body


BUG = """
from proxy.admission import Admission

admit = Admission.admit

def buggy(self, message):
    if message.path == "/bug":
        raise LookupError("canary")
    return admit(self, message)

Admission.admit = buggy
"""


def test_a_bug_of_our_own(launch: Launcher, upstream: Upstream, tmp_path: Path) -> None:
    """What nobody has foreseen is a 500 that says nothing of it, a line in the log, and no end (R128, R145)."""
    (tmp_path / "sitecustomize.py").write_text(BUG)
    path = os.pathsep.join([str(tmp_path), clean_environment(launch.provider)["PYTHONPATH"]])
    log_file = tmp_path / "buggy.log"
    with log_file.open("wb") as log:
        process = launch.spawn(upstream, environment={"PYTHONPATH": path}, stderr=log)
    proxy = Proxy(process, 0, 0, log_file)
    try:
        proxy.find_ports()
        with proxy.connect() as client:
            response = client.get(b"/bug")
            assert client.get().body == b"ok"
        (line,) = proxy.log_lines("unexpected_error")
    finally:
        assert proxy.stop() == 0

    assert (response.status, json.loads(response.body)["code"]) == (500, "internal")
    assert response.values(b"Proxy-Status") == [b"thg-proxy; error=proxy_internal_error"]
    assert line["error"] == "LookupError"
    assert "canary" not in response.body.decode() + proxy.log


def test_silent_upstream(launch: Launcher, upstream: Upstream) -> None:
    """An upstream that accepts and says nothing is 504 after upstream.response_timeout (F28, R129)."""
    silence = threading.Event()
    upstream.answer = lambda _received, _sock: silence.wait(TIMEOUT)
    proxy = launch(upstream, "upstream.response_timeout=300ms")
    with proxy.connect() as client:
        response = client.get()
    silence.set()

    assert response.status == 504
    assert response.values(b"Proxy-Status") == [b"thg-proxy; error=connection_read_timeout"]


def test_stalled_response(launch: Launcher, upstream: Upstream) -> None:
    """A response that stalls for upstream.idle_timeout is cut, and a slow one is not (R124, F32)."""
    silence = threading.Event()

    def stall(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        for _ in range(8):
            sock.sendall(b"x")
            silence.wait(0.1)  # longer in all than the timeout, shorter each time
        silence.wait(TIMEOUT)
        return False

    upstream.answer = stall
    proxy = launch(upstream, "upstream.idle_timeout=500ms")
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a"))
        received = client.rest()
    silence.set()

    assert received.endswith(b"x" * 8)
    until(lambda: proxy.metric("thg_proxy_errors_total", code="upstream_timeout") == 1)


@pytest.mark.parametrize("moment", ["before the response", "during the response", "during the upload"])
def test_client_gone(proxy: Proxy, upstream: Upstream, moment: str) -> None:
    """When a client goes, its upstream exchange ends at once (R125)."""
    gone = threading.Event()
    arrived = threading.Event()

    def wait_for_the_end(_received: Received, sock: socket.socket) -> bool:
        if moment == "during the response":
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
        arrived.set()
        assert sock.recv(1) == b""
        gone.set()
        return False

    upstream.answer = wait_for_the_end
    client = proxy.connect()
    if moment == "during the upload":
        upstream.when_head = lambda _head, _sock: arrived.set()
        gone = upstream.cut
        client.send(request(b"POST", b"/a", b"Content-Length: 100") + b"x")
    else:
        client.send(request(b"GET", b"/a"))
    assert arrived.wait(TIMEOUT)
    client.sock.close()

    assert gone.wait(TIMEOUT)
    until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 0)
    assert until(lambda: proxy.metric("thg_proxy_upstream_connections", state="active") == 0)


@pytest.mark.parametrize("by", ["TCP", "a Unix socket", "TLS"])
@pytest.mark.parametrize("what", ["an upload", "many requests"])
def test_client_gone_unread(
    launch: Launcher, upstream: Upstream, authority: CertificateAuthority, tmp_path: Path, what: str, by: str
) -> None:
    """A client of which the proxy reads no more, as its upstream is slow, is missed when it goes (R125, F41)."""
    release = threading.Event()
    upstream.when_head = lambda _head, _sock: release.wait(2 * TIMEOUT)
    overrides = []
    if by == "a Unix socket":
        overrides = [f"listen.address=unix:{tmp_path / 'proxy.sock'}"]
    elif by == "TLS":
        files = authority.issue("localhost")
        overrides = [f"listen.tls.cert_file={files.cert_file}", f"listen.tls.key_file={files.key_file}"]
    proxy = launch(upstream, *overrides)
    sock = socket.socket(socket.AF_UNIX if by == "a Unix socket" else socket.AF_INET)
    sock.connect(str(tmp_path / "proxy.sock") if by == "a Unix socket" else ("127.0.0.1", proxy.port))
    if by == "TLS":
        sock = ssl.create_default_context(cafile=authority.ca_file).wrap_socket(sock, server_hostname="localhost")
    if what == "an upload":
        fill(sock, request(b"POST", b"/a", b"Content-Length: 1000000000"), bytes(1 << 20))
    else:
        fill(sock, b"", request(b"GET", b"/a") * 1000)
    until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()

    until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 0)
    until(lambda: proxy.metric("thg_proxy_upstream_connections", state="active") == 0)
    release.set()


def fill(sock: socket.socket, start: bytes, data: bytes) -> None:
    """Sends `start`, and `data` again and again, until the peer takes no more."""
    sock.settimeout(TIMEOUT)
    sock.sendall(start)
    sock.settimeout(STALL)
    with suppress(TimeoutError):
        while True:
            sock.sendall(data)


@pytest.mark.parametrize("clean", [True, False])
def test_close_delimited_over_tls(launch: Launcher, authority: CertificateAuthority, clean: bool) -> None:
    """A body that ends with the connection is whole only if TLS says that the end was meant (R122)."""

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        if clean:
            cast(ssl.SSLSocket, sock).unwrap()
        else:
            os.close(sock.detach())
        return False

    with Upstream(answer, tls=authority.server_context("localhost")) as upstream:
        proxy = launch(upstream, f"upstream.tls.ca_file={authority.ca_file}")
        with proxy.connect() as client:
            client.send(request(b"GET", b"/a"))
            received = client.rest() if not clean else client.response().body

    assert b"all of it" in received
    assert clean or not received.endswith(b"0\r\n\r\n")


def test_early_answer_to_an_upload(proxy: Proxy, upstream: Upstream) -> None:
    """An upstream that answers before the upload has ended is heard (F33)."""

    def refuse(_head: bytes, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        return True

    upstream.when_head = refuse
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", b"Content-Length: 100000") + b"x")
        response = client.response()

    assert (response.status, response.body) == (413, b"big")
    assert response.values(b"Connection") == [b"close"]


def test_extra_bytes_after_a_response(proxy: Proxy, upstream: Upstream) -> None:
    """A second response that nobody asked for is nobody's (R118)."""
    upstream.answer = OK + OK.replace(b"ok", b"EV")
    with proxy.connect() as client:
        for _ in range(5):
            assert client.get().body == b"ok"

    assert upstream.connections == 5


def test_problem_documents(proxy: Proxy, upstream: Upstream) -> None:
    """Every answer of our own has the same form; to HEAD it is headers alone (R127, R132)."""
    with proxy.connect() as client:
        response = client.get(b"/a#f", b"X-Request-Id: my-id.1")
        client.send(request(b"HEAD", b"/a#f"))
        to_head = client.response(to_head=True)
        assert client.get().status == 200

    problem = json.loads(response.body)
    assert problem.keys() == {"type", "title", "status", "detail", "code", "instance"}
    assert (problem["type"], problem["status"], problem["instance"]) == ("urn:thg-proxy:bad_target", 400, "my-id.1")
    assert response.values(b"Content-Type") == [b"application/problem+json"]
    assert response.values(b"Cache-Control") == [b"no-store"]
    assert to_head.values(b"Content-Type") == [b"application/problem+json"]


def test_in_flight_limit(launch: Launcher, upstream: Upstream) -> None:
    """Over limits.max_in_flight a request gets a 503 at once, and the next one is served (R157)."""
    release = threading.Event()

    def hold(_received: Received, sock: socket.socket) -> bool:
        release.wait(TIMEOUT)
        sock.sendall(OK)
        return True

    upstream.answer = hold
    proxy = launch(upstream, "limits.max_in_flight=1")
    with proxy.connect() as first, proxy.connect() as second:
        first.send(request(b"GET", b"/a"))
        until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 1)
        refused = second.get()
        release.set()
        assert first.response().status == 200
        assert second.get().status == 200

    assert (refused.status, json.loads(refused.body)["code"]) == (503, "overloaded")
    assert refused.values(b"Retry-After") == [b"1"]


def test_slow_reader(launch: Launcher, upstream: Upstream) -> None:
    """A client that reads nothing pins little memory, and is cut after upstream.idle_timeout (R156)."""
    sent = threading.Event()

    def flood(_received: Received, sock: socket.socket) -> bool:
        try:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            for _ in range(1000):
                sock.sendall(b"x" * 1_000_000)
        finally:
            sent.set()
        return False

    upstream.answer = flood
    proxy = launch(upstream, "upstream.idle_timeout=1s")
    before = proxy.metric("process_resident_memory_bytes")
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a"))
        assert sent.wait(TIMEOUT)
        until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 0)
        assert proxy.metric("process_resident_memory_bytes") - before < 16 << 20
