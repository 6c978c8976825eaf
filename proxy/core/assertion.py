"""A client's assertion: a short-lived JWT in place of a secret, signed anew for each request (RFC 7523 §2.2, §3)."""

import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from authlib.oauth2.rfc7523 import private_key_jwt_sign
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey, import_key

from proxy.core.client_auth import HMAC_ALGORITHMS, ClientCredentials
from proxy.core.document import json_object
from proxy.errors import SecretUnreadable

# Seconds. Providers remember each `jti` for as long, and many refuse a longer life.
LIFETIME = 60
MIN_RSA_BITS = 2048

_RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
# RFC 7518 §3.4, RFC 8037 §3.1, RFC 9864 §2.2
_BY_CURVE = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "Ed25519": ("EdDSA", "Ed25519")}

_PEM_LABEL = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----")
# RFC 7468 §10 (PKCS#8), RFC 8017 A.1.2 (PKCS#1), RFC 5915 §4 (SEC1)
_PRIVATE_KEYS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
# What `openssl ecparam -genkey` writes in front of a key.
_CURVE_NAME = "EC PARAMETERS"
_UNREADABLE = "no private key for RS, PS, ES or EdDSA signatures can be read from it"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an assertion says besides who the client is.

    `audience`: the provider. `issuer`: what the provider calls itself, None where that is not known. `algorithm`: None:
    the first that fits the key. `issued_at`: Unix seconds, by the provider's clock. `jti`: a text of no other one.
    """

    audience: str
    issuer: str | None
    algorithm: str | None
    issued_at: float
    jti: str


def by_secret(client: ClientCredentials, terms: Terms) -> str:
    """client_secret_jwt: an HMAC by the bytes of the secret (OpenID Connect Core §10.1). Raises SecretUnreadable."""
    try:
        with _unwarned():
            key = OctKey.import_key(client.secret.encode())
    except ValueError:
        # `from None`: the cause can hold the secret.
        raise SecretUnreadable("the client secret can't be the key of an HMAC") from None
    return _signed(client, key, HMAC_ALGORITHMS, terms)


def by_private_key(client: ClientCredentials, terms: Terms) -> str:
    """private_key_jwt: a signature by the private key. Raises SecretUnreadable."""
    key = signing_key(client.secret)
    return _signed(client, key, algorithms(key), terms)


# Reading an RSA key, with all that is checked of it, takes 30 ms.
@lru_cache(maxsize=8)
def signing_key(text: str) -> Key:
    """The private key in `text`: PEM or JWK, as it is told apart. Raises SecretUnreadable, which does not quote it."""
    key = _imported(_jwk(text) if text.lstrip().startswith("{") else _pem(text))
    if isinstance(key, RSAKey) and key.public_key.key_size < MIN_RSA_BITS:
        raise _unusable(f"it is an RSA key of less than {MIN_RSA_BITS} bits")
    if not algorithms(key):
        raise _unusable(_UNREADABLE)
    return key


def algorithms(key: Key) -> tuple[str, ...]:
    """What a signing key can sign with; the first is for whoever has no wish."""
    fitting: tuple[str, ...] = ()
    if isinstance(key, RSAKey):
        fitting = _RSA_ALGORITHMS
    elif isinstance(key, ECKey | OKPKey):
        fitting = _BY_CURVE.get(key.curve_name, ())
    return tuple(name for name in fitting if key.alg in (None, name))


def _jwk(text: str) -> dict[str, Any]:
    try:
        return json_object(text.encode(errors="replace"))
    except ValueError:
        raise _unusable("it is not well-formed JSON") from None


def _pem(text: str) -> bytes:
    labels = [label for label in _PEM_LABEL.findall(text) if label != _CURVE_NAME]
    if len(labels) > 1:
        raise _unusable("it holds more than one key or certificate")
    if "ENCRYPTED" in text:
        raise _unusable("it has a passphrase")
    if not labels or labels[0] not in _PRIVATE_KEYS:
        raise _unusable("it is not a private key")
    return text.encode(errors="replace")


def _imported(value: dict[str, Any] | bytes) -> Key:
    try:
        with _unwarned():
            key = import_key(value)
            key.check_use("sig")
            key.check_key_op("sign")
    except Exception:  # noqa: BLE001 - joserfc lets out whatever its parts raise
        raise _unusable(_UNREADABLE) from None
    return key


def _unusable(reason: str) -> SecretUnreadable:
    return SecretUnreadable(f"must be one private key, PEM (PKCS#8, PKCS#1, SEC1) or JWK, without passphrase: {reason}")


def _signed(client: ClientCredentials, key: Key, fitting: Sequence[str], terms: Terms) -> str:
    algorithm = terms.algorithm or fitting[0]
    if algorithm not in fitting:
        raise SecretUnreadable(f"oauth.assertion.algorithm must fit the key: {', '.join(fitting)}")
    kid = client.key_id or key.kid
    with _unwarned():
        assertion: str = private_key_jwt_sign(
            key,
            client.client_id.reveal(),
            terms.audience,
            alg=algorithm,
            claims={"jti": terms.jti},
            header={"typ": _type(terms), **({"kid": kid} if kid else {})},
            issued_at=int(terms.issued_at),
            expires_in=LIFETIME,
        )
    return assertion


def _type(terms: Terms) -> str:
    """draft-ietf-oauth-rfc7523bis §4: the type by which a provider tells that the audience is its issuer alone."""
    return "client-authentication+jwt" if terms.audience == terms.issuer else "JWT"


def _unwarned() -> AbstractContextManager[object]:
    """Without what joserfc warns of: short secrets, keys whose kind it must find out, and the old name of Ed25519."""
    return warnings.catch_warnings(action="ignore", category=SecurityWarning)
