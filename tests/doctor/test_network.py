from collections.abc import Iterator

import pytest

from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.doctor.reports import Doctor
from tests.egress import EgressProxy
from tests.peers import Upstream, blackhole, free_port, trap

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


def through(egress: EgressProxy, authority: CertificateAuthority) -> list[str]:
    return [f"oauth.egress_proxy={egress.url}", f"oauth.tls.ca_file={authority.ca_file}"]


def test_egress_proxy(doctor: Doctor, secure_provider: DemoProvider, authority: CertificateAuthority) -> None:
    """With an egress proxy the first hop is that proxy, and the handshake goes through it to the provider."""
    with EgressProxy() as egress:
        report = doctor(*through(egress, authority))
    assert report.exit_code == 0
    assert f"127.0.0.1 port {egress.port}: connected" in report.found("token endpoint TCP")
    target = f"localhost:{secure_provider.port}"
    assert report.found("token endpoint CONNECT") == [f"oauth.egress_proxy connects to {target}"]
    assert any(line.startswith("CN=localhost, ") for line in report.found("token endpoint TLS"))
    assert set(egress.asked_for) == {target.encode()}


@pytest.mark.parametrize("secure", [True, False])
def test_egress_proxy_of_the_upstream(doctor: Doctor, authority: CertificateAuthority, secure: bool) -> None:
    """The upstream is reached through its own egress proxy, which resolves its name, and gets no other bytes (R68)."""
    context = authority.server_context("api.invalid") if secure else None
    with Upstream(tls=context) as upstream, EgressProxy(leads_to=upstream.port) as egress:
        report = doctor(
            f"upstream.url={'https' if secure else 'http'}://api.invalid:444",
            f"upstream.insecure={not secure}",
            f"upstream.tls.ca_file={authority.ca_file}",
            f"upstream.egress_proxy={egress.url}",
        )
        assert report.exit_code == 0
        assert report.found("upstream CONNECT") == ["upstream.egress_proxy connects to api.invalid:444"]
        assert set(egress.asked_for) == {b"api.invalid:444"}
        assert len(upstream.requests) == 1
    steps = ["upstream DNS", "upstream TCP", "upstream CONNECT", *(["upstream TLS"] if secure else [])]
    assert list(report.steps)[-len(steps) - 1 :] == [*steps, "upstream request"]


# What an egress proxy answers, then the cause and the remedy.
REFUSALS = {
    b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n": ("answers with status 407", "without credentials"),
    b"HTTP/1.1 403 \xff\r\n\r\n": ("answers with status 403", "Let that proxy allow CONNECT to {target}"),
    b"HTTP/1.0 502 Bad Gateway\r\n\r\nno": ("answers with status 502", "{target} can be reached from that proxy"),
    b"HTTP/1.1 200 OK\r\n\r\nx": ("does not answer as an HTTP proxy does", "is it an HTTP proxy"),
    b"SSH-2.0-OpenSSH_9.2\r\n": ("does not answer as an HTTP proxy does", "is it an HTTP proxy"),
    b"": ("closes the connection", "is it an HTTP proxy"),
}


@pytest.mark.parametrize("answer", REFUSALS, ids=repr)
def test_egress_proxy_refuses(
    doctor: Doctor, upstream: Upstream, secure_provider: DemoProvider, authority: CertificateAuthority, answer: bytes
) -> None:
    """An egress proxy that makes no connection is told from a provider, or an API, that can't be reached."""
    with EgressProxy(says=answer, leads_to=upstream.port) as egress:
        of_provider = doctor(*through(egress, authority)).failure("token endpoint CONNECT")
        of_upstream = doctor(
            "upstream.url=https://api.invalid",
            f"upstream.egress_proxy={egress.url}",
            f"oauth.tls.ca_file={authority.ca_file}",
        ).failure("upstream CONNECT")
    expected_cause, expected_remedy = REFUSALS[answer]
    for section, target, (cause, remedy) in (
        ("oauth", f"localhost:{secure_provider.port}", of_provider),
        ("upstream", "api.invalid:443", of_upstream),
    ):
        assert cause == f"{section}.egress_proxy {expected_cause}"
        assert expected_remedy.format(target=target) in remedy


def test_egress_proxy_is_silent(doctor: Doctor) -> None:
    """One that takes the connection and says nothing is given up after the timeout of the configuration (F26)."""
    with trap() as silent:
        cause, remedy = doctor(
            "upstream.url=https://api.invalid",
            f"upstream.egress_proxy=http://127.0.0.1:{silent.port}",
            "upstream.connect_timeout=200ms",
        ).failure("upstream CONNECT")
    assert cause == "upstream.egress_proxy does not answer within 200ms"
    assert "upstream.egress_proxy" in remedy


@pytest.mark.parametrize("section, server", [("oauth", "token endpoint"), ("upstream", "upstream")])
def test_egress_proxy_is_down(doctor: Doctor, section: str, server: str) -> None:
    """The key of the proxy is named, not that of the server behind it."""
    cause, remedy = doctor(f"{section}.egress_proxy=http://127.0.0.1:{free_port()}").failure(f"{server} TCP")
    assert cause == "no connection: connection refused"
    assert f"Check host and port of {section}.egress_proxy" in remedy
