import json
import time

import pytest

from proxy.demo import faults
from proxy.demo.idp import DemoProvider, new_key
from proxy.demo.server import Handler
from tests.doctor.reports import Doctor


@pytest.fixture(autouse=True)
def with_keys(doctor: Doctor, provider: DemoProvider) -> None:
    """The keys are known."""
    doctor.settings += [f"oauth.jwks_url={provider.jwks_url}"]


def test_claims(doctor: Doctor) -> None:
    """What decides whether a token is accepted is shown; whose it is, and the token itself, is not."""
    found = doctor("oauth.scope=fleet.read", "oauth.audience=https://api.example").found("claims")
    header, *claims, expiry = found
    assert header.startswith("JWT, alg RS256, kid ")
    assert claims == [
        f"iss {doctor.provider.issuer}",
        "aud https://api.example",
        "scope asked fleet.read",
        "scope granted fleet.read",
    ]
    assert expiry.startswith("expires in 23:59:")
    assert not [line for line in found if "sub" in line or "demo" in line]


def test_less_is_granted(doctor: Doctor, provider: DemoProvider) -> None:
    """A scope that is granted only in part is shown beside the one that was asked for."""
    provider.faults.response = {"scope": "fleet.read"}
    report = doctor("oauth.scope=fleet.read fleet.write")
    assert report.exit_code == 0
    assert report.found("claims")[3:6] == [
        "scope asked fleet.read fleet.write",
        "scope granted fleet.read",
        "scope not granted fleet.write",
    ]


def test_nothing_is_said_of_the_scope(doctor: Doctor, provider: DemoProvider) -> None:
    """A provider that does not name the scope has granted what was asked for (RFC 6749 §5.1)."""
    provider.faults.response = {"scope": None}
    assert "scope granted as asked" in doctor("oauth.scope=fleet.read").found("claims")


def test_opaque(doctor: Doctor, provider: DemoProvider) -> None:
    """Of an opaque token, what is known is shown; that it can't be verified is said with what to do."""
    provider.faults.response = {"access_token": "canary-opaque", "expires_in": None}
    doctor.secrets.append("canary-opaque")
    report = doctor()
    found = report.found("claims")
    assert found[0].startswith("opaque")
    assert found[-1].endswith("assumed: the provider does not say")
    assert "oauth.verify.mode: off" in report.steps["signature"]["cause"]


def test_over(doctor: Doctor, provider: DemoProvider) -> None:
    """A token that has expired when it arrives helps nobody (F12)."""
    provider.faults.claims = {"exp": int(time.time()) - 100}
    report = doctor()
    assert report.steps["claims"]["cause"] == "the token is over when it arrives"
    assert report.steps["claims"]["found"]


def test_words_of_a_token(doctor: Doctor, provider: DemoProvider) -> None:
    """What a token says is shown on one line each, escaped and cut (R151)."""
    provider.faults.claims = {"aud": ["\x1b[2J", "\u202e\n" + "x" * 1000], "iss": {"a": ["b"]}}
    provider.faults.header = {"kid": "\r\n" + "y" * 1000}
    for line in doctor("oauth.verify.mode=off").found("claims"):
        assert line.isprintable()
        assert len(line) <= 256


def other_keys() -> Handler:
    return faults.answer(200, json.dumps({"keys": [new_key().as_dict(private=False)]}).encode())


@pytest.mark.parametrize(
    "jwks, cause",
    [
        (other_keys(), "No key of the provider's JWK Set fits the token."),
        (faults.answer(404), "invalid_response: status 404"),
        (faults.answer(200, b"<html>"), "The JWK Set is not JSON."),
        (faults.answer(200, b'{"keys": []}'), "The JWK Set holds no usable signing key."),
        (faults.answer(302, headers={"Location": "/"}), "invalid_response: status 302, a redirect"),
        (faults.answer(500), "http_5xx: status 500"),
        (faults.hang, "timeout: "),
    ],
)
def test_keys(doctor: Doctor, provider: DemoProvider, jwks: Handler, cause: str) -> None:
    """Keys that can't be had, and keys of somebody else, are told apart (F21, F22)."""
    provider.faults.jwks = jwks
    report = doctor("oauth.timeout=1s")
    assert report.failure("signature")[0].startswith(cause)


def test_key_that_is_not_published_yet(doctor: Doctor, provider: DemoProvider) -> None:
    """Where the keys may lag behind, waiting is named as a remedy, with the URL that was asked (F21a)."""
    provider.rotate_keys(publish=False)
    remedy = doctor().steps["signature"]["next"]
    assert provider.jwks_url in remedy
    assert "five minutes" in remedy


@pytest.mark.parametrize(
    "setting, cause",
    [
        ("oauth.verify.issuer=https://another.example", "The token's claim iss is not what is expected."),
        ("oauth.verify.audience=https://another.example", "The token's claim aud is not what is expected."),
        ("oauth.verify.algorithms=[ES256]", "The token's algorithm is not one of oauth.verify.algorithms."),
    ],
)
def test_expectations(doctor: Doctor, setting: str, cause: str) -> None:
    """A token that the proxy would not use is refused for the same reason (F24)."""
    said, remedy = doctor(setting).failure("signature")
    assert said == cause
    assert "oauth.verify" in remedy


def test_forged(doctor: Doctor, provider: DemoProvider) -> None:
    """A signature by another key of the same name is wrong (F24)."""
    provider.faults.signing_key = new_key()
    assert doctor().steps["signature"]["cause"] == "The token's signature is wrong."


@pytest.mark.parametrize("settings", [["oauth.verify.mode=off"], ["oauth.jwks_url=null"]])
def test_nothing_to_verify_with(doctor: Doctor, settings: list[str]) -> None:
    """Where nothing is verified, that is said."""
    report = doctor(*settings)
    assert report.exit_code == 0
    assert report.found("signature")[0].startswith("not checked: ")


@pytest.mark.parametrize("skew, said", [(-300, "ahead of"), (300, "behind")])
def test_clock(doctor: Doctor, provider: DemoProvider, skew: int, said: str) -> None:
    """A clock that is wrong is told with its direction; the token itself is judged by the provider's clock (F20)."""
    provider.clock = lambda: time.time() + skew
    report = doctor()
    cause = report.steps["clock"]["cause"]
    assert cause.startswith("the clock of this machine is ")
    assert f"s {said} the provider's" in cause
    assert report.steps["clock"]["next"] == "Let NTP set the clock."
    assert report.steps["signature"]["ok"]


def test_small_difference(doctor: Doctor, provider: DemoProvider) -> None:
    """A few seconds harm nobody, and are shown."""
    provider.clock = lambda: time.time() + 5
    (found,) = doctor().found("clock")
    assert found in ("+4 s", "+5 s")
