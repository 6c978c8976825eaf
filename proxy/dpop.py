"""Tokens that only the holder of a key can use, and the proofs that go with them (DPoP, RFC 9449).

Imported only where `oauth.dpop` is on: joserfc and cryptography cost 10 MB and 0.1 s.
"""

from collections.abc import Callable
from secrets import token_urlsafe

from joserfc.jwk import ECKey

from proxy.core.dpop import CURVE, ProofKey, is_nonce, token_hash
from proxy.core.secret import Secret
from proxy.credential import Credential


class Binding:
    """A key of this process, which is written nowhere, and the tokens that are bound to it.

    `clock`: Unix time, as close to the servers' as is known.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        key = ProofKey(ECKey.generate_key(CURVE))
        self.provider = Prover(key, clock)
        self._api = Prover(key, clock)

    def credential(self, token: Secret, generation: int) -> Credential:
        return BoundCredential(token, generation, self._api)


class Prover:
    """Proves to one server that requests come from the holder of the key. Each server has nonces of its own."""

    def __init__(self, key: ProofKey, clock: Callable[[], float]) -> None:
        self._key = key
        self._clock = clock
        self._nonce: str | None = None

    def proof(self, method: str, url: str, token_hash: str | None = None) -> str:
        """The value of a `DPoP` field, for one request. Query and fragment of `url` don't count."""
        target = url.partition("?")[0].partition("#")[0]
        return self._key.proof(
            method, target, now=self._clock(), jti=token_urlsafe(16), nonce=self._nonce, token_hash=token_hash
        )

    def remember(self, nonce: str) -> None:
        """What the server gave in `DPoP-Nonce`: the next proofs must have it (RFC 9449 §8.2)."""
        if is_nonce(nonce):
            self._nonce = nonce


class BoundCredential(Credential):
    """A token that the API takes only with a proof, another one for each request."""

    __slots__ = ("_prover", "_token_hash")

    def __init__(self, token: Secret, generation: int, prover: Prover) -> None:
        super().__init__(token, generation, scheme=b"DPoP")
        self._prover = prover
        self._token_hash = token_hash(token.reveal())

    def fields(self, method: str, origin: bytes, target: bytes) -> bytes:
        # RFC 9110 §7.1: the URI of `OPTIONS *` has no path.
        url = origin if target == b"*" else origin + target
        proof = self._prover.proof(method, url.decode("ascii"), self._token_hash)
        return b"%bDPoP: %b\r\n" % (self.line, proof.encode())

    def remember(self, nonce: bytes) -> None:
        self._prover.remember(nonce.decode("latin-1"))
