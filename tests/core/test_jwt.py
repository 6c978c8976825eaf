import json
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.util import int_to_base64

from proxy.core.jwt import Expected, KeySet, parse_jwks, verify
from proxy.errors import BadJwt, BadKeySet, UnknownKey

NOW = 1_800_000_000
ISSUER = "https://idp.example"
EXPECTED = Expected(("RS256", "PS256", "ES256", "EdDSA"), issuer=ISSUER, audience="api", leeway=30)
CLAIMS: dict[str, object] = {"iss": ISSUER, "aud": ["api", "other"], "exp": NOW + 3600, "nbf": NOW, "iat": NOW}

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
STRANGER = ECKey.generate_key("P-256", {"kid": "stranger"})


def published(*keys: Key, **changes: object) -> KeySet:
    return parse_jwks(json.dumps({"keys": [{**key.as_dict(private=False), **changes} for key in keys]}).encode())


def signed(
    key: Key = EC, alg: str = "ES256", header: dict[str, Any] | None = None, claims: Mapping[str, object] = CLAIMS
) -> str:
    kid = {"kid": key.kid} if key.kid else {}
    registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
    return jwt.encode({"alg": alg, **kid, **(header or {})}, dict(claims), key, registry=registry)


def segment(content: object) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


KEYS = published(RSA, EC, ED)


@pytest.mark.parametrize("key, alg", [(RSA, "RS256"), (RSA, "PS256"), (EC, "ES256"), (ED, "Ed25519")])
def test_good_token(key: Key, alg: str) -> None:
    """A token of each listed algorithm is verified by its key (R108)."""
    assert verify(signed(key, alg), KEYS, EXPECTED, NOW) == CLAIMS


def test_old_name_of_ed25519() -> None:
    """`EdDSA` is what most providers still write; verifying it warns of nothing (R108)."""
    with pytest.warns(SecurityWarning):
        token = signed(ED, "EdDSA")

    assert verify(token, KEYS, EXPECTED, NOW) == CLAIMS


def test_header_of_a_token_may_hold_more() -> None:
    """Header parameters that are not registered, long chains of certificates and any `typ` do no harm (R109)."""
    token = signed(header={"typ": "at+jwt", "pi.atm": "1", "x5c": ["A" * 4000]})

    assert verify(token, KEYS, EXPECTED, NOW) == CLAIMS


@pytest.mark.parametrize(
    "wanted, typ, accepted",
    [
        ("at+jwt", "at+jwt", True),
        ("at+jwt", "AT+JWT", True),
        ("at+jwt", "application/at+jwt", True),
        ("application/at+jwt", "at+jwt", True),
        ("at+jwt", "JWT", False),
        ("at+jwt", "dpop+jwt", False),
        ("at+jwt", "text/at+jwt", False),
        ("at+jwt", "", False),
        ("JWT", "JWT", True),
        ("JWT", "at+jwt", False),
        (None, "JWT", True),
        (None, "anything", True),
    ],
)
def test_type(wanted: str | None, typ: str, accepted: bool) -> None:
    """With a type configured, a token of another kind is refused; media types are compared as such (R111)."""
    expected = replace(EXPECTED, type=wanted)
    token = signed(header={"typ": typ})

    if accepted:
        assert verify(token, KEYS, expected, NOW) == CLAIMS
    else:
        with pytest.raises(BadJwt, match=r"oauth\.verify\.type"):
            verify(token, KEYS, expected, NOW)


@pytest.mark.parametrize("header", [{}, {"typ": None}, {"typ": ["at+jwt"]}, {"typ": 1}])
def test_type_that_is_no_text(header: dict[str, Any]) -> None:
    """A token without a type, or with one that is no text, is not of the configured type (R111)."""
    token = segment({"alg": "ES256", "kid": "ec"} | header) + "." + segment(CLAIMS) + ".AA"

    with pytest.raises(BadJwt, match=r"oauth\.verify\.type"):
        verify(token, KEYS, replace(EXPECTED, type="at+jwt"), NOW)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(segment({"alg": "none"}) + "." + segment(CLAIMS) + ".", id="alg none"),
        pytest.param(segment({"alg": "none", "kid": "ec"}) + "." + segment(CLAIMS) + ".AA", id="alg none with kid"),
        pytest.param(signed(RSA, "RS512"), id="not listed"),
        pytest.param(signed(header={"crit": ["b64"], "b64": True}), id="crit known to the library"),
        pytest.param(segment({"alg": "ES256", "crit": ["bork"]}) + "." + segment(CLAIMS) + ".AA", id="crit unknown"),
        pytest.param(segment({"alg": ["ES256"]}) + "." + segment(CLAIMS) + ".AA", id="alg no text"),
        pytest.param(segment({"alg": "RS256", "kid": "ec"}) + "." + segment(CLAIMS) + ".AA", id="no signature"),
        pytest.param(signed(STRANGER, header={"kid": "ec"}), id="signed with a foreign key"),
        pytest.param(signed()[:-6] + "AAAAAA", id="signature changed"),
    ],
)
def test_bad_signature(token: str) -> None:
    """`none`, algorithms off the list, extensions, and foreign signatures are refused (R108, R109, F24)."""
    with pytest.raises(BadJwt):
        verify(token, KEYS, EXPECTED, NOW)


SENTENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "The token is not a JWT. Opaque tokens need oauth.verify.mode: off.": ("opaque", {}),
    "The token's header is not a JSON object.": (f"{segment(['alg'])}.{segment(CLAIMS)}.AA", {}),
    "The token's type is not oauth.verify.type.": (signed(), {"type": "at+jwt"}),
    "The token asks for an extension of JWS.": (signed(header={"crit": ["b64"], "b64": True}), {}),
    "The token's algorithm is not one of oauth.verify.algorithms.": (signed(RSA, "RS512"), {}),
    "No key of the provider's JWK Set fits the token.": (signed(header={"kid": "new"}), {}),
    "The token's signature is wrong.": (signed(STRANGER, header={"kid": "ec"}), {}),
    "The token's payload is not a JSON object.": (
        jws.serialize_compact({"alg": "ES256", "kid": "ec"}, b"[1]", EC),
        {},
    ),
    "The token has no claim exp.": (signed(claims={"iss": ISSUER, "aud": "api"}), {}),
    "The token's claim aud is not what is expected.": (signed(), {"audience": "another"}),
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_what_is_wrong_with_a_token(sentence: str) -> None:
    """The log says in our words what is wrong, and which key of the configuration to look at (R145)."""
    token, changes = SENTENCES[sentence]

    with pytest.raises(BadJwt) as caught:
        verify(token, KEYS, replace(EXPECTED, **changes), NOW)

    assert caught.value.detail == sentence


@pytest.mark.parametrize("algorithms, is_listed", [(("EdDSA",), True), (("Ed25519",), True), (("ES256",), False)])
def test_new_name_of_ed25519(algorithms: tuple[str, ...], is_listed: bool) -> None:
    """A list with either name has the algorithm on it (R108, RFC 9864)."""
    expected = replace(EXPECTED, algorithms=algorithms)

    if is_listed:
        assert verify(signed(ED, "Ed25519"), KEYS, expected, NOW) == CLAIMS
    else:
        with pytest.raises(BadJwt):
            verify(signed(ED, "Ed25519"), KEYS, expected, NOW)


def test_public_key_as_a_secret() -> None:
    """HS256 over the public key is refused, whatever the list says (R108)."""
    secret = OctKey.import_key(segment(RSA.as_pem(private=False)))
    token = jwt.encode({"alg": "HS256", "kid": "rsa"}, CLAIMS, secret)

    with pytest.raises(BadJwt):
        verify(token, KEYS, Expected(("HS256", "none"), None, None, 0), NOW)


def test_algorithm_matches_the_key() -> None:
    """A key that names its algorithm verifies no other (R108)."""
    keys = published(RSA, alg="PS256")

    assert verify(signed(RSA, "PS256"), keys, EXPECTED, NOW) == CLAIMS
    with pytest.raises(BadJwt):
        verify(signed(RSA, "RS256"), keys, EXPECTED, NOW)


def test_key_that_a_token_brings_along_is_ignored() -> None:
    """`jwk` and `jku` in a header are nothing to go by (R109)."""
    header = {"jwk": STRANGER.as_dict(private=False), "jku": "https://evil.example/jwks"}

    with pytest.raises(UnknownKey):
        verify(signed(STRANGER, header=header), KEYS, EXPECTED, NOW)


@pytest.mark.parametrize("kid", ["../../etc/passwd", "new", "", "ec "])
def test_unknown_kid(kid: str) -> None:
    """An id that no key has is told apart from a bad signature: a newer set may have it (R109, R112, F21)."""
    with pytest.raises(UnknownKey):
        verify(signed(header={"kid": kid}), KEYS, EXPECTED, NOW)


def test_kid_that_is_no_text() -> None:
    """A token whose `kid` is not a text is no error of ours (R109)."""
    token = segment({"alg": "ES256", "kid": {"a": 1}}) + "." + segment(CLAIMS) + ".AA"

    with pytest.raises(BadJwt):
        verify(token, KEYS, EXPECTED, NOW)


def test_keys_without_an_id() -> None:
    """A token without `kid` is tried with every key of its type, one with `kid` with keys that have none (R112)."""
    nameless = ECKey.import_key({k: v for k, v in EC.as_dict(private=True).items() if k != "kid"})
    other = ECKey.generate_key("P-256")

    assert verify(signed(nameless), published(STRANGER, EC), EXPECTED, NOW) == CLAIMS
    assert verify(signed(EC), published(other, nameless), EXPECTED, NOW) == CLAIMS
    with pytest.raises(UnknownKey):
        verify(signed(nameless), published(STRANGER), EXPECTED, NOW)


def test_two_keys_of_one_id() -> None:
    """Every key of an id is tried, not only the first (R113)."""
    twin = ECKey.generate_key("P-256", {"kid": "ec"})

    assert verify(signed(EC), published(twin, EC), EXPECTED, NOW) == CLAIMS


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://idp.example/"},
        {"iss": "idp"},
        {"iss": [ISSUER]},
        {"iss": None},
        {"aud": "ap"},
        {"aud": "xapi"},
        {"aud": []},
        {"aud": None},
        {"aud": {"api": 1}},
        {"exp": NOW - 31},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"nbf": NOW + 31},
        {"iat": NOW + 31},
    ],
)
def test_bad_claims(claims: dict[str, object]) -> None:
    """Issuer and audience are compared as they are, and times with the leeway (R110, F24)."""
    with pytest.raises(BadJwt) as caught:
        verify(signed(claims=CLAIMS | claims), KEYS, EXPECTED, NOW)

    assert not isinstance(caught.value, UnknownKey)


@pytest.mark.parametrize("name", ["iss", "aud", "exp"])
def test_missing_claims(name: str) -> None:
    """What is expected must be there (R110)."""
    with pytest.raises(BadJwt, match=f"no claim {name}"):
        verify(signed(claims={key: value for key, value in CLAIMS.items() if key != name}), KEYS, EXPECTED, NOW)


@pytest.mark.parametrize("claims", [{"exp": NOW - 29}, {"nbf": NOW + 29}, {"iat": NOW + 29}, {"aud": "api"}])
def test_leeway(claims: dict[str, object]) -> None:
    """Clocks may differ by the leeway (R110)."""
    assert verify(signed(claims=CLAIMS | claims), KEYS, EXPECTED, NOW) == CLAIMS | claims


def test_nothing_expected() -> None:
    """Without a configured issuer and audience these are not looked at; Hydra sends an empty `aud` (R110)."""
    token = signed(claims=CLAIMS | {"aud": [], "iss": "anybody"})

    assert verify(token, KEYS, Expected(("ES256",), None, None, 30), NOW)["aud"] == []


@pytest.mark.parametrize(
    "token",
    [
        "opaque",
        "",
        "a.b.c",
        "..",
        "a.b",
        "\udce9.b.c",
        "é.é.é",
        segment(["alg"]) + "." + segment(CLAIMS) + ".AA",
        segment("alg") + "." + segment(CLAIMS) + ".AA",
        segment({}) + "." + segment(CLAIMS) + ".AA",
        segment(b"[" * 5000) + "." + segment(CLAIMS) + ".AA",
        segment({"alg": "ES256", "x": "y" * 10_000}) + "." + segment(CLAIMS) + ".AA",
        segment({"alg": "ES256"}) + "." + "A" * 200_000 + ".AA",
    ],
)
def test_no_jwt(token: str) -> None:
    """What is no JWT is refused where one is wanted (R78, R109)."""
    with pytest.raises(BadJwt) as caught:
        verify(token, KEYS, EXPECTED, NOW)

    assert caught.value.__cause__ is None


@pytest.mark.parametrize("payload", [b"[1]", b"[" * 50_000, b"\xff", b'{"exp":1,"exp":2}', b"", b"1"])
def test_payload_that_is_no_object(payload: bytes) -> None:
    """A payload that is not one JSON object is refused, though its signature is good (R78)."""
    token = jws.serialize_compact({"alg": "ES256", "kid": "ec"}, payload, EC)

    with pytest.raises(BadJwt):
        verify(token, KEYS, EXPECTED, NOW)


@given(st.text(), st.text())
def test_no_token_breaks_the_verifier(header: str, payload: str) -> None:
    """Any header and payload is a bad token, and nothing worse (R109)."""
    for token in (header, f"{header}.{payload}.", f"{segment(header.encode('utf-8', 'replace'))}.{payload}.AA"):
        with pytest.raises(BadJwt):
            verify(token, KEYS, EXPECTED, NOW)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
header_fields = st.fixed_dictionaries(
    {"alg": st.just("ES256") | json_values},
    optional=dict.fromkeys(("kid", "crit", "b64", "typ", "jwk", "jku", "x5c", "zip"), json_values),
)


@settings(max_examples=50)
@given(json_values | header_fields, json_values)
def test_no_json_breaks_the_verifier(header: object, payload: object) -> None:
    """Any JSON in the place of header and payload is a bad token, and nothing worse (R109)."""
    token = f"{segment(header)}.{segment(payload)}.AA"

    with pytest.raises(BadJwt):
        verify(token, KEYS, EXPECTED, NOW)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"kty": "RSA"},
        {"kty": "RSA", "n": "", "e": ""},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "n": 1, "e": None},
        {"kty": "RSA", "n": "AQAB" * 10_000, "e": "A" * 10_000},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": [], "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
        {"kty": "OKP", "crv": {}, "x": "AA"},
        {"kty": "oct", "k": "AAAA"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
        {"kty": []},
        {**EC.as_dict(private=False), "use": "enc"},
        {**EC.as_dict(private=False), "use": ["sig"]},
        {**EC.as_dict(private=False), "kid": 1},
        {**EC.as_dict(private=False), "key_ops": ["sign"]},
        {
            "kty": "RSA",
            "n": int_to_base64(generate_private_key(65537, 1024).public_key().public_numbers().n),
            "e": "AQAB",
        },
        None,
        "key",
        [],
    ],
)
def test_bad_key_does_not_spoil_the_set(entry: object) -> None:
    """A key that is malformed, short, symmetric or not for signatures is left out, silently (R108, R113)."""
    document = json.dumps({"keys": [entry, STRANGER.as_dict(private=False), entry]}).encode()

    with warnings.catch_warnings(record=True, action="always") as said:
        assert [key.kid for key in parse_jwks(document).keys] == ["stranger"]
    assert not said


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": null}',
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [1]}',
        b'{"keys": [], "keys": []}',
        b"[" * 100_000,
        b"\xff",
        b"\xef\xbb\xbf{}",
    ],
)
def test_bad_key_set(document: bytes) -> None:
    """A document without one usable key is no key set: the last good one is kept (R113, F22)."""
    with pytest.raises(BadKeySet):
        parse_jwks(document)


@pytest.mark.parametrize(
    "document, sentence",
    [
        (b"<html>", "The JWK Set is not JSON."),
        (b"{}", "The JWK Set has no list of keys."),
        (b'{"keys": []}', "The JWK Set holds no usable signing key."),
    ],
)
def test_what_is_wrong_with_a_key_set(document: bytes, sentence: str) -> None:
    """The log says in our words why a key set is not used."""
    with pytest.raises(BadKeySet) as caught:
        parse_jwks(document)

    assert caught.value.detail == sentence


def test_number_of_keys_is_bounded() -> None:
    """A set of very many keys does not cost as many verifications (R113)."""
    entry = EC.as_dict(private=False)

    assert len(parse_jwks(json.dumps({"keys": [entry] * 1000}).encode()).keys) == 64


@settings(max_examples=30)
@given(st.lists(json_values | st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid"]), json_values)))
def test_no_key_set_breaks_the_parser(entries: list[object]) -> None:
    """Any JSON in the place of keys is a bad key set, and nothing worse (R113)."""
    with pytest.raises(BadKeySet):
        parse_jwks(json.dumps({"keys": entries}).encode())
