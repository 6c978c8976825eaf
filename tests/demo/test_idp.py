"""The provider as a client sees it, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, encode_basic_auth, web
from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError
from joserfc.jwk import KeySet

from proxy.demo import faults
from proxy.demo.authorization import Client
from proxy.demo.idp import OMIT, DemoProvider, Faults, new_key

GRANT = {"grant_type": "client_credentials"}


def credentials(secret: str) -> dict[str, str]:
    return {"Authorization": encode_basic_auth("demo", secret)}


CREDENTIALS = credentials("demo-secret")


@asynccontextmanager
async def talking_to(provider: DemoProvider) -> AsyncIterator[ClientSession]:
    async with provider.running(), ClientSession(provider.url) as session:
        yield session


def against(provider: DemoProvider, story: Callable[[ClientSession], Awaitable[None]]) -> None:
    """Runs the story with the provider up."""

    async def scene() -> None:
        async with talking_to(provider) as session:
            await story(session)

    asyncio.run(scene())


async def token_response(session: ClientSession, **parameters: str) -> dict[str, Any]:
    async with session.post("/oauth2/token", data=GRANT | parameters, headers=CREDENTIALS) as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
        return answer


async def key_set(session: ClientSession) -> KeySet:
    async with session.get("/.well-known/jwks.json") as response:
        return KeySet.import_key_set(await response.json())


def test_the_token_response_is_hydras() -> None:
    """86399 seconds of a day, a lower-case bearer, an empty scope, no refresh token, not to be stored (R76, R77)."""
    provider = DemoProvider()

    async def story(session: ClientSession) -> None:
        async with session.post("/oauth2/token", data=GRANT, headers=CREDENTIALS) as response:
            answer = await response.json()
            assert response.headers["Content-Type"] == "application/json;charset=UTF-8"
            assert response.headers["Cache-Control"] == "no-store"
        assert answer.pop("access_token") == provider.tokens[-1]
        assert answer == {"expires_in": 86399, "scope": "", "token_type": "bearer"}

    against(provider, story)


def test_the_token_is_hydras_jwt() -> None:
    """RS256 with typ JWT and a kid of the JWKS, and the claims that Hydra makes (R76)."""
    provider = DemoProvider(lifetime=60, clock=lambda: 1_000_000.5)

    async def story(session: ClientSession) -> None:
        answer = await token_response(session, scope="fleet.read", audience="https://api.example")
        decoded = jwt.decode(answer["access_token"], await key_set(session), algorithms=["RS256"])
        assert decoded.header == {"alg": "RS256", "typ": "JWT", "kid": provider.key.kid}
        assert decoded.claims.pop("jti")
        assert decoded.claims == {
            "iss": provider.issuer,
            "sub": "demo",
            "aud": ["https://api.example"],
            "client_id": "demo",
            "exp": 1_000_060,
            "iat": 1_000_000,
            "nbf": 1_000_000,
            "scp": ["fleet.read"],
            "ext": {},
        }
        assert answer["expires_in"] == 59

    against(provider, story)


def test_the_answer_is_dated_by_the_providers_clock() -> None:
    """A provider whose clock is wrong says so in Date, as a real one does (F20)."""

    async def story(session: ClientSession) -> None:
        async with session.get("/.well-known/jwks.json") as response:
            assert response.headers["Date"] == "Mon, 12 Jan 1970 13:46:40 GMT"

    against(DemoProvider(clock=lambda: 1_000_000.5), story)


def test_errors_are_json_and_not_stored() -> None:
    """A refusal is JSON with an RFC 6749 code, 401 with a challenge for a client that failed to prove itself (R81)."""

    async def story(session: ClientSession) -> None:
        async with session.post("/oauth2/token", data=GRANT, headers=credentials("wrong")) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Basic ")
            assert response.headers["Cache-Control"] == "no-store"
            assert (await response.json())["error"] == "invalid_client"

    against(DemoProvider(), story)


def test_both_authentication_methods_at_once_are_refused() -> None:
    """Basic and the body together are invalid_client, and the description names the registered method (R74)."""

    async def story(session: ClientSession) -> None:
        both = GRANT | {"client_id": "demo", "client_secret": "demo-secret"}
        async with session.post("/oauth2/token", data=both, headers=CREDENTIALS) as response:
            answer = await response.json()
            assert (response.status, answer["error"]) == (401, "invalid_client")
            assert "client_secret_basic" in answer["error_description"]

    against(DemoProvider(), story)


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"])
def test_discovery_tells_the_endpoints(path: str) -> None:
    """Both metadata documents name the issuer, the token endpoint and the JWKS (R106)."""
    provider = DemoProvider()

    async def story(session: ClientSession) -> None:
        async with session.get(path) as response:
            metadata = await response.json()
        assert metadata["issuer"] == provider.issuer
        assert metadata["token_endpoint"] == provider.token_url
        assert metadata["jwks_uri"] == provider.jwks_url

    against(provider, story)


@pytest.mark.parametrize(
    "method, path, status", [("GET", "/oauth2/token", 405), ("POST", "/.well-known/jwks.json", 405), ("GET", "/", 404)]
)
def test_other_methods_and_paths_do_not_exist(method: str, path: str, status: int) -> None:
    """A token is asked for with POST, everything else is read with GET (R72)."""

    async def story(session: ClientSession) -> None:
        async with session.request(method, path) as response:
            assert response.status == status

    against(DemoProvider(), story)


def test_what_arrives_is_kept() -> None:
    """A test can see each request: method, path, query, header fields, body (R72)."""
    provider = DemoProvider()

    async def story(session: ClientSession) -> None:
        await token_response(session)
        await key_set(session)
        token, keys = provider.received
        assert (token.method, token.path, token.query) == ("POST", "/oauth2/token", "")
        assert token.headers["content-type"] == "application/x-www-form-urlencoded"
        assert token.body == b"grant_type=client_credentials"
        assert keys.path == "/.well-known/jwks.json"
        assert (provider.minted, provider.requests) == (1, 2)

    against(provider, story)


def test_a_changed_client_counts_from_the_next_request() -> None:
    """A secret is rotated, and a client deleted, while the provider runs (F7, F17)."""
    provider = DemoProvider(Client())

    async def story(session: ClientSession) -> None:
        await token_response(session)
        provider.clients["demo"].client_secret = "rotated"
        async with session.post("/oauth2/token", data=GRANT, headers=CREDENTIALS) as response:
            assert response.status == 401
        async with session.post("/oauth2/token", data=GRANT, headers=credentials("rotated")) as response:
            assert response.status == 200
        del provider.clients["demo"]
        async with session.post("/oauth2/token", data=GRANT, headers=credentials("rotated")) as response:
            assert response.status == 401

    against(provider, story)


def test_rotated_keys_sign_from_the_next_token_on() -> None:
    """The JWKS shows the old and the new key, or the new one alone (F21)."""
    provider = DemoProvider()

    async def story(session: ClientSession) -> None:
        old = (await token_response(session))["access_token"]
        provider.rotate_keys()
        new = (await token_response(session))["access_token"]
        both = await key_set(session)
        for token in (old, new):
            jwt.decode(token, both, algorithms=["RS256"])
        provider.rotate_keys(keep_old=False)
        with pytest.raises(InvalidKeyIdError):
            jwt.decode(new, await key_set(session), algorithms=["RS256"])

    against(provider, story)


def test_a_jwks_can_lag() -> None:
    """The new key signs before the JWKS shows it (F21a)."""
    provider = DemoProvider()

    async def story(session: ClientSession) -> None:
        provider.rotate_keys(publish=False)
        token = (await token_response(session))["access_token"]
        with pytest.raises(InvalidKeyIdError):
            jwt.decode(token, await key_set(session), algorithms=["RS256"])
        provider.published.append(provider.key)
        jwt.decode(token, await key_set(session), algorithms=["RS256"])

    against(provider, story)


def test_members_of_the_answer_are_replaced_or_left_out() -> None:
    """Any JSON value can stand for a member, `expires_in` and `access_token` among them (F9, F10, F11)."""
    provider = DemoProvider()
    provider.faults.response = {"expires_in": "3600", "access_token": "a\r\nb", "token_type": OMIT, "scope": None}

    async def story(session: ClientSession) -> None:
        assert await token_response(session) == {"expires_in": "3600", "access_token": "a\r\nb", "scope": None}
        provider.faults = Faults()
        assert (await token_response(session))["token_type"] == "bearer"

    against(provider, story)


def test_header_and_claims_of_the_token_are_replaced_or_left_out() -> None:
    """A wrong issuer or audience, a token that has expired already, one without kid (F12, F24)."""
    provider = DemoProvider()
    provider.faults.header = {"kid": OMIT}
    provider.faults.claims = {"iss": "https://other", "aud": ["x"], "exp": 1}

    async def story(session: ClientSession) -> None:
        token = (await token_response(session))["access_token"]
        decoded = jwt.decode(token, provider.key, algorithms=["RS256"])
        assert decoded.header == {"alg": "RS256", "typ": "JWT"}
        assert (decoded.claims["iss"], decoded.claims["aud"], decoded.claims["exp"]) == ("https://other", ["x"], 1)

    against(provider, story)


def test_a_foreign_key_signs_under_a_known_kid() -> None:
    """The token names a key of the JWKS, and its signature is another one's (F24, R114)."""
    provider = DemoProvider()
    provider.faults.signing_key = new_key()

    async def story(session: ClientSession) -> None:
        token = (await token_response(session))["access_token"]
        with pytest.raises(BadSignatureError):
            jwt.decode(token, await key_set(session), algorithms=["RS256"])

    against(provider, story)


def test_a_token_can_be_unsigned() -> None:
    """`alg: none` leaves the signature empty (F24, R108)."""
    provider = DemoProvider()
    provider.faults.header = {"alg": "none"}

    async def story(session: ClientSession) -> None:
        token = (await token_response(session))["access_token"]
        assert token.count(".") == 2
        assert token.endswith(".")

    against(provider, story)


@pytest.mark.parametrize(
    "fault, method, path",
    [
        ("token", "POST", "/oauth2/token"),
        ("jwks", "GET", "/.well-known/jwks.json"),
        ("discovery", "GET", "/.well-known/openid-configuration"),
    ],
)
def test_a_fault_answers_in_place_of_the_provider(fault: str, method: str, path: str) -> None:
    """Each endpoint can be made to answer anything, and heals with new Faults (F5, F6, F13, F22)."""
    provider = DemoProvider()
    setattr(provider.faults, fault, faults.answer(429, b"<html>", {"Retry-After": "120"}))

    async def ask(session: ClientSession) -> ClientResponse:
        return await session.request(method, path, data=GRANT if method == "POST" else None, headers=CREDENTIALS)

    async def story(session: ClientSession) -> None:
        async with await ask(session) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "120")
            assert await response.read() == b"<html>"
        provider.faults = Faults()
        async with await ask(session) as response:
            assert response.status == 200
        assert len(provider.received) == 2

    against(provider, story)


def test_a_fault_may_give_the_providers_own_answer_later() -> None:
    """Two answers can leave out of order: the first is held back until the second has been given (F1, F18)."""
    provider = DemoProvider()

    async def story(session: ClientSession) -> None:
        arrived, gate = asyncio.Event(), asyncio.Event()
        held = faults.held(gate, provider.issue_token)

        async def fault(request: web.BaseRequest) -> web.StreamResponse:
            arrived.set()
            return await held(request)

        provider.faults.token = fault
        async with asyncio.TaskGroup() as group:
            first = group.create_task(token_response(session))
            await arrived.wait()
            provider.faults = Faults()
            second = await token_response(session)
            gate.set()
        assert [second["access_token"], first.result()["access_token"]] == list(provider.tokens)

    against(provider, story)
