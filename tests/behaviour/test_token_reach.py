"""A token endpoint that can't be reached, proves to be somebody else, or points elsewhere: the secret stays here."""

import ssl
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.demo.certificates import CertificateAuthority
from tests.behaviour.running import Launch, until
from tests.peers import MuteTls, Upstream, blackhole, http_answer, trap


def old_tls(authority: CertificateAuthority) -> ssl.SSLContext:
    context = authority.server_context("localhost")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    return context


TLS_FAULTS: dict[str, tuple[Callable[[CertificateAuthority, Path], ssl.SSLContext], str]] = {
    "expired": (lambda authority, _: authority.server_context("localhost", expired=True), "certificate has expired"),
    "of another CA": (lambda _, path: CertificateAuthority(path).server_context("localhost"), "unable to get local"),
    "for another host": (lambda authority, _: authority.server_context("elsewhere.test"), "ostname mismatch"),
    "TLS 1.0": (lambda authority, _: old_tls(authority), "handshake failed"),
    "silent": (lambda *_: MuteTls(ssl.PROTOCOL_TLS_SERVER), "no complete answer"),
}


@pytest.mark.parametrize("name", TLS_FAULTS)
def test_tls(
    launch_with: Launch,
    issuer: Upstream,
    upstream: Upstream,
    authority: CertificateAuthority,
    tmp_path: Path,
    name: str,
) -> None:
    """No byte of a request goes to a provider whose certificate or TLS is not good, and the log has the reason
    (F14, R40, R43).
    """
    make_context, reason = TLS_FAULTS[name]
    issuer.tls = make_context(authority, tmp_path)
    proxy = launch_with("oauth.timeout=1s", ready=False)
    (line,) = until(lambda: proxy.log_lines("token_unavailable"))
    with proxy.under_load() as load:
        assert load.next(9) == {503}

    assert (upstream.requests, issuer.requests, bytes(issuer.raw_bytes)) == ([], [], b"")
    assert reason in line["reason"]


def test_renewed_certificate(launch_with: Launch, issuer: Upstream, authority: CertificateAuthority) -> None:
    """A provider's certificate that expires while a token is good, and is renewed later, costs no request (F14)."""
    good = issuer.tls
    proxy = launch_with("oauth.refresh.backoff={initial: 500ms, max: 500ms}")
    with proxy.under_load() as load:
        issuer.tls = authority.server_context("localhost", expired=True)
        proxy.admin("/refresh", "POST")
        until(lambda: proxy.status()["token"]["last_error"])
        assert load.next() == {200}
        issuer.tls = good
        until(lambda: proxy.status()["token"]["generation"] == 2)
        load.next()

    assert load.statuses == {200}


@pytest.mark.parametrize("name", ["no such name", "no way to it"])
def test_unreachable(launch_with: Launch, upstream: Upstream, name: str) -> None:
    """A provider without an address, or one that no packet comes back from, is a 503 at once (F4, R70)."""
    with blackhole() as port:
        url = f"https://localhost:{port}/token" if name == "no way to it" else "https://idp.invalid/token"
        proxy = launch_with(f"oauth.token_url={url}", "oauth.timeout=300ms", ready=False)
        (line,) = until(lambda: proxy.log_lines("token_unavailable"))
        with proxy.under_load() as load:
            assert load.next(9) == {503}

    assert line["result"] in ("network", "timeout")
    assert upstream.requests == []


@pytest.mark.parametrize("status", [302, 307, 308])
def test_redirect(launch_with: Launch, issuer: Upstream, upstream: Upstream, status: int) -> None:
    """The secret does not follow a redirect, wherever it leads (R39, F13)."""
    with trap() as elsewhere:
        issuer.answer = http_answer(status, b"", b"Location: http://localhost:%d/token" % elsewhere.port)
        proxy = launch_with(ready=False)
        (line,) = until(lambda: proxy.log_lines("token_unavailable"))
        with proxy.connect() as client:
            assert client.get().status == 503
        assert elsewhere.hits == 0

    assert "redirect" in line["reason"]
    assert (len(issuer.requests), upstream.requests) == (1, [])
