"""Tokens that are bound to a key, through the real process: a provider and an API that check every proof (R105)."""

import socket
from collections.abc import Callable

import pytest

from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import OK, Received, Upstream, request
from tests.proofs import BadProof, ProofChecker, binding

INVALID_TOKEN = (
    b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: DPoP error="invalid_token"\r\nContent-Length: 0\r\n\r\n'
)
FIELD = b"thg-proxy; received-status=401"


def thumbprint(provider: DemoProvider) -> str:
    """Of the key that the newest token is bound to."""
    key: str = provider.faults.claims["cnf"]["jkt"]
    return key


def guarded(
    provider: DemoProvider, upstream: Upstream, checker: ProofChecker, *, fickle: bool = False
) -> Callable[[Received, socket.socket], bool]:
    """An API that takes the provider's newest token with a good proof.

    `fickle`: it wants another nonce for each request.
    """

    def answer(received: Received, sock: socket.socket) -> bool:
        if fickle:
            checker.nonce = f"rs-{len(upstream.requests)}"
        nonce = f"DPoP-Nonce: {checker.nonce}\r\n" if checker.nonce else ""
        sock.sendall(verdict(received).replace(b"\r\n", b"\r\n" + nonce.encode(), 1))
        return True

    def verdict(received: Received) -> bytes:
        method, target, _ = received.request_line.decode().split(" ")
        url = upstream.url if target == "*" else upstream.url + target
        proofs = [value.decode() for value in received.values(b"DPoP")]
        token = provider.tokens[-1]
        if received.values(b"Authorization") != [f"DPoP {token}".encode()]:
            return INVALID_TOKEN
        try:
            checker.check(proofs, method, url, token, thumbprint(provider))
        except BadProof as point:
            error = "use_dpop_nonce" if str(point).startswith("10:") else "invalid_dpop_proof"
            challenge = f'DPoP error="{error}", error_description="{point}"'
            return f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n".encode()
        return OK

    return answer


@pytest.fixture
def proxy(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> Proxy:
    provider.faults.token = binding(provider, ProofChecker("as-nonce"))
    upstream.answer = guarded(provider, upstream, ProofChecker())
    return launch(upstream, "oauth.dpop=true", f"oauth.refresh.min_interval={MIN_INTERVAL}")


def test_requests(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> None:
    """Each request has a token and a proof that hold in every point of RFC 9449 §4.3, whatever the client sends."""
    with proxy.connect() as client:
        for target in (b"/a", b"/a?b=c", b"/%2e//x;y?z", b"http://localhost/abs"):
            assert client.get(target, b"DPoP: my.own.proof", b"Connection: dpop, authorization").status == 200
        client.send(request(b"POST", b"/a", body=b"body"))
        assert client.response().status == 200
        client.send(request(b"OPTIONS", b"*"))
        assert client.response().status == 200

    assert provider.minted == 1
    assert len(upstream.requests) == 6


def test_nonce_of_the_api(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> None:
    """The API's nonce costs one request twice, is then remembered, and is not shown to the client."""
    upstream.answer = guarded(provider, upstream, ProofChecker("rs-nonce"))
    with proxy.connect() as client:
        first, second = client.get(), client.get()

    assert (first.status, first.values(b"Proxy-Status")) == (200, [FIELD])
    assert (second.status, second.values(b"Proxy-Status")) == (200, [])
    assert first.values(b"DPoP-Nonce") == second.values(b"DPoP-Nonce") == []
    assert len(upstream.requests) == 3
    assert provider.minted == 1


def test_nonce_that_changes_all_the_time(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> None:
    """An API that is never content is asked twice for each request, and the token is not blamed for it (R95)."""
    upstream.answer = guarded(provider, upstream, ProofChecker(), fickle=True)
    with proxy.connect() as client:
        statuses = [client.get().status for _ in range(3)]

    assert statuses == [401, 401, 401]
    assert len(upstream.requests) == 6
    assert provider.minted == 1


def test_refused_token(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> None:
    """A bound token that the API refuses is replaced by another one, bound to the same key (R93)."""
    before = thumbprint(provider)
    refused = provider.tokens[-1]
    guard = guarded(provider, upstream, ProofChecker())

    def answer(received: Received, sock: socket.socket) -> bool:
        if refused.encode() in received.head:
            sock.sendall(INVALID_TOKEN)
            return True
        return guard(received, sock)

    upstream.answer = answer
    until(lambda: proxy.token_age > MIN_INTERVAL)
    with proxy.connect() as client:
        response = client.get()

    assert (response.status, response.values(b"Proxy-Status")) == (200, [FIELD])
    assert provider.minted == 2
    assert thumbprint(provider) == before


def test_echoed_token(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> None:
    """A bound token that the API repeats does not reach the client (R69)."""

    def answer(received: Received, sock: socket.socket) -> bool:
        (sent,) = received.values(b"Authorization")
        sock.sendall(b"HTTP/1.1 200 OK\r\nX-Echo: " + sent + b"\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n")
        return True

    upstream.answer = answer
    with proxy.connect() as client:
        response = client.get()

    assert response.values(b"X-A") == [b"1"]
    assert provider.tokens[-1].encode() not in response.head


def test_nothing_of_it_is_logged(proxy: Proxy, upstream: Upstream, provider: DemoProvider) -> None:
    """Neither the token nor a proof is in the log or on the admin port (R145)."""
    with proxy.connect() as client:
        assert client.get().status == 200
    (proof,) = upstream.requests[-1].values(b"DPoP")

    shown = proxy.log + proxy.admin("/status")[1].decode() + proxy.admin("/metrics")[1].decode()
    assert provider.tokens[-1] not in shown
    assert proof.decode().rpartition(".")[2] not in shown
