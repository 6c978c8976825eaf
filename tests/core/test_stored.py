import json
from math import inf
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.grant import MAX_LIFETIME, MAX_TOKEN, TokenResponse
from proxy.core.secret import Secret
from proxy.core.stored import MAX_DOCUMENT, Shared, StoredToken, decode, encode, newest, store_key

CANARY = "c4n4ry"
TOKEN = {
    "access_token": "a.b-c_d~+/==",
    "expires_in": 3600,
    "exp": 1.7e9,
    "scope": "a b",
    "clock_skew": -3.5,
    "sent_at": 1.6e9,
    "client": "primary",
}
DOCUMENT = {"version": 1, "asked_at": 1.6e9, "used": {"primary": 1.5e9}, "token": TOKEN}

times = st.floats(0, 253402300799)
responses = st.builds(
    TokenResponse,
    st.from_regex(r"[A-Za-z0-9\-._~+/]{1,64}={0,2}", fullmatch=True).map(Secret),
    st.none() | st.floats(0, MAX_LIFETIME, exclude_min=True),
    st.none() | st.floats(-(2**53), 2**53, exclude_min=True, exclude_max=True),
    st.none() | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=64),
    st.floats(-1e11, 1e11),
)
tokens = st.builds(StoredToken, responses, times, st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True))
names = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
known = st.builds(Shared, st.none() | tokens, st.none() | times, st.dictionaries(names, times, max_size=4))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


def document(**changes: object) -> bytes:
    return json.dumps(DOCUMENT | changes).encode()


def with_token(**changes: object) -> bytes:
    return document(token=TOKEN | changes)


def without(members: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key != name}


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@given(known)
@example(Shared())
@example(Shared(StoredToken(TokenResponse(Secret("a" * MAX_TOKEN), None, None, '"' * 1024, 0), 0, "a"), 0))
def test_round_trip(shared: Shared) -> None:
    """What was encoded is decoded to the same, and is small enough for every store."""
    assert decode(encode(shared)) == shared
    assert len(encode(shared)) <= MAX_DOCUMENT


def test_form() -> None:
    """The document is JSON with a version, so that another version of the proxy can tell."""
    assert json.loads(encode(decode(document()))) == DOCUMENT


BAD = {
    "nothing": b"",
    "html": b"<html>",
    "not UTF-8": b'{"version": "\xff"}',
    "no object": b"[]",
    "empty object": b"{}",
    "half": document()[:-20],
    "twice": document() * 2,
    "a member twice": document().replace(b'"version": 1', b'"version": 1, "version": 1'),
    "unknown member": document(more=CANARY),
    "a name that is not UTF-8": document(**{"\ud800": 1}),
    "large": document() + b" " * MAX_DOCUMENT,
    "nested deep": nested(10_000),
    "nested deep inside": document(token=1).replace(b'"token": 1', b'"token": ' + nested(10_000)),
    "no version": json.dumps(without(DOCUMENT, "version")).encode(),
    "version 2": document(version=2),
    "version true": document(version=True),
    "version 1.0": document(version=1.0),
    "version text": document(version="1"),
    "no asked_at": json.dumps(without(DOCUMENT, "asked_at")).encode(),
    "asked_at NaN": document(asked_at=float("nan")),
    "asked_at infinite": document(asked_at=inf),
    "asked_at overflows": document(asked_at=0).replace(b'"asked_at": 0', b'"asked_at": 1e999'),
    "asked_at of 400 digits": document(asked_at=10**400),
    "asked_at of 5000 digits": document(asked_at=0).replace(b'"asked_at": 0', b'"asked_at": ' + b"9" * 5000),
    "asked_at negative": document(asked_at=-1),
    "asked_at in the year 10000": document(asked_at=253402300800),
    "asked_at text": document(asked_at="1600000000"),
    "asked_at true": document(asked_at=True),
    "used list": document(used=[]),
    "used null": document(used=None),
    "used without a time": document(used={"a": CANARY}),
    "used of a bad name": document(used={f"{CANARY} ": 1}),
    "used of too many": document(used={f"c{number}": 1 for number in range(33)}),
    "no used": json.dumps(without(DOCUMENT, "used")).encode(),
    "token text": document(token=CANARY),
    "token list": document(token=[]),
    "token empty": document(token={}),
    "unknown member of the token": with_token(more=CANARY),
    "access_token empty": with_token(access_token=""),
    "access_token null": with_token(access_token=None),
    "access_token with a space": with_token(access_token=f"{CANARY} b"),
    "access_token with a line end": with_token(access_token=f"{CANARY}\n"),
    "access_token with CR LF": with_token(access_token=f"{CANARY}\r\nX: y"),
    "access_token not ASCII": with_token(access_token="tökén"),
    "access_token too long": with_token(access_token="a" * (MAX_TOKEN + 1)),
    "expires_in zero": with_token(expires_in=0),
    "expires_in negative": with_token(expires_in=-1),
    "expires_in a year": with_token(expires_in=365 * 86400),
    "expires_in text": with_token(expires_in="3600"),
    "exp infinite": with_token(exp=inf),
    "exp absurd": with_token(exp=2**53),
    "scope list": with_token(scope=["a"]),
    "scope with a line end": with_token(scope="a\nb"),
    "scope long": with_token(scope="a" * 1025),
    "clock_skew null": with_token(clock_skew=None),
    "clock_skew absurd": with_token(clock_skew=-1e12),
    "sent_at null": with_token(sent_at=None),
    "sent_at negative": with_token(sent_at=-0.5),
    "client empty": with_token(client=""),
    "client with a line end": with_token(client="primary\n"),
    **{f"no {name}": document(token=without(TOKEN, name)) for name in TOKEN},
}


@pytest.mark.parametrize("damaged", BAD.values(), ids=BAD)
def test_damaged(damaged: bytes) -> None:
    """What this version has not written is refused as a whole, and nothing of it is repeated (R145)."""
    with pytest.raises(ValueError, match=r"^is [a-zA-Z0-9 ]+$") as caught:
        decode(damaged)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_size() -> None:
    """A document may have 32 KiB, and who finds a larger one is told so."""
    assert decode(document().ljust(MAX_DOCUMENT)) == decode(document())
    with pytest.raises(ValueError, match=r"^is larger than 32 KiB$"):
        decode(document().ljust(MAX_DOCUMENT + 1))


@given(st.binary() | values.map(json.dumps).map(str.encode))
def test_anything(damaged: bytes) -> None:
    """Whatever is in the store, it is Shared or a ValueError."""
    decoded(damaged)


@given(st.sampled_from([*DOCUMENT, *TOKEN]), values)
def test_any_member(name: str, value: object) -> None:
    """One member may hold anything: what is taken from the document can be written again."""
    if (shared := decoded(document(**{name: value}) if name in DOCUMENT else with_token(**{name: value}))) is not None:
        assert decode(encode(shared)) == shared


@given(st.data())
def test_any_flipped_byte(data: st.DataObject) -> None:
    """A byte that the disk has changed gives Shared or a ValueError, and never a token that is not b64token."""
    damaged = bytearray(document())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if (shared := decoded(bytes(damaged))) is not None and shared.token is not None:
        assert shared.token.response.access_token.reveal().isascii()
        assert not set(shared.token.response.access_token.reveal()) & set(' \r\n\t\0"')


def decoded(damaged: bytes) -> Shared | None:
    try:
        return decode(damaged)
    except ValueError:
        return None


def test_no_token_in_a_repr() -> None:
    """What is shared prints without the token (R146)."""
    assert CANARY not in repr(decode(with_token(access_token=CANARY)))


def token(sent_at: float) -> StoredToken:
    return StoredToken(TokenResponse(Secret("a"), None, None, None, 0.0), sent_at, "primary")


@pytest.mark.parametrize(
    "one, other, both",
    [
        (Shared(), Shared(), Shared()),
        (Shared(token(1), 1), Shared(), Shared(token(1), 1)),
        (Shared(token(1), 3), Shared(token(2), 2), Shared(token(2), 3)),
        (Shared(None, 5), Shared(token(2), 2), Shared(token(2), 5)),
        (Shared(None, 0), Shared(None, None), Shared(None, 0)),
        (Shared(used={"a": 1, "b": 2}), Shared(used={"b": 3}), Shared(used={"a": 1, "b": 3})),
    ],
)
def test_newest(one: Shared, other: Shared, both: Shared) -> None:
    """Of two that know something the later token and the later request count, whoever is named first."""
    assert newest(one, other) == newest(other, one) == both


KIND: dict[str, Any] = {
    "provider": "https://idp.example",
    "client_id": Secret(CANARY),
    "scope": "a",
    "audience": None,
    "resource": None,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": "https://idp.exampl"},
        {"client_id": Secret("other")},
        {"scope": None},
        {"scope": ""},
        {"scope": "a b"},
        {"scope": None, "audience": "a"},
        {"scope": None, "resource": "a"},
        {"provider": 'https://idp.example", "', "client_id": Secret("")},
        {"client_id": Secret("\ud800")},
    ],
    ids=str,
)
def test_another_kind_of_token(changes: dict[str, Any]) -> None:
    """Whatever makes a token another one gives another key, wherever the text of one part ends."""
    assert store_key(**KIND | changes) != store_key(**KIND)


def test_key() -> None:
    """The key is the same in every process, fits everywhere, and the client id can't be read from it (R145)."""
    key = store_key(**KIND)
    assert key == "74394d2480eb86daa11cdfa5080819b1c0154ff994595ee9869a743c4e66d099"
    assert CANARY not in key
