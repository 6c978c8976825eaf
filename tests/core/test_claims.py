import json
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.claims import Jwt, Times, unverified, unverified_times

NOW = 1_800_000_000


def token(payload: object) -> str:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return f"e30.{urlsafe_b64encode(raw).rstrip(b'=').decode()}.c2ln"


def test_times() -> None:
    """The times are read without a key."""
    claims = {"exp": NOW + 3600, "iat": NOW, "nbf": NOW + 0.5, "aud": []}

    assert unverified_times(token(claims)) == Times(exp=NOW + 3600, iat=NOW, nbf=NOW + 0.5)


@pytest.mark.parametrize("value", ["1", True, None, [], 10**400, -(2**53)])
def test_no_number_of_seconds(value: object) -> None:
    """What is not a number of seconds is none (R77)."""
    assert unverified_times(token({"exp": value})) == Times()


@pytest.mark.parametrize(
    "text", ["", "opaque", "a.b", "a.b.c.d", "a.!.c", token(b"[1]"), token(b"[" * 50_000), token(b'{"exp":1,"exp":2}')]
)
def test_no_jwt(text: str) -> None:
    """An opaque token has no times (R78)."""
    assert unverified_times(text) == Times()


def test_what_is_in_it() -> None:
    """Header and claims are read without a key; an opaque token has neither (R78)."""
    assert unverified(token({"aud": ["a"], "n": {"m": 1}})) == Jwt({}, {"aud": ["a"], "n": {"m": 1}})
    assert unverified("opaque") is None
    assert unverified(token({}).replace("e30", "W10")) is None


@given(st.text())
def test_no_token_breaks_it(text: str) -> None:
    """Any text is a token with times, or without."""
    assert isinstance(unverified_times(f"a.{text}.c"), Times)
