import json
import time
from base64 import urlsafe_b64decode
from typing import Any

import pytest

from proxy.core.secret import Secret
from proxy.dpop import Binding
from tests.proofs import ProofChecker

NOW = 1_800_000_000.0
ORIGIN = b"https://api.example"
IDP = "https://idp.example/token"
TOKEN = Secret("s3cr3t-token")


def proof_in(fields: bytes) -> str:
    (proof,) = [line.removeprefix(b"DPoP: ") for line in fields.split(b"\r\n") if line.startswith(b"DPoP: ")]
    return proof.decode()


def claims(proof: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(urlsafe_b64decode(proof.split(".")[1] + "==="))
    return found


def test_fields_of_a_request() -> None:
    """A bound token goes out as DPoP and not as Bearer, with a proof for this request (R105, RFC 9449 §7.1)."""
    binding = Binding(time.time)
    thumbprint = ProofChecker().check([binding.provider.proof("POST", IDP)], "POST", IDP)
    fields = binding.credential(TOKEN, 3).fields("GET", ORIGIN, b"/a?b=c")

    assert fields.startswith(b"Authorization: DPoP s3cr3t-token\r\nDPoP: ")
    assert fields.endswith(b"\r\n")
    ProofChecker().check([proof_in(fields)], "GET", "https://api.example/a?b=c", TOKEN.reveal(), thumbprint)


@pytest.mark.parametrize(
    "target, htu",
    [
        (b"/a", "https://api.example/a"),
        (b"/a?b=c?d", "https://api.example/a"),
        (b"/%2e%2E//a;b?", "https://api.example/%2e%2E//a;b"),
        (b'/"{}', 'https://api.example/"{}'),
        (b"/", "https://api.example/"),
        (b"*", "https://api.example"),
    ],
)
def test_uri_of_a_proof(target: bytes, htu: str) -> None:
    """The URI is the one that goes upstream, byte for byte, without the query (R105, RFC 9449 §4.2)."""
    fields = Binding(lambda: NOW).credential(TOKEN, 1).fields("OPTIONS", ORIGIN, target)

    found = claims(proof_in(fields))
    assert (found["htm"], found["htu"], found["iat"]) == ("OPTIONS", htu, NOW)


def test_each_proof_is_another() -> None:
    """Two requests for the same thing have proofs of their own (R105, RFC 9449 §11.1)."""
    credential = Binding(lambda: NOW).credential(TOKEN, 1)
    proofs = [proof_in(credential.fields("GET", ORIGIN, b"/a")) for _ in range(100)]

    assert len({claims(proof)["jti"] for proof in proofs}) == 100


def test_nonces() -> None:
    """The newest nonce of a server is in the proofs for it alone, whichever token they are for (RFC 9449 §8, §9)."""
    binding = Binding(lambda: NOW)
    first, second = binding.credential(TOKEN, 1), binding.credential(Secret("next"), 2)
    binding.provider.remember("as-1")
    for nonce in (b"rs-1", b"rs-2", b"\xe9", b"", b"a b"):
        first.remember(nonce)

    assert claims(proof_in(second.fields("GET", ORIGIN, b"/a")))["nonce"] == "rs-2"
    assert claims(binding.provider.proof("POST", IDP))["nonce"] == "as-1"


def test_tokens_of_two_processes() -> None:
    """Each process has a key of its own (R105)."""
    first, second = (ProofChecker().check([Binding(time.time).provider.proof("POST", IDP)], "POST", IDP) for _ in "ab")

    assert first != second


def test_a_credential_does_not_print_its_token() -> None:
    """Neither the token nor a proof is in a repr (R145, R146)."""
    assert repr(Binding(lambda: NOW).credential(TOKEN, 7)) == "Credential(***, generation=7)"
