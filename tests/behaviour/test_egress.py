"""Through an egress proxy: what it sees, what a client gets when it refuses, and a real one."""

import hashlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launch, Launcher, Proxy, ask, problem, until
from tests.egress import GRANTED, EgressProxy, tls_records
from tests.mutual import asking_for_certificates
from tests.peers import (
    OK,
    TIMEOUT,
    Received,
    Upstream,
    blackhole,
    free_port,
    http_answer,
    request,
    trap,
)
from tests.real_parts import real_part


def ambient(port: int) -> dict[str, str]:
    """The proxy variables of an environment."""
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    return dict.fromkeys(names, f"http://127.0.0.1:{port}")


@pytest.fixture
def api(authority: CertificateAuthority) -> Iterator[Upstream]:
    """By a name that has no address on this machine."""
    with Upstream(tls=authority.server_context("api.invalid")) as upstream:
        yield upstream


@pytest.fixture
def egress(api: Upstream) -> Iterator[EgressProxy]:
    """Knows where `api.invalid` is."""
    with EgressProxy(leads_to=api.port) as egress:
        yield egress


@pytest.fixture
def launch_through(launch: Launcher, authority: CertificateAuthority) -> Launch:
    """A proxy in front of https://api.invalid, with overrides."""

    def start(egress: EgressProxy | str, *overrides: str, environment: dict[str, str] | None = None) -> Proxy:
        return launch(
            "https://api.invalid",
            f"upstream.tls.ca_file={authority.ca_file}",
            f"upstream.egress_proxy={egress if isinstance(egress, str) else egress.url}",
            *overrides,
            environment=environment,
        )

    return start


# What the egress proxy sees.


def test_connect_and_tls(launch_through: Launch, api: Upstream, egress: EgressProxy, provider: DemoProvider) -> None:
    """It sees CONNECT and TLS, never a token, whatever is sent; one tunnel serves many requests (R41, R68)."""
    proxy = launch_through(egress)
    with proxy.connect() as client:
        for number in range(5):
            client.send(request(b"POST", b"/%d" % number, body=b"body"))
            assert client.response().body == b"ok"
    assert [(one.target, one.body) for one in api.requests] == [(b"/%d" % number, b"body") for number in range(5)]
    assert bytes(egress.raw_bytes) == b"CONNECT api.invalid:443 HTTP/1.1\r\nHost: api.invalid:443\r\n\r\n"
    (sent,) = egress.tunnels
    assert tls_records(bytes(sent))
    token = api.requests[0].values(b"Authorization")[0].removeprefix(b"Bearer ")
    assert token == provider.tokens[0].encode()
    assert token not in sent
    assert proxy.metric("thg_proxy_upstream_connects_total", result="ok") == 1


def test_each_its_own(
    launch_through: Launch, egress: EgressProxy, secure_provider: DemoProvider, authority: CertificateAuthority
) -> None:
    """Provider and upstream each have an egress proxy of their own, with TLS settings of their own, and no other
    whatever the environment says (R40).
    """
    with trap() as elsewhere, EgressProxy() as to_provider:
        proxy = launch_through(
            egress,
            f"oauth.egress_proxy={to_provider.url}",
            f"oauth.jwks_url={secure_provider.jwks_url}",
            f"oauth.tls.ca_file={authority.ca_file}",
            environment=ambient(elsewhere.port) | {"NO_PROXY": "*", "no_proxy": "*"},
        )
        assert ask(proxy).status == 200
        assert elsewhere.hits == 0
        assert set(egress.asked_for) == {b"api.invalid:443"}
        assert set(to_provider.asked_for) == {b"localhost:%d" % secure_provider.port}
        assert b"authorization" not in b"".join(to_provider.heads).lower()
        assert all(tls_records(bytes(sent)) for sent in to_provider.tunnels)


def test_the_environment_names_none(
    launch: Launcher, secure_provider: DemoProvider, authority: CertificateAuthority
) -> None:
    """Without an egress proxy in the configuration there is none, for the upstream as for the provider (R40)."""
    with trap() as elsewhere, Upstream(tls=authority.server_context("localhost")) as api:
        proxy = launch(
            api,
            f"upstream.tls.ca_file={authority.ca_file}",
            f"oauth.tls.ca_file={authority.ca_file}",
            environment=ambient(elsewhere.port),
        )
        assert ask(proxy).status == 200
        assert elsewhere.hits == 0


def test_websocket(launch_through: Launch, api: Upstream, egress: EgressProxy) -> None:
    """A WebSocket is a tunnel in the tunnel: bytes both ways, as they are (R59)."""

    def echo(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := sock.recv(65536):
            sock.sendall(data)
        return False

    api.answer = echo
    proxy = launch_through(egress)
    piece = bytes(range(256)) * 1024
    with proxy.connect() as client:
        client.send(request(b"GET", b"/socket", b"Connection: Upgrade", b"Upgrade: websocket"))
        assert client.response().status == 101
        client.send(piece)
        assert client.receive(len(piece)) == piece
    assert tls_records(bytes(egress.tunnels[0]))


def test_a_kept_tunnel_that_has_closed(launch_through: Launch, api: Upstream, egress: EgressProxy) -> None:
    """A tunnel that ends between two requests is replaced without anybody noticing (R126)."""
    proxy = launch_through(egress)
    assert ask(proxy).status == 200
    egress.drop_connections()
    assert ask(proxy).status == 200
    assert len(egress.tunnels) == 2


# What it answers.

REFUSALS: dict[bytes, tuple[bytes, str]] = {
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=canary\r\n\r\n": (
        b"http_request_denied",
        "proxy_refused",
    ),
    b"HTTP/1.1 403 canary\r\nX-Squid-Error: canary\r\n\r\ncanary": (b"http_request_denied", "proxy_refused"),
    b"HTTP/1.1 502 canary\r\n\r\n<html>canary</html>": (b"destination_unavailable", "proxy_refused"),
    b"canary\r\n": (b"http_protocol_error", "proxy_protocol"),
    b"": (b"connection_terminated", "network"),
}


@pytest.mark.parametrize("says", REFUSALS, ids=repr)
def test_refused(launch_through: Launch, api: Upstream, egress: EgressProxy, says: bytes) -> None:
    """A refusal is 502, without a word of the egress proxy; as soon as it grants a tunnel, 200 (R129)."""
    proxy_status, result = REFUSALS[says]
    egress.says = says
    proxy = launch_through(egress, "log.access=all")
    before = proxy.descriptors
    for method in (b"GET", b"POST"):
        response = ask(proxy, method)
        assert problem(response) == (502, proxy_status)
        assert b'"code":"upstream_unreachable"' in response.body.replace(b" ", b"")
        assert b"upstream.egress_proxy" in response.body
        assert b"canary" not in response.head + response.body
    assert len(egress.heads) == 2  # no second attempt
    assert proxy.metric("thg_proxy_upstream_connects_total", result=result) == 2
    assert "canary" not in proxy.output
    assert proxy.is_ready
    until(lambda: proxy.descriptors <= before, "descriptors closed")
    egress.says = GRANTED
    assert ask(proxy).status == 200
    assert len(api.requests) == 1


def test_the_upstream_is_down(launch: Launcher) -> None:
    """An egress proxy that can't connect to the upstream says so, and so do we (F25)."""
    with EgressProxy() as egress:
        proxy = launch(f"http://127.0.0.1:{free_port()}", f"upstream.egress_proxy={egress.url}")
        assert problem(ask(proxy)) == (502, b"destination_unavailable")


def test_it_is_down(launch_through: Launch) -> None:
    """Nobody listens where the egress proxy should be: 502, and the token is kept (F25)."""
    proxy = launch_through(f"http://127.0.0.1:{free_port()}")
    response = ask(proxy)
    assert problem(response) == (502, b"connection_refused")
    assert b"upstream.egress_proxy" in response.body
    assert proxy.metric("thg_proxy_token_generation") == 1
    assert proxy.is_ready


@contextmanager
def silent() -> Iterator[int]:
    with trap() as listener:
        yield listener.port


@pytest.mark.parametrize("make", [blackhole, silent], ids=["connect", "answer"])
def test_it_is_silent(launch_through: Launch, make: Callable[[], AbstractContextManager[int]]) -> None:
    """Where nothing comes, it is 504 after upstream.connect_timeout, and no place is taken for longer (F26, R129)."""
    with make() as port:
        proxy = launch_through(
            f"http://127.0.0.1:{port}", "upstream.connect_timeout=300ms", "upstream.max_connections=1"
        )
        for _ in range(3):
            assert problem(ask(proxy)) == (504, b"connection_timeout")
        assert proxy.metric("thg_proxy_upstream_connects_total", result="timeout") == 3
        assert proxy.metric("thg_proxy_requests_in_flight") == 0


def test_hung_tunnels_do_not_keep_the_token(
    launch: Launcher, upstream: Upstream, secure_provider: DemoProvider, authority: CertificateAuthority
) -> None:
    """When all connections to the upstream hang in an egress proxy, the provider is reached through the same (R87)."""
    done = threading.Event()

    def hang(_received: Received, _sock: socket.socket) -> bool:
        done.wait(TIMEOUT)
        return False

    upstream.answer = hang
    with EgressProxy() as egress:
        proxy = launch(
            upstream,
            "upstream.max_connections=3",
            f"upstream.egress_proxy={egress.url}",
            f"oauth.egress_proxy={egress.url}",
            f"oauth.tls.ca_file={authority.ca_file}",
            f"oauth.refresh.min_interval={MIN_INTERVAL}",
        )
        clients = [proxy.connect() for _ in range(3)]
        for client in clients:
            client.send(request(b"GET", b"/a"))
        upstream.wait_for(3)
        until(lambda: proxy.token_age > MIN_INTERVAL)
        assert proxy.admin("/refresh", "POST")[0] == 200
        assert proxy.metric("thg_proxy_token_generation") == 2
        done.set()
        for client in clients:
            assert client.response().status == 502
            client.sock.close()
    assert len(secure_provider.tokens) == 2


# TLS is with the upstream.


@pytest.mark.parametrize("fault", ["wrong name", "expired", "unknown CA"])
def test_bad_certificate(launch: Launcher, authority: CertificateAuthority, tmp_path: Path, fault: str) -> None:
    """A tunnel to somebody who can't prove to be the upstream gets not a byte of a request (R41, R68, F36)."""
    issuer = CertificateAuthority(tmp_path) if fault == "unknown CA" else authority
    context = issuer.server_context(
        "other.example" if fault == "wrong name" else "localhost", expired=fault == "expired"
    )
    with Upstream(tls=context) as upstream, EgressProxy() as egress:
        proxy = launch(upstream, f"upstream.tls.ca_file={authority.ca_file}", f"upstream.egress_proxy={egress.url}")
        assert problem(ask(proxy)) == (502, b"tls_certificate_error")
        assert problem(ask(proxy, b"POST")) == (502, b"tls_certificate_error")
        assert upstream.raw_bytes == b""
        assert proxy.metric("thg_proxy_upstream_connects_total", result="tls") == 2


@pytest.mark.parametrize("through", [False, True], ids=["directly", "through an egress proxy"])
def test_client_certificate(launch: Launcher, authority: CertificateAuthority, *, through: bool) -> None:
    """An upstream that insists on a client certificate gets the one of upstream.tls, and the name that is there."""
    context = asking_for_certificates(authority, "api.example")
    context.verify_mode = ssl.CERT_REQUIRED
    shown: list[str] = []

    def answer(_received: Received, sock: ssl.SSLSocket) -> bool:
        shown.append(str(sock.getpeercert()))
        sock.sendall(OK)
        return True

    own = authority.issue("client.example")
    with Upstream(answer=answer, tls=context) as upstream, EgressProxy() as egress:  # type: ignore[arg-type]
        settings = [
            f"upstream.tls.ca_file={authority.ca_file}",
            "upstream.tls.server_name=api.example",
            *([f"upstream.egress_proxy={egress.url}"] if through else []),
        ]
        without = launch(upstream, *settings)
        assert ask(without).status == 502
        proxy = launch(
            upstream, *settings, f"upstream.tls.cert_file={own.cert_file}", f"upstream.tls.key_file={own.key_file}"
        )
        assert ask(proxy).status == 200
        assert [("client.example" in one) for one in shown] == [True]
        assert bool(egress.tunnels) == through


# A real one.


@pytest.fixture
def tinyproxy(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts Tinyproxy, of the Debian package of that name, with more lines of configuration; gives its URL."""
    with ExitStack() as running:

        def start(*lines: str) -> str:
            port, file = free_port(), tmp_path / "tinyproxy.conf"
            file.write_text("\n".join([f"Port {port}", "Listen 127.0.0.1", "MaxClients 100", *lines, ""]))
            command = [real_part("tinyproxy", "tinyproxy"), "-d", "-c", str(file)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            running.callback(process.wait, TIMEOUT)
            running.callback(process.terminate)
            until(lambda: accepts(port), "tinyproxy")
            return f"http://127.0.0.1:{port}"

        yield start


def accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), TIMEOUT):
        return True
    return False


def test_tinyproxy(
    launch: Launcher, tinyproxy: Callable[..., str], secure_provider: DemoProvider, authority: CertificateAuthority
) -> None:
    """A real egress proxy leads to provider and upstream, with large bodies as with small ones."""
    through = tinyproxy()
    body = hashlib.shake_128(b"body").digest(4 << 20)
    with Upstream(http_answer(200, body), tls=authority.server_context("localhost")) as api:
        proxy = launch(
            api,
            f"upstream.tls.ca_file={authority.ca_file}",
            f"upstream.egress_proxy={through}",
            f"oauth.egress_proxy={through}",
            f"oauth.tls.ca_file={authority.ca_file}",
        )
        with proxy.connect() as client:
            for _ in range(2):
                client.send(request(b"POST", b"/a", body=body))
                assert client.response().body == body
        assert [received.body for received in api.requests] == [body, body]
        assert api.connections == 1
    assert len(secure_provider.tokens) == 1


@pytest.mark.parametrize(
    "line, expected",
    [
        ("ConnectPort 563", b"http_request_denied"),  # to no other port
        ("BasicAuth user password", b"http_request_denied"),
        ("Timeout 60", b"destination_unavailable"),  # api.invalid has no address
    ],
)
def test_tinyproxy_refuses(launch_through: Launch, tinyproxy: Callable[..., str], line: str, expected: bytes) -> None:
    """What a real egress proxy answers when it allows no tunnel, wants a password, or finds no way (R129)."""
    proxy = launch_through(tinyproxy(line), "upstream.connect_timeout=15s")
    assert problem(ask(proxy)) == (502, expected)
