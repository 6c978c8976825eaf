import select
import socket
from collections.abc import Iterator

import pytest

from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Backstage
from tests.doctor.reports import Doctor
from tests.peers import TIMEOUT, Upstream, blackhole, free_port

LABEL = "a" * 64  # RFC 1035 §2.3.4: at most 63


@pytest.fixture
def dead() -> Iterator[int]:
    with blackhole() as port:
        yield port


# A key of the configuration, and the server that it names.
WAYS = pytest.mark.parametrize(
    "key, server", [("oauth.token_url", "token endpoint"), ("oauth.issuer", "issuer"), ("upstream.url", "upstream")]
)


def leading_to(key: str, url: str) -> list[str]:
    return [*(["oauth.token_url=null"] if key == "oauth.issuer" else []), f"{key}={url}"]


@WAYS
@pytest.mark.parametrize("host", ["nowhere.invalid", f"{LABEL}.example"])
def test_dns(doctor: Doctor, key: str, server: str, host: str) -> None:
    """A name that can't be resolved is said with the system's reason, and with the key that it stands at (F27)."""
    cause, remedy = doctor(*leading_to(key, f"https://{host}")).failure(f"{server} DNS")
    assert cause.startswith((f"{host} can't be resolved: ", f"{host} is not a name that DNS can have"))
    assert f"Check the host of {key}" in remedy


@WAYS
def test_refused(doctor: Doctor, key: str, server: str) -> None:
    """A port at which nothing listens is told from one that says nothing (F25)."""
    cause, remedy = doctor(*leading_to(key, f"http://127.0.0.1:{free_port()}")).failure(f"{server} TCP")
    assert cause == "no connection: connection refused"
    assert f"Check host and port of {key}" in remedy


@WAYS
def test_timeout(doctor: Doctor, dead: int, key: str, server: str) -> None:
    """A server that does not answer is given up on after the timeout of the configuration (F26)."""
    timeout = "upstream.connect_timeout" if key == "upstream.url" else "oauth.timeout"
    report = doctor(*leading_to(key, f"http://127.0.0.1:{dead}"), f"{timeout}=200ms")
    assert report.failure(f"{server} TCP")[0] == "no connection: no answer within 200ms"


def test_one_of_two_addresses(doctor: Doctor, upstream: Upstream) -> None:
    """Every address of a name is tried; one that works is enough."""
    report = doctor(f"upstream.url=http://localhost:{upstream.port}")
    assert report.exit_code == 0
    (found,) = report.found("upstream DNS")
    assert found.startswith("localhost: ")
    assert f"127.0.0.1 port {upstream.port}: connected" in report.found("upstream TCP")


def pass_on(head: bytes, sock: socket.socket) -> bool:
    """What an HTTP proxy does with CONNECT (RFC 9110 §9.3.6)."""
    host, _, port = head.split(b" ")[1].decode().rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as target:
        sock.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        others = {sock: target, target: sock}
        while True:
            for end in select.select(list(others), [], [], TIMEOUT)[0]:
                data = end.recv(65536)
                if not data:
                    return True
                others[end].sendall(data)


@pytest.fixture
def secure_provider(backstage: Backstage, provider: DemoProvider, authority: CertificateAuthority) -> DemoProvider:
    """The provider behind TLS, with a certificate for its name alone."""
    backstage.run(provider.stop())
    backstage.run(provider.start(ssl_context=authority.server_context("localhost")))
    provider.url = provider.url.replace("127.0.0.1", "localhost")
    return provider


def through(egress: Upstream, authority: CertificateAuthority) -> list[str]:
    return [f"oauth.egress_proxy=http://localhost:{egress.port}", f"oauth.tls.ca_file={authority.ca_file}"]


def test_egress_proxy(doctor: Doctor, secure_provider: DemoProvider, authority: CertificateAuthority) -> None:
    """With an egress proxy the first hop is that proxy, and the handshake goes through it to the provider."""
    with Upstream(when_head=pass_on) as egress:
        report = doctor(*through(egress, authority))
    assert report.exit_code == 0
    assert f"127.0.0.1 port {egress.port}: connected" in report.found("token endpoint TCP")
    assert any(line.startswith("CN=localhost, ") for line in report.found("token endpoint TLS"))


@pytest.mark.parametrize(
    "answer, said",
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "status 407"),
        (b"HTTP/1.1 403 \x1b[2J\r\n\r\n", "status 403"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP"),
        (b"", "no HTTP"),
    ],
)
def test_egress_proxy_refuses(
    doctor: Doctor, secure_provider: DemoProvider, authority: CertificateAuthority, answer: bytes, said: str
) -> None:
    """An egress proxy that makes no connection is told from a provider that can't be reached."""

    def refuse(_head: bytes, sock: socket.socket) -> bool:
        sock.sendall(answer)
        return True

    with Upstream(when_head=refuse) as egress:
        cause, remedy = doctor(*through(egress, authority)).failure("token endpoint TLS")
    target = f"localhost:{secure_provider.port}"
    assert cause == f"oauth.egress_proxy does not connect to {target}: it answers with {said}"
    assert "oauth.egress_proxy" in remedy


def test_egress_proxy_is_down(doctor: Doctor) -> None:
    """The key of the proxy is named, not that of the provider."""
    remedy = doctor(f"oauth.egress_proxy=http://127.0.0.1:{free_port()}").failure("token endpoint TCP")[1]
    assert "oauth.egress_proxy" in remedy
