"""Another configuration, and another client, under a running proxy."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, clean_environment, token_calls, until
from tests.collector import attributes, spans
from tests.mutual import asking_for_certificates
from tests.peers import OK, Client, Slow, Upstream, free_port, http_answer, request


@dataclass
class Configured:
    """A proxy whose whole configuration is in a file."""

    launch: Launcher
    provider: DemoProvider
    content: dict[str, Any] = field(default_factory=dict)

    def start(self, to: Upstream, **sections: Any) -> Proxy:
        port, admin_port = free_port(), free_port()
        self.content = {
            "listen": {"address": f"127.0.0.1:{port}"},
            "admin": {"address": f"127.0.0.1:{admin_port}"},
            "upstream": {"url": to.url},
            "oauth": {"token_url": self.provider.token_url},
            "log": {"format": "json", "level": "debug"},
        } | sections
        file = self.write()
        log_file = self.launch.directory / "proxy.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "run", "-c", file],
                stdout=log,
                stderr=log,
                cwd=self.launch.directory,
                env=clean_environment(self.provider),
            )
        proxy = Proxy(process, port, admin_port, log_file)
        self.launch.started.append(proxy)
        until(lambda: proxy.is_ready, "ready")
        return proxy

    def write(self) -> str:
        file = self.launch.directory / "config.yaml"
        new = file.with_suffix(".new")
        new.write_text(yaml.safe_dump(self.content))
        new.replace(file)
        return str(file)

    def change(self, section: str, **values: Any) -> None:
        self.content[section] = self.content.get(section, {}) | values
        self.write()


@pytest.fixture
def configured(launch: Launcher, provider: DemoProvider) -> Configured:
    return Configured(launch, provider)


@pytest.fixture
def other() -> Iterator[Upstream]:
    with Upstream(answer=http_answer(200, b"other")) as upstream:
        yield upstream


def reloads(proxy: Proxy, result: str) -> float:
    return proxy.metric("thg_proxy_config_reloads_total", result=result)


def hang_up(proxy: Proxy) -> None:
    proxy.process.send_signal(signal.SIGHUP)


def test_changed_file(configured: Configured, upstream: Upstream, other: Upstream, provider: DemoProvider) -> None:
    """A changed file is in force without a signal; the client's connection stays, and the token (R165)."""
    proxy = configured.start(upstream)
    with proxy.connect() as client:
        assert client.get().status == 200
        configured.change("upstream", url=other.url)
        until(lambda: reloads(proxy, "ok"), "reloaded")
        assert client.get().body == b"other"

    assert proxy.status()["upstream"]["url"] == other.url
    assert len(upstream.requests) == 1
    assert token_calls(provider) == 1


def test_signal(configured: Configured, upstream: Upstream) -> None:
    """SIGHUP reads everything again, changed or not."""
    proxy = configured.start(upstream)
    for count in (1, 2):
        hang_up(proxy)
        until(lambda count=count: reloads(proxy, "ok") == count, "reloaded")  # type: ignore[misc]
    with proxy.connect() as client:
        assert client.get().status == 200


@pytest.mark.parametrize(
    "section, values, reason",
    [
        ("upstream", {"url": "ftp://example"}, "upstream.url"),
        ("limits", {"max_in_flight": 0}, "limits.max_in_flight"),
        ("nonsense", {"key": 1}, "nonsense"),
        ("oauth", {"tls": {"ca_file": "/nowhere"}}, "oauth.tls.ca_file"),
    ],
)
def test_bad_configuration(
    configured: Configured, upstream: Upstream, section: str, values: dict[str, Any], reason: str
) -> None:
    """What is wrong is named, and nothing of the file counts (R165)."""
    proxy = configured.start(upstream)
    configured.change("upstream", headers={"set": {"X-New": "1"}})
    until(lambda: reloads(proxy, "ok"), "reloaded")
    configured.content["upstream"]["headers"] = {"set": {"X-Newer": "1"}}
    configured.change(section, **values)
    hang_up(proxy)
    until(lambda: reloads(proxy, "failed"), "refused")

    (line, *_) = proxy.log_lines("reload_failed")
    assert reason in line["reason"]
    with proxy.connect() as client:
        assert client.get().status == 200
    assert upstream.requests[-1].values(b"x-new") == [b"1"]
    assert upstream.requests[-1].values(b"x-newer") == []


def test_request_in_flight(configured: Configured, upstream: Upstream, other: Upstream) -> None:
    """A response that has begun comes to its end from where it began."""
    slow = upstream.answer = Slow()
    proxy = configured.start(upstream)
    with proxy.connect() as client:
        client.send(request(b"GET", b"/slow"))
        upstream.wait_for(1)
        configured.change("upstream", url=other.url)
        until(lambda: reloads(proxy, "ok"), "reloaded")
        slow.go_on.set()
        assert client.response().body == b"onetwo"
        assert client.get().body == b"other"
    states = ("idle", "active")
    until(lambda: sum(proxy.metric("thg_proxy_upstream_connections", state=state) for state in states) == 1, "one left")


def test_what_needs_a_restart(configured: Configured, upstream: Upstream) -> None:
    """A reload that changes the addresses says so, and takes the rest."""
    proxy = configured.start(upstream)
    configured.content["limits"] = {"max_body": 3}
    configured.change("listen", address=f"127.0.0.1:{free_port()}")
    until(lambda: reloads(proxy, "ok"), "reloaded")

    assert proxy.log_lines("reload_needs_restart")[0]["sections"] == "listen"
    with proxy.connect() as client:
        client.send(request(b"POST", b"/", b"Content-Length: 4", body=b"four"))
        assert client.response().status == 413


def test_another_client(configured: Configured, upstream: Upstream, provider: DemoProvider) -> None:
    """The new client obtains a token before it takes over; one that gets none leaves the old one in use (R100)."""
    proxy = configured.start(upstream)
    second = RegisteredClient(client_id="second", client_secret="canary-2")
    provider.clients[second.client_id] = second
    configured.change("oauth", clients=[{"name": "new", "client_id": "second", "client_secret": {"literal": "wrong"}}])
    secret = configured.launch.directory / "secret"
    secret.write_text("wrong")
    configured.change("oauth", clients=[{"name": "new", "client_id": "second", "client_secret": {"file": str(secret)}}])
    until(lambda: reloads(proxy, "failed"), "refused")
    with proxy.connect() as client:
        assert client.get().status == 200
    assert proxy.status()["token"]["client"] == "primary"

    secret.write_text("canary-2")
    hang_up(proxy)
    until(lambda: reloads(proxy, "ok"), "reloaded")
    assert proxy.status()["token"]["client"] == "new"
    with proxy.connect() as client:
        assert client.get().status == 200
    assert upstream.requests[-1].values(b"authorization") == [f"Bearer {provider.tokens[-1]}".encode()]


def test_admin_port(configured: Configured, upstream: Upstream) -> None:
    """The admin port shows, and goes by, the configuration that is in force (R134)."""
    proxy = configured.start(upstream)
    named = request(b"GET", b"/status", host=b"thg.example")
    configured.content["limits"] = {"max_in_flight": 7}
    with Client(proxy.admin_port) as client:
        client.send(named)
        assert client.response().status == 421
        configured.change("policy", allowed_hosts=["localhost", "127.0.0.1", "thg.example"])
        until(lambda: reloads(proxy, "ok"), "reloaded")
        client.send(named)
        assert client.response().status == 200
    assert proxy.status()["limits"]["in_flight"]["limit"] == 7


def test_log_level(configured: Configured, upstream: Upstream) -> None:
    """The log follows the configuration."""
    proxy = configured.start(upstream, log={"format": "json", "level": "info", "access": "all"})
    configured.change("log", access="off")
    until(lambda: reloads(proxy, "ok"), "reloaded")
    with proxy.connect() as client:
        assert client.get().status == 200
    assert proxy.log_lines("request") == []


def test_renewed_certificates(configured: Configured, provider: DemoProvider, authority: CertificateAuthority) -> None:
    """The client certificate for the API is renewed in its files: no request fails, new connections show it (R104)."""
    shown = []

    def answer(_: object, sock: Any) -> bool:
        shown.append(dict(part for rdn in sock.getpeercert()["subject"] for part in rdn)["commonName"])
        sock.sendall(OK)
        return True

    context = asking_for_certificates(authority, "localhost")
    directory = configured.launch.directory
    names = {"cert_file": directory / "client.pem", "key_file": directory / "client.key"}

    def install(name: str) -> None:
        issued = authority.issue(name)
        for kind, file in names.items():
            shutil.copy(getattr(issued, kind), file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)

    install("old")
    tls = {"ca_file": str(authority.ca_file)} | {kind: str(file) for kind, file in names.items()}
    with Upstream(answer=answer, tls=context) as upstream:
        proxy = configured.start(upstream, upstream={"url": upstream.url, "tls": tls})
        with proxy.connect() as client:
            assert client.get().status == 200
            install("new")
            until(lambda: client.get().status == 200 and shown[-1] == "new", "renewed")

    assert set(shown) == {"old", "new"}
    assert proxy.metric("thg_proxy_errors_total", code="upstream_tls") == 0
    assert token_calls(provider) == 1


def test_tracing(configured: Configured, upstream: Upstream) -> None:
    """Spans are made as the configuration in force says, and go where it says."""
    accepted = http_answer(200, b"")
    with Upstream(answer=accepted) as one, Upstream(answer=accepted) as other:
        proxy = configured.start(upstream)
        with proxy.connect() as client:
            client.get(b"/0")
            configured.change("tracing", otlp_endpoint=one.url)
            until(lambda: reloads(proxy, "ok") == 1, "reloaded")
            client.get(b"/1")
            until(lambda: spans(one.requests), "exported")
            configured.change("tracing", otlp_endpoint=other.url, sample=0.0)
            until(lambda: reloads(proxy, "ok") == 2, "reloaded")
            client.get(b"/2")
            client.get(b"/3", b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            configured.change("tracing", otlp_endpoint=None)
            until(lambda: reloads(proxy, "ok") == 3, "reloaded")
            client.get(b"/4")
        assert proxy.stop() == 0
        paths = [[attributes(span)["url.full"][-2:] for span in spans(end.requests)] for end in (one, other)]

    assert paths == [["/1"], ["/3"]]
    told = [[value[-2:] for value in received.values(b"traceparent")] for received in upstream.requests]
    assert told == [[], [b"01"], [b"00"], [b"01"], []]
