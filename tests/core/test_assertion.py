import hmac
import json
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from proxy.core.assertion import LIFETIME, Terms, by_private_key, by_secret, signing_key
from proxy.core.client_auth import ClientCredentials
from proxy.core.secret import Secret
from proxy.demo.certificates import CertificateAuthority
from proxy.errors import SecretUnreadable

NOW = 1_800_000_000.6
ISSUER = "https://idp.example/tenant/"
TOKEN_URL = "https://idp.example/token"
TERMS = Terms(audience=ISSUER, issuer=ISSUER, algorithm=None, issued_at=NOW, jti="j-1")

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PLAIN = NoEncryption()
LOCKED = BestAvailableEncryption(b"passphrase")


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8, lock: KeySerializationEncryption = PLAIN) -> str:
    text: str = key.private_bytes(Encoding.PEM, form, lock).decode()
    return text


def public_pem(key: Any) -> str:
    text: str = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return text


def jwk(key: Key, **members: object) -> str:
    return json.dumps({**key.as_dict(private=True), **members})


def client(secret: str, key_id: str | None = None) -> ClientCredentials:
    return ClientCredentials(Secret("me"), Secret(secret), key_id)


def parts(assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, unverified."""
    signed = jws.extract_compact(assertion.encode())
    return dict(signed.protected), json.loads(signed.payload)


RSA_JWK, EC_JWK, ED_JWK = RSAKey(RSA, RSA), ECKey(EC, EC), OKPKey(ED, ED)
GOOD_KEYS = [
    pytest.param(pem(RSA), RSA_JWK, "RS256", id="RSA, PKCS#8"),
    pytest.param(pem(RSA, PrivateFormat.TraditionalOpenSSL), RSA_JWK, "RS256", id="RSA, PKCS#1"),
    pytest.param(pem(EC), EC_JWK, "ES256", id="P-256, PKCS#8"),
    pytest.param(pem(EC, PrivateFormat.TraditionalOpenSSL), EC_JWK, "ES256", id="P-256, SEC1"),
    pytest.param(
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        + pem(EC, PrivateFormat.TraditionalOpenSSL),
        EC_JWK,
        "ES256",
        id="openssl ecparam -genkey",
    ),
    pytest.param(f"\n{pem(ED)}\r\n", ED_JWK, "EdDSA", id="Ed25519 with space around"),
    pytest.param(jwk(RSA_JWK), RSA_JWK, "RS256", id="RSA, JWK"),
    pytest.param(jwk(RSA_JWK, alg="PS384"), RSA_JWK, "PS384", id="RSA, JWK with alg"),
    pytest.param(jwk(EC_JWK, use="sig", key_ops=["sign"]), EC_JWK, "ES256", id="P-256, JWK"),
    pytest.param(jwk(ED_JWK, alg="Ed25519"), ED_JWK, "Ed25519", id="Ed25519, JWK of RFC 9864"),
]


@pytest.mark.parametrize("secret, key, algorithm", GOOD_KEYS)
def test_private_keys(secret: str, key: Key, algorithm: str) -> None:
    """Keys in the usual forms sign with the algorithm that fits them, without a warning (R101)."""
    assertion = by_private_key(client(secret), TERMS)

    assert parts(assertion)[0]["alg"] == algorithm
    with warnings.catch_warnings(action="ignore", category=SecurityWarning):
        assert jws.deserialize_compact(assertion, key, algorithms=[algorithm])


@pytest.mark.parametrize("curve, algorithm", [(ec.SECP384R1(), "ES384"), (ec.SECP521R1(), "ES512")])
def test_curves(curve: ec.EllipticCurve, algorithm: str) -> None:
    """Each curve has its algorithm (RFC 7518 §3.4, R101)."""
    header, _ = parts(by_private_key(client(pem(ec.generate_private_key(curve))), TERMS))

    assert header["alg"] == algorithm


def test_claims() -> None:
    """Issuer and subject are the client, the audience is the issuer as one string, the life is short (R101, R102)."""
    _, claims = parts(by_private_key(client(pem(EC)), TERMS))

    assert claims == {
        "iss": "me",
        "sub": "me",
        "aud": ISSUER,
        "iat": int(NOW),
        "exp": int(NOW) + LIFETIME,
        "jti": "j-1",
    }


def test_audience_of_old() -> None:
    """With the token URL as the audience, for providers that want it, the type is the one of old, too (R102)."""
    header, claims = parts(by_private_key(client(pem(EC)), replace(TERMS, audience=TOKEN_URL)))

    assert (header["typ"], claims["aud"]) == ("JWT", TOKEN_URL)
    assert parts(by_private_key(client(pem(EC)), TERMS))[0]["typ"] == "client-authentication+jwt"


@pytest.mark.parametrize(
    "secret, key_id, kid",
    [
        (pem(EC), None, None),
        (pem(EC), "mine", "mine"),
        (jwk(EC_JWK), None, None),
        (jwk(EC_JWK, kid="its own"), None, "its own"),
        (jwk(EC_JWK, kid="its own"), "mine", "mine"),
    ],
)
def test_key_id(secret: str, key_id: str | None, kid: str | None) -> None:
    """The configured id of the key comes first, then the JWK's own; without either there is none (R101)."""
    assert parts(by_private_key(client(secret, key_id), TERMS))[0].get("kid") == kid


@pytest.mark.parametrize(
    "secret, algorithm",
    [(pem(RSA), "PS256"), (pem(RSA), "RS512"), (pem(EC), "ES256"), (pem(ED), "Ed25519")],
)
def test_configured_algorithm(secret: str, algorithm: str) -> None:
    """The configured algorithm is used, if it fits the key (R101)."""
    header, _ = parts(by_private_key(client(secret), replace(TERMS, algorithm=algorithm)))

    assert header["alg"] == algorithm


@pytest.mark.parametrize(
    "secret, algorithm",
    [
        (pem(RSA), "ES256"),
        (pem(EC), "ES384"),
        (pem(EC), "HS256"),
        (pem(ED), "RS256"),
        (pem(RSA), "none"),
        (jwk(RSA_JWK, alg="PS256"), "RS256"),
    ],
)
def test_algorithm_that_does_not_fit(secret: str, algorithm: str) -> None:
    """An algorithm that the key can't sign with is named by its key in the configuration (R101, R165)."""
    with pytest.raises(SecretUnreadable, match=r"^oauth.assertion.algorithm must fit the key: [A-Z]"):
        by_private_key(client(secret), replace(TERMS, algorithm=algorithm))


SHORT = rsa.generate_private_key(65537, 1024)
BRAINPOOL = ec.generate_private_key(ec.BrainpoolP256R1())
UNREADABLE = "no private key for RS, PS, ES or EdDSA signatures can be read from it"
BAD_KEYS: dict[str, tuple[str, str]] = {
    "nothing": ("", "it is not a private key"),
    "a secret": ("s3cr3t", "it is not a private key"),
    "RSA of 1024 bits": (pem(SHORT), "it is an RSA key of less than 2048 bits"),
    "RSA of 1024 bits, JWK": (jwk(RSAKey(SHORT, SHORT)), "it is an RSA key of less than 2048 bits"),
    "passphrase, PKCS#8": (pem(RSA, lock=LOCKED), "it has a passphrase"),
    "passphrase, SEC1": (pem(EC, PrivateFormat.TraditionalOpenSSL, LOCKED), "it has a passphrase"),
    "public key": (public_pem(RSA), "it is not a private key"),
    "public JWK": (json.dumps(EC_JWK.as_dict(private=False)), UNREADABLE),
    "two keys": (pem(EC) + pem(RSA), "it holds more than one key or certificate"),
    "JWK Set": (json.dumps({"keys": [EC_JWK.as_dict(private=True)]}), UNREADABLE),
    "cut PEM": (pem(EC)[:100], UNREADABLE),
    "cut JWK": (jwk(EC_JWK)[:100], "it is not well-formed JSON"),
    "empty JWK": ("{}", UNREADABLE),
    "odd JWK": ('{"kty": ["EC"]}', UNREADABLE),
    "symmetric JWK": (jwk(OctKey.generate_key()), UNREADABLE),
    "JWK for encryption": (jwk(EC_JWK, use="enc"), UNREADABLE),
    "JWK to verify with": (jwk(EC_JWK, key_ops=["verify"]), UNREADABLE),
    "JWK with another alg": (jwk(EC_JWK, alg="RS256"), UNREADABLE),
    "X25519": (pem(x25519.X25519PrivateKey.generate()), UNREADABLE),
    "Ed448": (pem(ed448.Ed448PrivateKey.generate()), UNREADABLE),
    "secp256k1": (
        pem(ec.generate_private_key(ec.SECP256K1())),
        UNREADABLE,
    ),
    "brainpool": (pem(BRAINPOOL), UNREADABLE),
    "DSA": (pem(dsa.generate_private_key(2048)), UNREADABLE),
    "OpenSSH": (pem(ED, PrivateFormat.OpenSSH), "it is not a private key"),
    "half a surrogate": ("-----BEGIN PRIVATE KEY-----\udce9", UNREADABLE),
    "half a surrogate in a JWK": ("{\udce9", "it is not well-formed JSON"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_bad_keys(name: str) -> None:
    """What can't be used is refused in one sentence, which does not quote it (R101, R145)."""
    secret, reason = BAD_KEYS[name]
    with pytest.raises(SecretUnreadable) as caught:
        signing_key(secret)

    assert caught.value.__cause__ is None
    wanted = "must be one private key, PEM (PKCS#8, PKCS#1, SEC1) or JWK, without passphrase: "
    assert caught.value.detail.startswith(wanted + reason)


def test_certificate_in_place_of_a_key(tmp_path: Path) -> None:
    """A certificate is no key, and one beside the key is one too many (R101)."""
    certificate = CertificateAuthority(tmp_path).ca_file.read_text()

    with pytest.raises(SecretUnreadable, match="it is not a private key"):
        signing_key(certificate)
    with pytest.raises(SecretUnreadable, match="more than one key or certificate"):
        signing_key(pem(EC) + certificate)


@given(
    st.text(max_size=60), st.sampled_from(["", "{", "-----BEGIN PRIVATE KEY-----\n", "-----BEGIN EC PRIVATE KEY-----"])
)
def test_no_text_breaks_the_reader(text: str, start: str) -> None:
    """Any text is a key or a SecretUnreadable (R101)."""
    with pytest.raises(SecretUnreadable):
        signing_key(start + text)


@pytest.mark.parametrize("algorithm, expected", [(None, "HS256"), ("HS512", "HS512")])
@pytest.mark.parametrize("secret", ["short", "p%Q+ /=:é&~", "0123456789abcdef" * 4])
def test_secret_as_a_key(secret: str, algorithm: str | None, expected: str) -> None:
    """client_secret_jwt: the HMAC's key is the secret in UTF-8, however long it is (R101)."""
    assertion = by_secret(client(secret), replace(TERMS, algorithm=algorithm))
    head, _, signature = assertion.rpartition(".")

    assert parts(assertion)[0]["alg"] == expected
    assert signature == hmac_of(secret.encode(), head, expected)
    assert secret not in assertion


def hmac_of(key: bytes, text: str, algorithm: str) -> str:
    digest = hmac.digest(key, text.encode(), f"sha{algorithm[2:]}")
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.mark.parametrize("sign", [by_secret, by_private_key])
def test_algorithm_of_the_other_kind(sign: Callable[[ClientCredentials, Terms], str]) -> None:
    """A secret does not sign with the algorithm of a key, nor a key with that of a secret (RFC 8725 §3.1, R101)."""
    algorithm = "RS256" if sign is by_secret else "HS256"

    fitting = "HS256, HS384, HS512" if sign is by_secret else "RS256, RS384, RS512, PS256, PS384, PS512"

    with pytest.raises(SecretUnreadable) as caught:
        sign(client(pem(RSA)), replace(TERMS, algorithm=algorithm))

    assert caught.value.detail == f"oauth.assertion.algorithm must fit the key: {fitting}"


def test_secret_that_is_no_text() -> None:
    """A secret that can't be written in UTF-8 is no key; it is not shown (R101, R145)."""
    with pytest.raises(SecretUnreadable) as caught:
        by_secret(client("\udce9"), TERMS)

    assert caught.value.__cause__ is None
    assert caught.value.detail == "the client secret can't be the key of an HMAC"
