"""Proofs that a request comes from the holder of a key (DPoP, RFC 9449 §4)."""

import re
from base64 import urlsafe_b64encode
from hashlib import sha256

from joserfc import jwt
from joserfc.jwk import ECKey

ALGORITHM = "ES256"
CURVE = "P-256"
# RFC 9449 §8.1. The length is ours: a nonce goes back in every request.
_NONCE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,1024}")


class ProofKey:
    """A private key on CURVE, which the tokens that are obtained with its proofs are bound to."""

    def __init__(self, key: ECKey) -> None:
        self._key = key
        self._header = {"typ": "dpop+jwt", "alg": ALGORITHM, "jwk": key.as_dict(private=False)}

    def proof(
        self, method: str, url: str, *, now: float, jti: str, nonce: str | None = None, token_hash: str | None = None
    ) -> str:
        """For one request: `url` without query and fragment, `now` in Unix seconds, `jti` a text of no other proof.

        `nonce`: the one that the server gave last. `token_hash`: of the access token that is sent with it.
        """
        claims = {"jti": jti, "htm": method, "htu": url, "iat": int(now)}
        if nonce is not None:
            claims["nonce"] = nonce
        if token_hash is not None:
            claims["ath"] = token_hash
        return jwt.encode(self._header, claims, self._key)


def token_hash(token: str) -> str:
    """What a proof says of the access token (RFC 9449 §4.2, `ath`)."""
    return urlsafe_b64encode(sha256(token.encode()).digest()).rstrip(b"=").decode()


def is_nonce(text: str) -> bool:
    return _NONCE.fullmatch(text) is not None
