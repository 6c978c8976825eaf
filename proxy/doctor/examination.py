"""All steps in their order. One that fails ends those that need what it gives; the others go on."""

from collections.abc import Mapping

from proxy.core.client_auth import ClientCredentials
from proxy.core.grant import TokenResponse
from proxy.doctor.claims import compare_clocks, read_claims, verify_signature
from proxy.doctor.handshake import shake_hands
from proxy.doctor.network import connect, open_tunnel, resolve
from proxy.doctor.peer import Peer, issuer_of, token_endpoint_at, upstream_of
from proxy.doctor.provider import discover, find_credentials, provider_of, request_token
from proxy.doctor.record import Finding, Record
from proxy.doctor.upstream import ask_upstream
from proxy.idp import Provider
from proxy.metadata import configured_endpoints
from proxy.settings import OAuth, Settings
from proxy.tls import client_context


async def examine(settings: Settings, sources: tuple[str, ...], record: Record, path: bytes | None = None) -> None:
    """Fills the record. `sources`: where the settings come from. `path`: what to ask the API for.

    Raises ConfigError where a file for TLS can't be loaded.
    """
    oauth = settings.oauth
    await record.step("configuration", _load_files(settings, sources))
    readable = {}
    for client in oauth.clients:
        credentials = await record.step(f"secret of {client.name}", find_credentials(oauth, client))
        if credentials is not None:
            readable[client.name] = credentials
    async with provider_of(oauth) as provider:
        token = await _obtain_token(oauth, provider, readable, record)
        if await _reach("upstream", upstream_of(settings.upstream), record) and token is not None:
            credential = provider.credential(token.access_token, generation=1)
            await record.step("upstream request", ask_upstream(settings.upstream, credential, path))


async def _load_files(settings: Settings, sources: tuple[str, ...]) -> Finding[bool]:
    client_context(settings.oauth.tls, "oauth.tls")
    client_context(settings.upstream.tls, "upstream.tls")
    return Finding(value=True, found=sources)


async def _reach(name: str, peer: Peer, record: Record) -> bool:
    addresses = await record.step(f"{name} DNS", resolve(peer))
    if addresses is None:
        return False
    address = await record.step(f"{name} TCP", connect(peer, addresses))
    if address is None:
        return False
    if peer.is_tunnelled and await record.step(f"{name} CONNECT", open_tunnel(peer, address)) is None:
        return False
    return not peer.is_secure or await record.step(f"{name} TLS", shake_hands(peer, address)) is not None


async def _obtain_token(
    oauth: OAuth, provider: Provider, clients: Mapping[str, ClientCredentials], record: Record
) -> TokenResponse | None:
    """The token of the first client that works; each of them tries, so that a standby that is no help is noticed."""
    if not await _reach_token_endpoint(oauth, provider, record):
        return None
    tokens = []
    for name, credentials in clients.items():
        token = await record.step(f"token of {name}", request_token(provider, oauth, credentials))
        if token is not None:
            tokens.append(token)
    if not tokens:
        return None
    await record.step("claims", read_claims(tokens[0], oauth))
    await record.step("signature", verify_signature(tokens[0], provider, oauth))
    await record.step("clock", compare_clocks(tokens[0]))
    return tokens[0]


async def _reach_token_endpoint(oauth: OAuth, provider: Provider, record: Record) -> bool:
    endpoints = configured_endpoints(oauth)
    if endpoints is not None:
        return await _reach("token endpoint", token_endpoint_at(endpoints.token_url, oauth), record)
    issuer = issuer_of(oauth)
    if not await _reach("issuer", issuer, record):
        return False
    endpoints = await record.step("discovery", discover(provider))
    if endpoints is None:
        return False
    peer = token_endpoint_at(endpoints.token_url, oauth)
    return peer.is_reached_as(issuer) or await _reach("token endpoint", peer, record)
