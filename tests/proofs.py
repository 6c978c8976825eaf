"""Servers that take no token without a proof: what they check is the list of RFC 9449 §4.3, point by point."""

import json
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from aiohttp import web
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from proxy.demo.idp import DemoProvider
from proxy.demo.server import Handler

WINDOW = 60.0
_MEMBERS = {"crv", "kty", "x", "y"}


class BadProof(Exception):
    """The message is the point of the list that is not met."""


@dataclass
class ProofChecker:
    """One server. `nonce`: the one that it wants, None where it wants none. `seen`: the `jti` of earlier proofs."""

    nonce: str | None = None
    seen: set[str] = field(default_factory=set)

    def check(self, proofs: list[str], method: str, url: str, token: str | None = None, jkt: str | None = None) -> str:
        """The thumbprint of the key that has signed. Raises BadProof.

        `proofs`: the values of all DPoP fields. `url`: of the request, with its query. `token`: the one that is sent
        along, bound to the key with the thumbprint `jkt`.
        """
        _hold(len(proofs) == 1, "1: one DPoP field")
        header, claims = _parts(proofs[0])
        _hold({"jti", "htm", "htu", "iat"} <= claims.keys(), "3: the required claims")
        _hold({"typ", "alg", "jwk"} <= header.keys(), "3: the required header parameters")
        _hold(header["typ"] == "dpop+jwt", "4: typ")
        _hold(header["alg"] == "ES256", "5: an asymmetric algorithm")
        _hold(set(header["jwk"]) == _MEMBERS, "7: a public key and nothing else")
        key = ECKey.import_key(header["jwk"])
        _hold(_is_signed(proofs[0], key), "6: the signature")
        _hold(claims["htm"] == method, "8: htm")
        _hold(claims["htu"] == url.partition("?")[0].partition("#")[0], "9: htu")
        _hold(claims.get("nonce") == self.nonce, "10: nonce")
        _hold(isinstance(claims["iat"], int) and abs(claims["iat"] - time.time()) < WINDOW, "11: iat")
        if token is not None:
            digest = urlsafe_b64encode(sha256(token.encode()).digest()).rstrip(b"=").decode()
            _hold(claims.get("ath") == digest, "12a: ath")
            _hold(key.thumbprint() == jkt, "12b: the key of the token")
        else:
            _hold("ath" not in claims, "no token, no ath")
        # RFC 9449 §11.1
        _hold(claims["jti"] not in self.seen, "a jti of its own")
        self.seen.add(claims["jti"])
        return key.thumbprint()


def _hold(condition: bool, point: str) -> None:
    if not condition:
        raise BadProof(point)


def _parts(proof: str) -> tuple[dict[str, Any], dict[str, Any]]:
    _hold(re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", proof, re.ASCII) is not None, "2: one JWT")
    header, claims = (json.loads(urlsafe_b64decode(part + "===")) for part in proof.split(".")[:2])
    return header, claims


def _is_signed(proof: str, key: ECKey) -> bool:
    try:
        jws.deserialize_compact(proof, key, algorithms=["ES256"])
    except (JoseError, ValueError):
        return False
    return True


def binding(provider: DemoProvider, checker: ProofChecker, *, fickle: bool = False) -> Handler:
    """A token endpoint that binds each token to the key of the proof (RFC 9449 §5) and asks for its nonce (§8).

    `fickle`: it wants another nonce for each request.
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if fickle:
            checker.nonce = f"as-{provider.requests}"
        fields = {} if checker.nonce is None else {"DPoP-Nonce": checker.nonce}
        try:
            thumbprint = checker.check(request.headers.getall("DPoP", []), "POST", provider.token_url)
        except BadProof as point:
            error = "use_dpop_nonce" if str(point).startswith("10:") else "invalid_dpop_proof"
            return web.json_response({"error": error, "error_description": str(point)}, status=400, headers=fields)
        provider.faults.response = {"token_type": "DPoP"}
        provider.faults.claims = {"cnf": {"jkt": thumbprint}}
        response = await provider.issue_token(request)
        response.headers.update(fields)
        return response

    return handle
