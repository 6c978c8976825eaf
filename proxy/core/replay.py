"""May a request be sent a second time? Only where the first is known to have changed nothing (RFC 9110 §9.2.2)."""

_UNAUTHORIZED = 401
# RFC 9110 §9.2.2. PROPFIND and its like are idempotent too, but this proxy does not know every registered method.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


def after_lost_connection(method: str, *, answered: bool, body_kept: bool) -> bool:
    """After a kept connection turned out to be closed: `answered` if a single byte came back (R94, R126).

    Only then: a fresh connection that is lost tells of the upstream's state, and nothing is tried again.
    """
    return not answered and body_kept and method in _IDEMPOTENT


def asks_for_another_token(status: int, challenge: bytes) -> bool:
    """Does the response say that the token, and not what it may do, was refused? (RFC 6750 §3.1, R93, R96)

    `challenge` is the WWW-Authenticate value, empty where there is none. A 401 is given before a request is processed,
    so that any method may be sent again after it.
    """
    return status == _UNAUTHORIZED and b"insufficient_scope" not in challenge


def asks_for_nonce(challenge: bytes) -> bool:
    """Does a 401 refuse the proof of possession, and not the token, for want of a nonce? (RFC 9449 §9)"""
    return b"use_dpop_nonce" in challenge
