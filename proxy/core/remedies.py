"""What an operator can do about a token request that the provider refuses for good (RFC 6749 §5.2)."""

from collections.abc import Mapping

_PORTAL = "look in the Customer Portal, API Settings"
_FORM = "Compare oauth.scope, oauth.audience, oauth.resource and oauth.params with what the provider allows the client."

# By the label `result` of the metric for token requests.
_REMEDIES: Mapping[str, str] = {
    "invalid_client": "The client was deactivated (4 weeks without use) or deleted (12 weeks without use), belongs to"
    f" another environment, or its secret is wrong: {_PORTAL}.",
    "unauthorized_client": f"The client may not use the client credentials grant: {_PORTAL}.",
    "access_denied": f"The provider gives this client no token: {_PORTAL}.",
    "invalid_scope": f"oauth.scope asks for what the client was not given: {_PORTAL}.",
    "invalid_grant": _FORM,
    "invalid_target": _FORM,
    "invalid_request": f"{_FORM} Is oauth.auth_method the one that the provider wants?",
    "unsupported_grant_type": "Check that oauth.token_url is an endpoint for the client credentials grant.",
}


def remedy(result: str) -> str | None:
    """A sentence or two; None where the provider did not refuse, or not for good."""
    return _REMEDIES.get(result)
