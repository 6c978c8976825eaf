"""The next thing to do, by what the identity provider answered."""

from collections.abc import Mapping

from proxy.core.grant import Refusal
from proxy.core.remedies import remedy
from proxy.doctor.record import Failed

_LATER = "Try again later; if it goes on, ask whoever runs the identity provider."
_ON_THE_WAY = "Check the URL, oauth.timeout, oauth.egress_proxy and the firewalls on the way."
# By the label `result` of the metric for token requests; core.remedies knows the others.
_REMEDIES: Mapping[str, str] = {
    "secret_unreadable": "Give the id and the secret as the provider gave them, or choose another oauth.auth_method.",
    "rate_limited": _LATER,
    "http_5xx": _LATER,
    "server_error": _LATER,
    "temporarily_unavailable": _LATER,
    "timeout": _ON_THE_WAY,
    "network": _ON_THE_WAY,
}


def refused(refusal: Refusal, otherwise: str) -> Failed:
    """`otherwise`: what to do about an answer that is not one of the protocol."""
    result = refusal.result
    next_step = remedy(result) or _REMEDIES.get(result, otherwise)
    return Failed(f"{result}: {refusal.description}", next_step, result=result)
