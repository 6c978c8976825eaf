import pytest

from proxy.core.replay import after_lost_connection, asks_for_another_token, asks_for_nonce


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_an_idempotent_request_may_lose_its_connection(method: str) -> None:
    """To do it twice is to do it once (RFC 9110 §9.2.2), if the whole of it is at hand (R126)."""
    assert after_lost_connection(method, answered=False, body_kept=True)
    assert not after_lost_connection(method, answered=False, body_kept=False)


@pytest.mark.parametrize("method", ["POST", "PATCH", "PROPFIND", "QUERY", "get", ""])
def test_other_requests_are_sent_once(method: str) -> None:
    """What may change something each time, or is not known, is never sent again (R94)."""
    assert not after_lost_connection(method, answered=False, body_kept=True)


def test_an_answered_request_is_sent_once() -> None:
    """A single byte of a response shows that the request was processed (R94)."""
    assert not after_lost_connection("GET", answered=True, body_kept=True)


@pytest.mark.parametrize("challenge", [b"", b"Bearer", b'Bearer error="invalid_token"', b'Basic realm="api"'])
def test_a_401_asks_for_another_token(challenge: bytes) -> None:
    """A 401 is about the token, whatever it says of itself, if anything (R93, R97)."""
    assert asks_for_another_token(401, challenge)


@pytest.mark.parametrize("status", [200, 400, 403, 404, 407, 429, 500, 503])
def test_no_other_status_does(status: int) -> None:
    """No other status is about the token (R96)."""
    assert not asks_for_another_token(status, b'Bearer error="invalid_token"')


@pytest.mark.parametrize(
    "challenge", [b'Bearer error="insufficient_scope"', b"Bearer error=insufficient_scope, scope=x"]
)
def test_a_token_that_may_too_little(challenge: bytes) -> None:
    """Another token of the same client would be allowed no more (RFC 6750 §3.1, R96)."""
    assert not asks_for_another_token(401, challenge)


@pytest.mark.parametrize(
    "challenge, expected",
    [
        (b'DPoP error="use_dpop_nonce", error_description="a nonce is required"', True),
        (b'Bearer, DPoP algs="ES256", error="use_dpop_nonce"', True),
        (b'DPoP error="invalid_token", algs="ES256"', False),
        (b'DPoP error="invalid_dpop_proof"', False),
        (b"", False),
    ],
)
def test_a_proof_that_wants_a_nonce(challenge: bytes, expected: bool) -> None:
    """Only one of the errors of DPoP is about the nonce; the others are about the token (RFC 9449 §7.1, §9, R105)."""
    assert asks_for_nonce(challenge) == expected
