"""The token as clients and providers see it: never without one, never a hammer."""

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, unquote_plus

import pytest

from proxy.demo import faults
from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.idp import TOKEN_PATH, DemoProvider, new_key
from tests.behaviour.running import Backstage, Launcher, Proxy, token_calls, until
from tests.peers import Upstream, request


def test_token_request(proxy: Proxy, provider: DemoProvider) -> None:
    """One POST with a form body, one way of authentication, nothing secret in the URL (R72, R74)."""
    (received,) = provider.received
    (client,) = provider.clients.values()

    assert (received.method, received.path, received.query) == ("POST", TOKEN_PATH, "")
    assert received.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(received.body.decode()) == {"grant_type": ["client_credentials"]}
    scheme, _, blob = received.headers["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(blob).decode()) == ("Basic", f"{client.client_id}:{client.client_secret}")


def test_basic_is_form_encoded(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """Id and secret are form-encoded before base64, as providers decode them (R73)."""
    client = RegisteredClient(client_id="app:1 é", client_secret="p%Q+ /=:é&~")
    provider.clients.clear()
    provider.clients[client.client_id] = client
    launch(upstream)

    _, _, blob = provider.received[-1].headers["Authorization"].partition(" ")
    user, _, password = base64.b64decode(blob).decode("ascii").partition(":")
    assert (unquote_plus(user), unquote_plus(password)) == (client.client_id, client.client_secret)


def test_secret_post(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """client_secret_post puts both into the body, and no Authorization beside them (R74)."""
    (client,) = provider.clients.values()
    provider.clients[client.client_id] = RegisteredClient(
        client_secret=client.client_secret, auth_method="client_secret_post"
    )
    launch(upstream, "oauth.auth_method=client_secret_post")

    form = parse_qs(provider.received[-1].body.decode())
    assert (form["client_id"], form["client_secret"]) == ([client.client_id], [client.client_secret])
    assert "Authorization" not in provider.received[-1].headers


def test_parameters(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """Scope, audience and params are sent once each (R75)."""
    (client,) = provider.clients.values()
    scope = " ".join(sorted(client.scopes))
    launch(upstream, f"oauth.scope={scope}", "oauth.params={tenant: t 1}")

    form = parse_qs(provider.received[-1].body.decode())
    assert form == {"grant_type": ["client_credentials"], "scope": [scope], "tenant": ["t 1"]}


@pytest.mark.parametrize(
    "response",
    [
        {"access_token": "abc\r\nX-Evil: 1"},
        {"access_token": "ab c"},
        {"access_token": "é"},
        {"access_token": ""},
        {"access_token": 123},
        {"access_token": "a" * 1_000_000},
        {"token_type": "mac"},
        {"expires_in": 0},
        {"expires_in": -1},
        {"expires_in": True},
        {"error": "invalid_client"},
    ],
)
def test_unusable_tokens(
    launch: Launcher, upstream: Upstream, provider: DemoProvider, response: dict[str, object]
) -> None:
    """A token that can't be used is not: 503, nothing upstream, its value in no log
    (R67, R70, R76, R77, F9, F10, F11).
    """
    provider.faults.response.update(response)
    proxy = launch(upstream, "oauth.refresh.wait=1s", ready=False)
    with proxy.connect() as client:
        problem = client.get()

    assert problem.status == 503
    assert upstream.requests == []
    assert "X-Evil" not in proxy.log
    assert "aaaaaaaaaa" not in proxy.log


def test_provider_down_at_start(
    launch: Launcher, upstream: Upstream, provider: DemoProvider, backstage: Backstage
) -> None:
    """The proxy starts without its provider, says why it is not ready, and becomes ready with it (R70, R164, F4)."""
    backstage.run(provider.stop())
    proxy = launch(upstream, "oauth.refresh.wait=200ms", ready=False)
    with proxy.connect() as client:
        refused = client.get()
        problem = json.loads(refused.body)

        assert (refused.status, problem["code"]) == (503, "token_unavailable")
        assert int(refused.values(b"Retry-After")[0]) >= 1
        assert proxy.admin("/readyz")[0] == proxy.admin("/startupz")[0] == 503
        assert proxy.admin("/livez")[0] == 200
        assert upstream.requests == []

        backstage.run(provider.start(port=provider.port))
        until(lambda: proxy.is_ready)
        assert proxy.admin("/startupz")[0] == 200
        assert client.get().status == 200


def test_cold_requests_share_one_fetch(
    launch: Launcher, upstream: Upstream, provider: DemoProvider, backstage: Backstage
) -> None:
    """Requests that come before the token wait for one fetch, which no client's end cancels (R85, F2, F16)."""
    gate = backstage.run(make_event())
    provider.faults.token = faults.held(gate, provider.issue_token)
    proxy = launch(upstream, ready=False)
    clients = [proxy.connect() for _ in range(50)]
    for client in clients:
        client.send(request(b"GET", b"/a"))
    until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 50)
    clients.pop(0).sock.close()
    until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 49)
    backstage.run(set_event(gate))

    assert [client.response().status for client in clients] == [200] * 49
    assert token_calls(provider) == 1
    for client in clients:
        client.sock.close()


async def make_event() -> asyncio.Event:
    return asyncio.Event()


async def set_event(event: asyncio.Event) -> None:
    event.set()


def test_bounded_wait(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """A provider that never answers costs every client oauth.refresh.wait, then a 503; all wait for one token request
    (R85, R86, F2).
    """
    provider.faults.token = faults.hang
    proxy = launch(upstream, "oauth.refresh.wait=200ms", "oauth.timeout=2s", ready=False)
    clients = [proxy.connect() for _ in range(20)]
    for client in clients:
        client.send(request(b"GET", b"/a"))
    refused = [client.response() for client in clients]
    for client in clients:
        client.sock.close()

    assert {(response.status, *response.values(b"Retry-After")) for response in refused} == {(503, b"1")}
    assert (token_calls(provider), upstream.requests) == (1, [])
    until(lambda: proxy.metric("thg_proxy_token_requests_total", client="primary", result="timeout") >= 1)


def test_short_lived_tokens(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """Tokens of two seconds are refreshed ahead of their end, by one call each, under steady traffic (R88, R92)."""
    provider.lifetime = 3
    proxy = launch(upstream)
    statuses: set[int] = set()
    with proxy.connect() as client:
        while provider.minted < 5:
            statuses.add(client.get().status)

    assert statuses == {200}
    assert len({received.values(b"Authorization")[0] for received in upstream.requests}) >= 4
    assert token_calls(provider) == provider.minted


def test_outage_is_invisible(
    launch: Launcher, upstream: Upstream, provider: DemoProvider, backstage: Backstage
) -> None:
    """With the provider gone, requests succeed until the token's end, then fail at once, and none is sent expired
    (R89, R90, F3, F4).
    """
    provider.lifetime = 4
    proxy = launch(upstream, "oauth.refresh.wait=100ms")
    backstage.run(provider.stop())
    statuses = []
    with proxy.connect() as client:
        while (status := client.get().status) == 200:
            statuses.append(status)
        expired = proxy.status()["token"]["expires_at"]
        sent = len(upstream.requests)

        assert status == 503
        assert statuses
        assert proxy.admin("/readyz")[0] == 503
        assert proxy.metric("thg_proxy_token_usable") == 0
        assert client.get().status == 503
        assert len(upstream.requests) == sent
        assert expired

        backstage.run(provider.start(port=provider.port))
        until(lambda: proxy.is_ready)
        assert client.get().status == 200


def test_degraded(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """While an outage is covered by a token, readiness says so and stays 200 (R163)."""
    provider.lifetime = 6
    proxy = launch(upstream)
    provider.faults.token = faults.answer(500, b"<html>broken</html>")
    until(lambda: json.loads(proxy.admin("/readyz")[1])["status"] == "degraded")

    assert proxy.admin("/readyz")[0] == 200


def test_upstream_down_is_ready(launch: Launcher) -> None:
    """Readiness does not depend on the upstream (R163)."""
    assert launch("http://127.0.0.1:9").is_ready


def test_rejected_client(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """A client that the provider refuses is one call, not many; the log tells the operator where to look
    (R81, R82, F7).
    """
    provider.clients.clear()
    provider.clients["somebody else"] = RegisteredClient(client_id="somebody else")
    proxy = launch(upstream, ready=False, environment={"THG_CLIENT_ID": "unknown"})
    with proxy.connect() as client:
        answers = [client.get() for _ in range(20)]

    assert {answer.status for answer in answers} == {503}
    assert {json.loads(answer.body)["code"] for answer in answers} == {"client_rejected"}
    assert int(answers[0].values(b"Retry-After")[0]) > 200
    assert token_calls(provider) == 1
    assert "Customer Portal" in proxy.log


def test_verified_token(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """With a JWKS the token is verified, and one that was signed by somebody else is never used
    (R108, R114, F24).
    """
    proxy = launch(upstream, f"oauth.jwks_url={provider.jwks_url}")
    assert proxy.status()["token"]["verification"] == "require"

    provider.faults.signing_key = new_key()
    other = launch(upstream, f"oauth.jwks_url={provider.jwks_url}", "oauth.refresh.wait=200ms", ready=False)
    with other.connect() as client:
        assert client.get().status == 503
    until(lambda: other.metric("thg_proxy_token_requests_total", client="primary", result="rejected_token") >= 1)


def test_rotated_keys(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """A token signed with a key that the JWKS has got since is accepted after one more fetch of it (R112, F21)."""
    provider.lifetime = 3
    proxy = launch(upstream, f"oauth.jwks_url={provider.jwks_url}")
    provider.rotate_keys()
    minted = provider.minted
    with proxy.connect() as client:
        while provider.minted == minted or proxy.status()["token"]["generation"] < 2:
            assert client.get().status == 200


def test_discovery(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """From the issuer alone the endpoints and the keys are found."""
    proxy = launch(upstream, "oauth.token_url=null", f"oauth.issuer={provider.issuer}")

    assert proxy.status()["token"]["verification"] == "require"


def test_refresh_on_request(proxy: Proxy, provider: DemoProvider) -> None:
    """POST /refresh mints a new token."""
    until(lambda: proxy.admin("/refresh", "POST")[0] == 200)

    assert provider.minted == 2


def test_canaries(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """No secret and no token in the log, the metrics, the status or an answer, though the log says all (R145, R146)."""
    (client,) = provider.clients.values()
    proxy = launch(upstream, "log.level=debug", "log.access=all", environment={"PYTHONASYNCIODEBUG": "1"})
    with proxy.connect() as connection:
        answers = [connection.get(b"/a?access_token=query-canary"), connection.get(b"/a#f")]
    shown = [proxy.log, *(proxy.admin(path)[1].decode() for path in ("/status", "/metrics", "/readyz", "/"))]
    shown += [answer.body.decode() for answer in answers]
    blob = base64.b64encode(f"{client.client_id}:{client.client_secret}".encode()).decode()

    for canary in (client.client_secret, blob, *provider.tokens[0].split("."), "query-canary"):
        assert not any(canary in text for text in shown)


def test_load_across_refreshes(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """Twenty clients at once, tokens of a second or two: no request fails while they are replaced (R88, R92)."""
    provider.lifetime = 3
    proxy = launch(upstream)

    def work(_number: int) -> set[int]:
        statuses = set()
        with proxy.connect() as client:
            while provider.minted < 4:
                statuses.add(client.get().status)
        return statuses

    with ThreadPoolExecutor(20) as workers:
        assert set().union(*workers.map(work, range(20))) == {200}
