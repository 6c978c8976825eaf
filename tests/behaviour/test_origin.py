"""The token reaches the configured origin and nothing else."""

import socket

import pytest

from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import Received, Upstream, http_answer, request, trap


def test_double_slash_is_a_path(proxy: Proxy, upstream: Upstream) -> None:
    """A target that looks like an authority is a path of our upstream (R32)."""
    with trap() as elsewhere, proxy.connect() as client:
        target = b"//127.0.0.1:%d/steal" % elsewhere.port
        assert client.get(target).status == 200
        assert upstream.requests[0].target == target
        assert elsewhere.hits == 0


@pytest.mark.parametrize(
    "authority", [b"evil.example", b"a@127.0.0.1:%d", b"127.0.0.1:%d@localhost", b"localhost.evil"]
)
def test_foreign_absolute_form(proxy: Proxy, upstream: Upstream, authority: bytes) -> None:
    """An absolute-form with an authority that is not ours is refused, and goes nowhere (R33)."""
    with trap() as elsewhere, proxy.connect() as client:
        authority = authority.replace(b"%d", b"%d" % elsewhere.port)
        assert client.get(b"http://%b/a" % authority).status == 421
        assert elsewhere.hits == 0

    assert upstream.requests == []


@pytest.mark.parametrize(
    "target, expected",
    [
        (b"http://localhost:%d/a?b", b"/a?b"),
        (b"HTTP://LOCALHOST/a", b"/a"),
        (b"http://127.0.0.1", b"/"),
        (b"http://localhost?q", b"/?q"),
    ],
)
def test_own_absolute_form(proxy: Proxy, upstream: Upstream, target: bytes, expected: bytes) -> None:
    """An absolute-form with our own authority is an origin-form, and the Host beside it counts for nothing (R33)."""
    with proxy.connect() as client:
        client.send(request(b"GET", target.replace(b"%d", b"%d" % proxy.port), host=b"evil.example"))
        assert client.response().status == 200

    assert upstream.requests[0].target == expected


@pytest.mark.parametrize(
    "target", [b"a", b"*", b"@evil/x", b"/a#f", b"/a\xff", b"/a b", b"ftp://localhost/", b"evil://x/y", b"http:///a"]
)
def test_bad_targets(proxy: Proxy, upstream: Upstream, target: bytes) -> None:
    """Any other form of target is refused (R20)."""
    with proxy.connect() as client:
        assert client.get(target).status in (400, 421)

    assert upstream.requests == []


@pytest.mark.parametrize("host", [b"evil.example", b"localhost.evil.example", b"0.0.0.0", b"[::ffff:127.0.0.1]", b""])
def test_foreign_host(proxy: Proxy, upstream: Upstream, host: bytes) -> None:
    """A page that rebinds its name to this machine is not served (R134)."""
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a", host=host))
        assert client.response().status in (400, 421)

    assert upstream.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_the_clients(proxy: Proxy, upstream: Upstream, status: int) -> None:
    """A redirect is handed to the client as it is, and never followed (R38)."""
    with trap() as elsewhere, proxy.connect() as client:
        location = b"http://127.0.0.1:%d/steal" % elsewhere.port
        upstream.answer = b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, location)
        response = client.get()
        assert (response.status, response.values(b"Location")) == (status, [location])
        assert elsewhere.hits == 0


def test_tls_upstream(launch: Launcher, authority: CertificateAuthority) -> None:
    """Over TLS with a CA of one's own (R41)."""
    with Upstream(tls=authority.server_context("localhost")) as upstream:
        proxy = launch(upstream, f"upstream.tls.ca_file={authority.ca_file}")
        with proxy.connect() as client:
            assert client.get().body == b"ok"


@pytest.mark.parametrize("fault", ["wrong name", "expired", "unknown CA"])
def test_bad_certificate(launch: Launcher, authority: CertificateAuthority, fault: str) -> None:
    """An upstream that can't prove its name gets not one byte of ours (R41, R128)."""
    context = authority.server_context(
        "other.example" if fault == "wrong name" else "localhost", expired=fault == "expired"
    )
    with Upstream(tls=context) as upstream:
        ca = [] if fault == "unknown CA" else [f"upstream.tls.ca_file={authority.ca_file}"]
        proxy = launch(upstream, *ca)
        with proxy.connect() as client:
            response = client.get()

    assert response.status == 502
    assert response.values(b"Proxy-Status") == [b"thg-proxy; error=tls_certificate_error"]
    assert upstream.raw_bytes == b""


def test_server_name(launch: Launcher, authority: CertificateAuthority) -> None:
    """upstream.tls.server_name is the name that the certificate must have."""
    with Upstream(tls=authority.server_context("api.example")) as upstream:
        proxy = launch(upstream, f"upstream.tls.ca_file={authority.ca_file}", "upstream.tls.server_name=api.example")
        with proxy.connect() as client:
            assert client.get().status == 200


def test_environment_does_not_reroute(launch: Launcher, upstream: Upstream) -> None:
    """Proxy variables of the environment are not read (R40)."""
    with trap() as elsewhere:
        url = f"http://127.0.0.1:{elsewhere.port}"
        proxy = launch(
            upstream, environment=dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), url)
        )
        with proxy.connect() as client:
            assert client.get().status == 200
        assert elsewhere.hits == 0


def test_the_token_goes_to_the_api_alone(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """Fetched, verified, refused, replaced, echoed or redirected: nobody but the API gets to see a token (R68)."""

    def answer(received: Received, sock: socket.socket) -> bool:
        token = received.values(b"Authorization")[0]
        if token.decode().endswith(provider.tokens[0]):
            sock.sendall(http_answer(401, b"", b"WWW-Authenticate: Bearer"))
        else:
            sock.sendall(http_answer(307, b"", b"X-Echo: " + token, b"Location: http://127.0.0.1:%d/" % elsewhere.port))
        return True

    with trap() as elsewhere:
        upstream.answer = answer
        proxy = launch(
            upstream,
            f"oauth.jwks_url={provider.jwks_url}",
            f"oauth.refresh.min_interval={MIN_INTERVAL}",
            "log.access=all",
        )
        until(lambda: proxy.token_age > MIN_INTERVAL)
        with proxy.connect() as client:
            response = client.get()
        until(lambda: proxy.token_age > MIN_INTERVAL)
        assert proxy.admin("/refresh", "POST")[0] == 200
        assert elsewhere.hits == 0

    assert response.status == 307
    assert len(upstream.requests) == 2
    assert len(provider.tokens) == 3
    asked = "".join(f"{one.path}{one.query}{dict(one.headers)}{one.body!r}" for one in provider.received)
    shown = response.head.decode() + proxy.output
    assert not [token for token in provider.tokens if token in asked + shown]
