"""JSON Web Tokens: whether one is what the identity provider issued (RFC 7519, RFC 8725), by the keys it publishes."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import ClaimError, JoseError, MissingClaimError, SecurityWarning
from joserfc.jwk import JWKRegistry, Key, RSAKey

from proxy.core.document import json_object
from proxy.errors import BadJwt, BadKeySet, UnknownKey

Claims = dict[str, Any]

# The allow-list of the configuration is a part of this table: without `none`, and without HS*, whose key would be the
# public one (RFC 8725 §3.1).
_KEY_TYPES = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
_MIN_RSA_BITS = 2048
# Of a set's keys; each can cost one verification.
_MAX_KEYS = 64


@dataclass(frozen=True, slots=True)
class KeySet:
    """The provider's public signing keys."""

    keys: tuple[Key, ...]

    def candidates(self, kid: object, key_type: str) -> list[Key]:
        """The keys that could have signed: those of that id, else those without an id (RFC 7515 §4.1.4)."""
        fitting = [key for key in self.keys if key.key_type == key_type]
        if kid is None:
            return fitting
        return [key for key in fitting if key.kid == kid] or [key for key in fitting if key.kid is None]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token must say. `leeway`: seconds that the clocks may differ by. `type`: of the header; None: any."""

    algorithms: tuple[str, ...]
    issuer: str | None
    audience: str | None
    leeway: float
    type: str | None = None


class _Registry(jws.JWSRegistry):
    # Room for `x5c`, which is ignored like every other key that a token brings along (RFC 8725 §3.10).
    max_header_length = 8192


# Without the strict check, which refuses every header parameter that is not registered.
_REGISTRY = _Registry(algorithms=tuple(_KEY_TYPES), strict_check_header=False)


def parse_jwks(document: bytes) -> KeySet:
    """The usable keys of a JWK Set; those that are not are skipped, one by one. Raises BadKeySet."""
    try:
        entries = json_object(document).get("keys")
    except ValueError as exc:
        raise BadKeySet(f"The JWK Set {exc}.") from None
    if not isinstance(entries, list):
        raise BadKeySet("The JWK Set has no list of keys.")
    keys = tuple(key for entry in entries[:_MAX_KEYS] if (key := _import_key(entry)) is not None)
    if not keys:
        raise BadKeySet("The JWK Set holds no usable signing key.")
    return KeySet(keys)


def _import_key(entry: object) -> Key | None:
    if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
        return None
    try:
        # joserfc warns of short RSA keys, which are dropped here.
        with warnings.catch_warnings(action="ignore", category=SecurityWarning):
            key = JWKRegistry.import_key(entry)
            key.check_key_op("verify")
    except Exception:  # noqa: BLE001 - joserfc lets out whatever its parts raise; one bad key must not spoil the set
        return None
    if isinstance(key, RSAKey) and key.public_key.key_size < _MIN_RSA_BITS:
        return None
    return key


def verify(token: str, keys: KeySet, expected: Expected, now: float) -> Claims:
    """The claims of a token that a key of the set has signed and that says what is expected at `now` (Unix seconds).

    Raises UnknownKey where a newer set could change the answer, else BadJwt.
    """
    signed = _extract(token)
    if expected.type is not None and _media_type(signed.protected.get("typ")) != _media_type(expected.type):
        raise BadJwt("The token's type is not oauth.verify.type.")
    kid = signed.protected.get("kid")
    candidates = keys.candidates(kid, _key_type(signed.protected, expected.algorithms))
    if not any(_is_signed_by(key, signed) for key in candidates):
        if not candidates or kid is None:
            raise UnknownKey("No key of the provider's JWK Set fits the token.")
        raise BadJwt("The token's signature is wrong.")
    claims = _claims(signed)
    _check_claims(claims, expected, now)
    return claims


def _extract(token: str) -> jws.CompactSignature:
    try:
        signed = jws.extract_compact(token.encode("ascii"), registry=_REGISTRY)
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
        # `from None`: the cause holds parts of the token.
        raise BadJwt("The token is not a JWT. Opaque tokens need oauth.verify.mode: off.") from None
    if not isinstance(signed.protected, Mapping):
        raise BadJwt("The token's header is not a JSON object.")
    return signed


def _media_type(value: object) -> str | None:
    """In lower case and without what may be left out (RFC 7515 §4.1.9)."""
    return value.lower().removeprefix("application/") if isinstance(value, str) else None


def _key_type(header: Mapping[str, Any], allowed: tuple[str, ...]) -> str:
    if "crit" in header:
        # No extension is understood here (RFC 7515 §4.1.11).
        raise BadJwt("The token asks for an extension of JWS.")
    algorithm = header.get("alg")
    # RFC 9864 renames EdDSA with an Ed25519 key.
    listed = "EdDSA" if algorithm == "Ed25519" and "Ed25519" not in allowed else algorithm
    if not isinstance(algorithm, str) or algorithm not in _KEY_TYPES or listed not in allowed:
        raise BadJwt("The token's algorithm is not one of oauth.verify.algorithms.")
    return _KEY_TYPES[algorithm]


def _is_signed_by(key: Key, signed: jws.CompactSignature) -> bool:
    try:
        # joserfc warns of the name EdDSA at each use (RFC 9864).
        with warnings.catch_warnings(action="ignore", category=SecurityWarning):
            return jws.validate_compact(signed, key, registry=_REGISTRY)
    except (JoseError, ValueError):
        # The key's own `alg`, `key_ops` or curve forbids the algorithm (RFC 8725 §3.1).
        return False


def _claims(signed: jws.CompactSignature) -> Claims:
    try:
        return json_object(signed.payload)
    except ValueError as exc:
        raise BadJwt(f"The token's payload {exc}.") from None


def _check_claims(claims: Claims, expected: Expected, now: float) -> None:
    options: dict[str, jwt.ClaimsOption] = {"exp": {"essential": True}}
    if expected.issuer is not None:
        options["iss"] = {"essential": True, "value": expected.issuer}
    if expected.audience is not None:
        options["aud"] = {"essential": True, "value": expected.audience}
    try:
        jwt.JWTClaimsRegistry(now=int(now), leeway=int(expected.leeway), **options).validate(claims)
    except MissingClaimError as exc:
        raise BadJwt(f"The token has no claim {exc.claim}.") from None
    except ClaimError as exc:
        raise BadJwt(f"The token's claim {exc.claim} is not what is expected.") from None
