import asyncio
import io
import json
import time
from typing import TextIO

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from proxy.core.claims import unverified_times
from proxy.core.grant import Refusal, TokenResponse
from proxy.core.secret import Secret
from proxy.errors import BadJwt, UnknownKey
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.settings import Duration, OAuth, Verify
from proxy.verifier import Verifier

KEY = ECKey.generate_key("P-256", {"kid": "one"})
DOCUMENT = json.dumps({"keys": [KEY.as_dict(private=False)]}).encode()


class Script(Provider):
    """A provider whose key set is what `answer` says."""

    def __init__(self, answer: bytes | Refusal) -> None:
        self.answer = answer
        self.asked = 0

    async def fetch_jwks(self) -> bytes | Refusal:
        self.asked += 1
        return self.answer


def response(key: ECKey = KEY) -> TokenResponse:
    now = int(time.time())
    text = jwt.encode({"alg": "ES256", "kid": key.kid}, {"exp": now + 600}, key, algorithms=["ES256"])
    return TokenResponse(Secret(text), 600, unverified_times(text).exp, None, 0.0)


def verifier(provider: Provider, max_age: float = 900, log: TextIO | None = None) -> Verifier:
    oauth = OAuth(verify=Verify(jwks_max_age=Duration(max_age)))
    return Verifier(oauth, provider, Metrics(), Log(log), clock=time, random=lambda: 0.0)


def test_good_token() -> None:
    """A token that a published key has signed passes, and the keys are kept for the next one (R112)."""
    provider = Script(DOCUMENT)
    judge = verifier(provider)

    async def play() -> None:
        await judge.require(response(), patience=0)
        await judge.require(response(), patience=0)

    asyncio.run(play())

    assert provider.asked == 1
    assert judge.status().keys == 1


def test_foreign_token() -> None:
    """A token that a stranger has signed under a known name is refused at once (R114)."""
    stranger = ECKey.generate_key("P-256", {"kid": "one"})

    with pytest.raises(BadJwt, match="signature"):
        asyncio.run(verifier(Script(DOCUMENT)).require(response(stranger), patience=0))


def test_warnings() -> None:
    """What is wrong with tokens is said once, and once more when it comes back (R114)."""
    log = io.StringIO()
    judge = verifier(Script(DOCUMENT), log=log)
    stranger = ECKey.generate_key("P-256", {"kid": "one"})

    async def play() -> None:
        for key in (stranger, stranger, KEY, stranger):
            await judge.warn(response(key))

    asyncio.run(play())

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("token_not_verified", "The token's signature is wrong.")
    ] * 2


@pytest.mark.parametrize("document", [b"<html>", b'{"keys": []}', b"[]", b'{"keys": [{"kty": "oct", "k": "AA"}]}'])
def test_garbage_in_place_of_keys(document: bytes) -> None:
    """What is no key set is a failed fetch; the last good keys go on serving (R113, F22)."""
    provider = Script(document)
    judge = verifier(provider, max_age=0)

    async def play() -> None:
        with pytest.raises(UnknownKey):
            await judge.require(response(), patience=0)
        assert judge.status().last_error == "invalid_response"
        provider.answer = DOCUMENT
        await judge.require(response(), patience=0)
        provider.answer = document
        await judge.require(response(), patience=0)

    asyncio.run(play())

    assert judge.status().keys == 1
    assert judge.status().last_error == "invalid_response"
