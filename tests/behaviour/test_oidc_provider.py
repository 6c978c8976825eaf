"""The proxy with a certified OpenID provider (oidc-provider for Node.js) in front of it, found by its issuer."""

import json
import subprocess
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, RSAKey

from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import TIMEOUT, Upstream
from tests.real_parts import npm_ci, real_part

HERE = Path(__file__).parent / "oidc"
AUDIENCE = "https://api.example"
# Longer than the 32 bytes that an HMAC key must have, with what form-encoding is about; RFC 6749 A.2 has no more.
SECRET = "p%Q+ /=:&~ and another thirty-two characters"
CLIENT = {"client_id": "app:1+2", "client_secret": SECRET, "scope": "fleet.read"}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the provider and the packages that it needs, in the versions of the lock file."""
    return npm_ci(HERE, tmp_path_factory.mktemp("provider"))


class OidcProvider:
    """oidc-provider in a process of its own, for one client; its tokens live for `lifetime` seconds."""

    def __init__(self, program: Path, directory: Path, lifetime: int = 3600, **client: object) -> None:
        argument = json.dumps({"lifetime": lifetime, "clients": [{**CLIENT, **client}]})
        self._output = directory / "provider.out"
        with self._output.open("w") as output, (directory / "provider.err").open("w") as errors:
            self.process = subprocess.Popen(
                [real_part("node", "nodejs"), program / "provider.mjs", argument],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                text=True,
            )
        (self.issuer,) = until(lambda: self._lines[:1], "an issuer")

    @property
    def _lines(self) -> list[str]:
        assert self.process.poll() is None
        return self._output.read_text().splitlines()

    @property
    def results(self) -> list[str]:
        """Of the token requests: `ok`, or the error's code."""
        return self._lines[1:]

    def rotate_keys(self) -> None:
        """Signs with a new key; the old one stays published."""
        assert self.process.stdin is not None
        self.process.stdin.write("rotate\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.communicate(timeout=TIMEOUT)


class Stage:
    """Starts a provider, and proxies that use it."""

    def __init__(self, launch: Launcher, upstream: Upstream, program: Path) -> None:
        self._launch = launch
        self._upstream = upstream
        self._program = program
        self.providers: list[OidcProvider] = []

    def provider(self, lifetime: int = 3600, **client: object) -> OidcProvider:
        provider = OidcProvider(self._program, self._launch.directory, lifetime, **client)
        self.providers.append(provider)
        return provider

    def proxy(self, *overrides: str, secret: str = SECRET, ready: bool = True) -> Proxy:
        """One that demands everything of a token that RFC 9068 promises."""
        return self._launch(
            self._upstream,
            "oauth.token_url=null",
            f"oauth.issuer={self.providers[-1].issuer}",
            f"oauth.resource={AUDIENCE}",
            "oauth.scope=fleet.read",
            "oauth.verify={mode: require, type: at+jwt, audience: 'https://api.example'}",
            "oauth.refresh.backoff={initial: 500ms, max: 500ms}",
            *overrides,
            ready=ready,
            environment={"THG_CLIENT_ID": CLIENT["client_id"], "THG_CLIENT_SECRET": secret},
        )


@pytest.fixture
def stage(launch: Launcher, upstream: Upstream, installed: Path) -> Iterator[Stage]:
    stage = Stage(launch, upstream, installed)
    yield stage
    for provider in stage.providers:
        provider.stop()


def refresh(proxy: Proxy) -> None:
    """A second token, which a replayed assertion would not get."""
    proxy.admin("/refresh", "POST")
    until(lambda: proxy.status()["token"]["generation"] == 2)


def part(jwt: bytes, index: int) -> dict[str, Any]:
    """The header (0) or the claims (1) of a JWT, whatever its signature."""
    decoded: dict[str, Any] = json.loads(urlsafe_b64decode(jwt.split(b".")[index] + b"=="))
    return decoded


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "client_secret_jwt"])
def test_secret(stage: Stage, upstream: Upstream, method: str) -> None:
    """A secret of awkward characters is understood in each way of showing it; the granted scope is shown
    (R71, R73, R74, R75, R106, R110, R111).
    """
    provider = stage.provider(token_endpoint_auth_method=method)
    proxy = stage.proxy(f"oauth.auth_method={method}")
    with proxy.connect() as client:
        assert client.get().status == 200

    assert provider.results == ["ok"]
    assert proxy.status()["token"]["scope"] == "fleet.read"
    (bearer,) = upstream.requests[-1].values(b"Authorization")
    assert part(bearer, 1)["aud"] == AUDIENCE


def rsa_pem() -> tuple[str, dict[str, Any]]:
    key = RSAKey.generate_key(2048)
    return key.as_pem(private=True).decode(), dict(key.as_dict(private=False))


def ec_jwk() -> tuple[str, dict[str, Any]]:
    key = ECKey.generate_key("P-256")
    return json.dumps(key.as_dict(private=True)), dict(key.as_dict(private=False))


@pytest.mark.parametrize("make_key, algorithm", [(rsa_pem, "PS256"), (ec_jwk, None)])
def test_private_key(stage: Stage, tmp_path: Path, make_key: Any, algorithm: str | None) -> None:
    """A private key, PEM or JWK, signs an assertion for each request, which the provider accepts (R101)."""
    private, public = make_key()
    key_file = tmp_path / "key"
    key_file.write_text(private)
    jwks = {"keys": [{**public, "kid": "key-1", "use": "sig"}]}
    provider = stage.provider(token_endpoint_auth_method="private_key_jwt", jwks=jwks)
    proxy = stage.proxy(
        "oauth.auth_method=private_key_jwt",
        f"oauth.assertion.algorithm={algorithm or 'null'}",
        f"oauth.clients=[{{client_id: '{CLIENT['client_id']}', client_secret: {{file: {key_file}}}, key_id: key-1}}]",
    )
    refresh(proxy)

    assert provider.results == ["ok", "ok"]


def test_dpop(stage: Stage, upstream: Upstream) -> None:
    """Tokens that are bound to a key: the provider's nonce is used, the token names the key, and each request proves
    it (R105).
    """
    provider = stage.provider()
    proxy = stage.proxy("oauth.dpop=true")
    refresh(proxy)
    with proxy.connect() as client:
        assert client.get(b"/a?b").status == 200

    (received,) = upstream.requests
    ((scheme, _, token),) = [value.partition(b" ") for value in received.values(b"Authorization")]
    (proof,) = received.values(b"DPoP")
    assert scheme == b"DPoP"
    assert part(token, 1)["cnf"]["jkt"] == ECKey.import_key(part(proof, 0)["jwk"]).thumbprint()
    assert (part(proof, 1)["htm"], part(proof, 1)["htu"]) == ("GET", f"{upstream.url}/a")
    assert provider.results == ["use_dpop_nonce", "ok", "ok"]


def test_wrong_secret(stage: Stage, upstream: Upstream) -> None:
    """A secret that the provider refuses is a 503 that says so, and one token request (F7, R81, R82)."""
    provider = stage.provider()
    proxy = stage.proxy(secret="wrong", ready=False)
    until(lambda: proxy.status()["token"]["last_error"])
    with proxy.under_load() as load:
        load.next()
    with proxy.connect() as client:
        assert json.loads(client.get().body)["code"] == "client_rejected"

    assert (load.statuses, provider.results, upstream.requests) == ({503}, ["invalid_client"], [])


def test_new_keys(stage: Stage, upstream: Upstream) -> None:
    """Keys that change while requests come cost none of them (F21, R112)."""
    provider = stage.provider()
    proxy = stage.proxy()
    with proxy.under_load() as load:
        load.next()
        provider.rotate_keys()
        refresh(proxy)
        load.next()

    assert load.statuses == {200}
    assert provider.results == ["ok", "ok"]
    assert proxy.status()["jwks"]["keys"] == 2


def test_short_lives(stage: Stage) -> None:
    """Tokens of two seconds under traffic: none fails (R88, R92)."""
    provider = stage.provider(lifetime=2)
    proxy = stage.proxy()
    with proxy.under_load() as load:
        until(lambda: len(provider.results) >= 4)

    assert load.statuses == {200}
    assert set(provider.results) == {"ok"}
