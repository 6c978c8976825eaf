"""`thg-proxy token`: a token to look at, or to use in a script."""

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import click

from proxy.cli.options import with_configuration
from proxy.config import Loaded
from proxy.core.secret import MASK
from proxy.errors import ProxyError
from proxy.settings import OAuth

if TYPE_CHECKING:
    from proxy.core.grant import TokenResponse


class NoToken(ProxyError):
    code = "no_token"
    title = "No token"


class _Minted(NamedTuple):
    client: str
    token: "TokenResponse"


@click.command()
@click.option("--raw", is_flag=True, help="Print the token alone, for scripts.")
@partial(with_configuration, secrets=False)
def token(loaded: Loaded, *, raw: bool) -> None:
    """Obtain a token and print what it says.

    By the first client that works. Its signature is masked.
    """
    minted = asyncio.run(_mint(loaded.settings.oauth))
    if raw:
        click.echo(minted.token.access_token.reveal())
    else:
        click.echo(json.dumps(_described(minted), indent=2))


async def _mint(oauth: OAuth) -> _Minted:
    """Raises NoToken. Why a client does not work goes to stderr."""
    # What it takes to connect is loaded after the configuration is read, which may be wrong.
    from proxy.doctor.provider import find_credentials, provider_of, request_token  # noqa: PLC0415 - as said
    from proxy.doctor.record import Failed  # noqa: PLC0415

    async with provider_of(oauth) as provider:
        for client in oauth.clients:
            try:
                credentials, _ = await find_credentials(oauth, client)
                token, _ = await request_token(provider, oauth, credentials)
            except Failed as exc:
                click.echo(f"{client.name}: {exc.cause}\n{exc.remedy}", err=True)
            else:
                return _Minted(client.name, token)
    raise NoToken("no client works" if len(oauth.clients) > 1 else "no token")


def _described(minted: _Minted) -> dict[str, object]:
    """Header and claims as the provider wrote them, null for an opaque token."""
    from proxy.core.claims import unverified  # noqa: PLC0415 - not for `--raw`

    response = minted.token
    jwt = unverified(response.access_token.reveal())
    return {
        "client": minted.client,
        "expires_in": response.expires_in,
        "scope": response.scope,
        "header": jwt.header if jwt else None,
        "claims": jwt.claims if jwt else None,
        "signature": MASK if jwt else None,
    }
