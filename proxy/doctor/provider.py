"""What the identity provider says: its metadata, and a token for a client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from msgspec.structs import replace

from proxy.core.client_auth import ClientCredentials
from proxy.core.grant import Refusal, TokenResponse
from proxy.doctor.record import Failed, Finding
from proxy.doctor.remedies import refused
from proxy.errors import SecretUnreadable
from proxy.idp import Provider
from proxy.metadata import Endpoints
from proxy.rotation import read_credentials
from proxy.settings import AuthMethod, Client, OAuth

# The forms in which one and the same secret can be shown.
_SECRET_FORMS: tuple[AuthMethod, ...] = ("client_secret_basic", "client_secret_post", "client_secret_basic_raw")


@asynccontextmanager
async def provider_of(oauth: OAuth) -> AsyncIterator[Provider]:
    """Raises ConfigError."""
    provider = Provider(oauth)
    try:
        yield provider
    finally:
        await provider.close()


async def find_credentials(oauth: OAuth, client: Client) -> Finding[ClientCredentials]:
    """What the client shows the provider, from where the configuration says."""
    try:
        credentials = read_credentials(oauth, client)
    except SecretUnreadable as exc:
        raise Failed(
            exc.detail,
            "Set the variable, make the entry in the keyring, or create the file so that the user of the proxy can read"
            " it, with the value as the provider gave it.",
        ) from None
    own = f", client_secret {client.client_secret}" if oauth.needs_client_secret else ""
    return Finding(credentials, (f"client_id {client.client_id}{own}",))


async def discover(provider: Provider) -> Finding[Endpoints]:
    """The endpoints that the issuer's metadata names."""
    endpoints = await provider.discover()
    if isinstance(endpoints, Refusal):
        raise refused(
            endpoints, "Check oauth.issuer: below it is /.well-known/openid-configuration, which must name it as it is."
        )
    return Finding(endpoints, (f"token endpoint {endpoints.token_url}", f"keys {endpoints.jwks_url or 'not named'}"))


async def request_token(provider: Provider, oauth: OAuth, credentials: ClientCredentials) -> Finding[TokenResponse]:
    """A token; after an `invalid_client`, the form of the secret that the provider would accept, if there is one."""
    answer = await provider.request_token(credentials)
    if not isinstance(answer, Refusal):
        return Finding(answer, (_lifetime(answer),))
    failure = refused(
        answer, "Check that oauth.token_url is the token endpoint: the documentation of the provider names it."
    )
    if answer.result == "invalid_client" and (method := await _accepted_form(oauth, credentials)) is not None:
        raise Failed(
            f"the provider accepts this client by {method}, not by {oauth.auth_method} ({failure.cause})",
            f"Set oauth.auth_method: {method}.",
            result=answer.result,
            auth_method=method,
        )
    raise failure


async def _accepted_form(oauth: OAuth, credentials: ClientCredentials) -> AuthMethod | None:
    """Another form in which the provider accepts the same credentials: providers disagree about RFC 6749 §2.3.1."""
    if oauth.auth_method not in _SECRET_FORMS:
        return None
    for method in _SECRET_FORMS:
        if method != oauth.auth_method:
            async with provider_of(replace(oauth, auth_method=method)) as provider:
                if not isinstance(await provider.request_token(credentials), Refusal):
                    return method
    return None


def _lifetime(token: TokenResponse) -> str:
    if token.expires_in is None:
        return "a token without expires_in"
    return f"a token for {timedelta(seconds=round(token.expires_in))}"
