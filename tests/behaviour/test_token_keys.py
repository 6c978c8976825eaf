"""The provider's signing keys when they change, lag or can't be had: no token that they do not vouch for is sent."""

import pytest

from proxy.demo import faults
from proxy.demo.idp import TOKEN_PATH, DemoProvider, Faults, new_key
from proxy.demo.server import Handler
from tests.behaviour.running import Launch, Launcher, Proxy, until
from tests.peers import Upstream


@pytest.fixture
def launch_verifying(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> Launch:
    """As `launch`, with the keys of `provider`; whatever failed is tried again soon."""

    def start(*overrides: str, ready: bool = True) -> Proxy:
        return launch(
            upstream,
            f"oauth.jwks_url={provider.jwks_url}",
            "oauth.refresh.backoff={initial: 500ms, max: 500ms}",
            "oauth.refresh.wait=100ms",
            "oauth.timeout=2s",
            *overrides,
            ready=ready,
        )

    return start


def calls(provider: DemoProvider, path: str) -> int:
    return sum(received.path == path for received in provider.received)


def results(proxy: Proxy, result: str) -> float:
    return proxy.metric("thg_proxy_token_requests_total", client="primary", result=result)


def bearers(upstream: Upstream) -> list[bytes]:
    """Each token that was sent, in order."""
    sent = (received.values(b"Authorization")[0].removeprefix(b"Bearer ") for received in upstream.requests)
    return list(dict.fromkeys(sent))


def test_lagging_keys(launch_verifying: Launch, provider: DemoProvider, upstream: Upstream) -> None:
    """A token whose key is not published yet waits for it, and no other is minted meanwhile; the old one is used
    (F21a, R112).
    """
    proxy = launch_verifying()
    with proxy.under_load() as load:
        provider.rotate_keys(publish=False)
        proxy.admin("/refresh", "POST")
        until(lambda: proxy.log_lines("token_waits_for_its_key"))
        assert load.next(50) == {200}
        assert len(bearers(upstream)) == 1
        provider.published.append(provider.key)
        until(lambda: proxy.status()["token"]["generation"] == 2)
        load.next()

    assert load.statuses == {200}
    assert bearers(upstream) == [token.encode() for token in provider.tokens]
    assert provider.minted == 2


def test_lagging_keys_at_the_start(launch_verifying: Launch, provider: DemoProvider, upstream: Upstream) -> None:
    """Without another token, requests are refused until the key is published; one token is minted (F21a, F23)."""
    provider.rotate_keys(publish=False)
    proxy = launch_verifying(ready=False)
    until(lambda: proxy.log_lines("token_waits_for_its_key"))
    with proxy.under_load() as load:
        assert load.next(9) == {503}
        assert upstream.requests == []
        provider.published.append(provider.key)
        until(lambda: proxy.is_ready)
        assert load.next() == {200}

    assert provider.minted == 1


# And what the proxy counts for each.
KEY_FAULTS: dict[str, tuple[Handler, str]] = {
    "500": (faults.answer(500, b"<html>broken</html>"), "http_5xx"),
    "HTML": (faults.answer(200, b"<html>"), "invalid_response"),
    "silence": (faults.hang, "timeout"),
    "no keys": (faults.answer(200, b'{"keys": []}'), "invalid_response"),
    "bad keys": (
        faults.answer(200, b'{"keys": [{"kty": "RSA", "n": "AA", "e": "AQAB"}, 1, {"kty": []}]}'),
        "invalid_response",
    ),
    "10 MB": (faults.answer(200, b" " * 10_000_000), "invalid_response"),
    "deep nesting": (faults.answer(200, b"[" * 100_000), "invalid_response"),
}


def test_known_key(launch_verifying: Launch, provider: DemoProvider, upstream: Upstream) -> None:
    """While the keys can't be fetched anew, those that are known serve: a token of theirs is used (F22, R113)."""
    proxy = launch_verifying("oauth.verify.jwks_max_age=200ms", "oauth.timeout=1s")
    with proxy.under_load() as load:
        for fault, result in KEY_FAULTS.values():
            provider.faults.jwks = fault
            failed = fetches(proxy, result)
            until(lambda: fetches(proxy, result) > failed)  # noqa: B023 - called before the next turn
            assert proxy.status()["jwks"]["last_error"] == result
            assert load.next(9) == {200}
        proxy.admin("/refresh", "POST")
        until(lambda: proxy.status()["token"]["generation"] == 2)
        load.next()

    assert load.statuses == {200}
    assert bearers(upstream) == [token.encode() for token in provider.tokens]


def fetches(proxy: Proxy, result: str) -> float:
    return proxy.metric("thg_proxy_jwks_fetches_total", result=result)


def test_unknown_key(launch_verifying: Launch, provider: DemoProvider, upstream: Upstream) -> None:
    """A token of an unknown key is not used while the keys can't be fetched; the old one is, and the new one when they
    come (F23, R112, R113).
    """
    proxy = launch_verifying()
    with proxy.under_load() as load:
        provider.rotate_keys()
        provider.faults.jwks = KEY_FAULTS["500"][0]
        proxy.admin("/refresh", "POST")
        until(lambda: proxy.log_lines("token_waits_for_its_key"))
        assert load.next(50) == {200}
        assert len(bearers(upstream)) == 1
        provider.faults.jwks = None
        until(lambda: proxy.status()["token"]["generation"] == 2)
        load.next()

    assert load.statuses == {200}
    assert provider.minted == 2


def test_no_keys_at_the_start(launch_verifying: Launch, provider: DemoProvider, upstream: Upstream) -> None:
    """Before the keys could be fetched once, no token is used; `warn` uses it and says so (F23, R113)."""
    provider.faults.jwks = KEY_FAULTS["500"][0]
    proxy = launch_verifying(ready=False)
    warning = launch_verifying("oauth.verify.mode=warn")
    until(lambda: proxy.log_lines("token_waits_for_its_key"))
    with proxy.under_load() as load, warning.under_load() as other:
        assert other.next() == {200}
        assert len(bearers(upstream)) == 1
        assert load.next(9) == {503}
        provider.faults.jwks = None
        until(lambda: proxy.is_ready)
        assert load.next() == {200}

    assert warning.log_lines("token_not_verified")


FORGERIES = (
    Faults(signing_key=new_key()),
    Faults(header={"alg": "none"}),
    Faults(claims={"iss": "https://elsewhere.example"}),
    Faults(claims={"aud": ["https://elsewhere.example"]}),
)


def test_forged(launch_verifying: Launch, provider: DemoProvider, upstream: Upstream) -> None:
    """A token that the keys do not vouch for, or that is for somebody else, never leaves: the old one is used, and the
    provider is not hammered for a better one (F24, R108, R110, R114).
    """
    (client,) = provider.clients.values()
    (audience,) = client.audiences
    proxy = launch_verifying(
        f"oauth.verify.issuer={provider.issuer}",
        f"oauth.verify.audience={audience}",
        f"oauth.audience={audience}",
        "oauth.refresh.backoff={initial: 1h, max: 1h}",
    )
    with proxy.under_load() as load:
        for number, forgery in enumerate(FORGERIES, start=1):
            provider.faults = forgery
            proxy.admin("/refresh", "POST")
            until(lambda: results(proxy, "rejected_token") == number)  # noqa: B023 - called before the next turn
            load.next()

    assert load.statuses == {200}
    assert bearers(upstream) == [provider.tokens[0].encode()]
    assert calls(provider, TOKEN_PATH) == 1 + len(FORGERIES)
