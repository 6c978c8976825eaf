import json
import time
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from proxy.core.dpop import CURVE, ProofKey, is_nonce, token_hash
from tests.proofs import BadProof, ProofChecker

EC = ECKey.generate_key(CURVE)
KEY = ProofKey(EC)
URL = "https://api.example/v1/vehicles"


def parts(proof: str) -> list[dict[str, Any]]:
    return [json.loads(urlsafe_b64decode(part + "===")) for part in proof.split(".")[:2]]


def test_proof() -> None:
    """A proof says what it is for, and holds the public key; nothing is left over (R105, RFC 9449 §4.2)."""
    header, claims = parts(KEY.proof("GET", URL, now=1_800_000_000.9, jti="j-1"))

    assert header == {"typ": "dpop+jwt", "alg": "ES256", "jwk": EC.as_dict(private=False)}
    assert "d" not in header["jwk"]
    assert claims == {"jti": "j-1", "htm": "GET", "htu": URL, "iat": 1_800_000_000}


def test_proof_for_a_token() -> None:
    """With a token and a nonce, the proof names both (R105, RFC 9449 §4.2)."""
    # The example of RFC 9449 §7.1.
    token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    _, claims = parts(KEY.proof("POST", URL, now=0, jti="j-1", nonce="n", token_hash=token_hash(token)))

    assert claims["ath"] == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"
    assert claims["nonce"] == "n"


def test_a_server_accepts_the_proof() -> None:
    """All that RFC 9449 §4.3 has a server check holds, and holds for no other request, token or key (R105)."""
    checker = ProofChecker(nonce="n")
    other = ProofKey(ECKey.generate_key(CURVE))
    thumbprint = EC.thumbprint()

    def proof(key: ProofKey = KEY, method: str = "GET", url: str = URL, token: str = "t", age: int = 0) -> str:
        now = time.time() - age
        return key.proof(method, url, now=now, jti=str(len(checker.seen)), nonce="n", token_hash=token_hash(token))

    assert checker.check([proof()], "GET", f"{URL}?a=b", "t", thumbprint) == thumbprint
    for bad in (proof(other), proof(method="PUT"), proof(url=URL + "/"), proof(token="u"), proof(age=300)):
        with pytest.raises(BadProof):
            checker.check([bad], "GET", URL, "t", thumbprint)
    with pytest.raises(BadProof, match="jti"):
        checker.check([KEY.proof("GET", URL, now=time.time(), jti="0", nonce="n")], "GET", URL)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("eyJ7S_zG.eyJH0-Z.HX4w-7v", True),
        ("a", True),
        ("!#[]~", True),
        ("a" * 1024, True),
        ("a" * 1025, False),
        ("", False),
        ("a b", False),
        ('a"b', False),
        ("a\\b", False),
        ("a\r\nb", False),
        ("é", False),
    ],
)
def test_nonce(text: str, expected: bool) -> None:
    """A nonce is what RFC 9449 §8.1 says, and not so long that it would fill our requests (R105)."""
    assert is_nonce(text) == expected


@given(st.text(), st.text(), st.text())
def test_no_text_breaks_a_proof(method: str, url: str, nonce: str) -> None:
    """Whatever is in a request, its proof is one JWT that says it (R105)."""
    proof = KEY.proof(method, url, now=0, jti="j", nonce=nonce)

    assert proof.isascii()
    assert parts(proof)[1] == {"jti": "j", "htm": method, "htu": url, "iat": 0, "nonce": nonce}
