"""The sample API, over real sockets."""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, encode_basic_auth

from proxy.demo import faults
from proxy.demo.api import DemoApi
from proxy.demo.idp import DemoProvider, new_key


def against_api(story: Callable[[DemoProvider, DemoApi, ClientSession], Awaitable[None]]) -> None:
    """Runs the story with a provider and its API up."""

    async def scene() -> None:
        provider = DemoProvider()
        api = DemoApi(provider)
        async with provider.running(), api.running(), ClientSession() as session:
            await story(provider, api, session)

    asyncio.run(scene())


async def mint(provider: DemoProvider, session: ClientSession) -> str:
    credentials = {"Authorization": encode_basic_auth("demo", "demo-secret")}
    async with session.post(
        provider.token_url, data={"grant_type": "client_credentials"}, headers=credentials
    ) as response:
        return str((await response.json())["access_token"])


async def call(session: ClientSession, url: str, *authorization: str, method: str = "GET") -> tuple[int, str | None]:
    """The status, and the challenge if there is one."""
    headers = [("Authorization", line) for line in authorization]
    async with session.request(method, url, headers=headers) as response:
        return response.status, response.headers.get("WWW-Authenticate")


INVALID = (401, 'Bearer error="invalid_token"')


def test_a_token_of_the_provider_opens_it() -> None:
    """A fresh token is accepted, with the scheme in any case, and requests are counted (R65)."""

    async def story(provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        token = await mint(provider, session)
        assert await call(session, f"{api.url}/v1/vehicles", f"Bearer {token}") == (200, None)
        assert await call(session, f"{api.url}/v1/vehicles", f"bearer {token}") == (200, None)
        assert api.requests == 2

    against_api(story)


def test_without_a_token_the_challenge_has_no_error() -> None:
    """No Authorization: 401 with the bare scheme, as RFC 6750 §3.1 says (R70)."""

    async def story(_provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        assert await call(session, f"{api.url}/v1/vehicles") == (401, "Bearer")

    against_api(story)


def test_exactly_one_authorization_line_is_accepted() -> None:
    """Two lines are refused, even with the same valid token in both (R65)."""

    async def story(provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        line = f"Bearer {await mint(provider, session)}"
        assert await call(session, f"{api.url}/v1/vehicles", line, line) == INVALID
        assert await call(session, f"{api.url}/v1/vehicles", line, "Basic eDp5") == INVALID

    against_api(story)


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer x", "Bearer a.b.c", "Basic eDp5", "Bearer \xff.\xff.\xff"])
def test_what_is_not_a_token_is_refused(authorization: str) -> None:
    """Anything that is not a JWT of the provider is an invalid token (R70)."""

    async def story(_provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        assert await call(session, f"{api.url}/v1/vehicles", authorization) == INVALID

    against_api(story)


@pytest.mark.parametrize(
    "fault",
    [
        {"claims": {"exp": int(time.time()) - 1}},
        {"claims": {"nbf": int(time.time()) + 3600}},
        {"claims": {"iss": "https://other.example"}},
        {"header": {"alg": "none"}},
        {"signing_key": new_key()},
    ],
    ids=["expired", "not yet valid", "foreign issuer", "unsigned", "foreign key"],
)
def test_a_token_that_is_not_good_is_refused(fault: dict[str, Any]) -> None:
    """Expired, not valid yet, of another issuer, unsigned, signed by another key: invalid (R90, F20, F24)."""

    async def story(provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        for name, value in fault.items():
            setattr(provider.faults, name, value)
        token = await mint(provider, session)
        assert await call(session, f"{api.url}/v1/vehicles", f"Bearer {token}") == INVALID

    against_api(story)


def test_a_token_whose_key_is_withdrawn_is_refused() -> None:
    """When the key has left the JWKS, its tokens are worth nothing (F21)."""

    async def story(provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        token = await mint(provider, session)
        provider.rotate_keys(keep_old=False)
        assert await call(session, f"{api.url}/v1/vehicles", f"Bearer {token}") == INVALID

    against_api(story)


def test_single_tokens_can_be_refused() -> None:
    """A test makes the API reject one token and accept the next (R93)."""

    async def story(provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        first, second = await mint(provider, session), await mint(provider, session)
        api.refused.add(first)
        assert await call(session, f"{api.url}/v1/vehicles", f"Bearer {first}") == INVALID
        assert await call(session, f"{api.url}/v1/vehicles", f"Bearer {second}") == (200, None)

    against_api(story)


def test_a_fault_answers_in_place_of_the_api() -> None:
    """The API can be made to answer anything, for example 401 without a challenge (R97)."""

    async def story(_provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        api.fault = faults.answer(401, b"{}")
        assert await call(session, f"{api.url}/v1/vehicles") == (401, None)

    against_api(story)


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/v1/vehicles", 200),
        ("HEAD", "/v1/vehicles", 200),
        ("GET", "/v1/vehicles/1", 200),
        ("GET", "/v1/vehicles?page=2", 200),
        ("GET", "/v1/charging-points", 200),
        ("GET", "/v1/vehicles/404", 404),
        ("DELETE", "/v1/vehicles/1", 404),
        ("GET", "/", 404),
        ("GET", "/v1%2Fvehicles", 404),
        ("POST", "/v1/vehicles", 400),
    ],
)
def test_resources(method: str, path: str, status: int) -> None:
    """The API has vehicles and charging points, and nothing else (A11)."""

    async def story(provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        authorization = f"Bearer {await mint(provider, session)}"
        assert await call(session, api.url + path, authorization, method=method) == (status, None)

    against_api(story)


def test_a_created_vehicle_is_echoed() -> None:
    """POST answers 201 with what was sent, its id and its place (R29)."""

    async def story(provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        headers = {"Authorization": f"Bearer {await mint(provider, session)}"}
        async with session.post(f"{api.url}/v1/vehicles", json={"plate": "K-E 1"}, headers=headers) as response:
            created = await response.json()
            assert response.status == 201
            assert response.headers["Location"] == f"/v1/vehicles/{created['id']}"
        assert created["plate"] == "K-E 1"

    against_api(story)


def test_echo_tells_what_arrived() -> None:
    """Method, target byte for byte, header fields in order, the body's digest; the token is masked (R34, R52)."""

    async def story(provider: DemoProvider, api: DemoApi, session: ClientSession) -> None:
        token = await mint(provider, session)
        head = (
            b"PUT /echo/a%2Fb%2e%2e/%7ex?y=%2F+&z=%zz&&=&q=1;r=2 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n"
            b"authorization: Bearer " + token.encode() + b"\r\nx-a: caf\xe9\r\nContent-Length: 4\r\n\r\nbody"
        )
        seen = await send_raw(api, head)
        assert seen == {
            "method": "PUT",
            "target": "/echo/a%2Fb%2e%2e/%7ex?y=%2F+&z=%zz&&=&q=1;r=2",
            "headers": [
                ["Host", "a"],
                ["X-A", "1"],
                ["authorization", "Bearer ***"],
                ["x-a", "caf\xe9"],
                ["Content-Length", "4"],
            ],
            "body": {"sha256": hashlib.sha256(b"body").hexdigest(), "length": 4},
        }

    against_api(story)


async def send_raw(api: DemoApi, request: bytes) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    body = await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
    return json.loads(body)
