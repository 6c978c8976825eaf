"""Requests as they go upstream, for tests that begin behind admission."""

from typing import Any

from proxy.admission import OutboundRequest, Section
from proxy.core.headers import ResponseRules

RULES = ResponseRules()


def outbound(
    head: bytes = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    *,
    method: str = "GET",
    token: bytes = b"token",
    **section: Any,
) -> OutboundRequest:
    """`section`: what its header section comes to, as `Section` names it."""
    return OutboundRequest(method, head, token, Section(b"", **{"response_rules": RULES} | section))
