"""The only client of the identity provider: its token endpoint, its metadata, its signing keys.

Whatever goes wrong on the way is returned as a Refusal; no exception of aiohttp, ssl or the system leaves this file.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
from authlib.oauth2.rfc8414 import get_well_known_url

from proxy import __version__
from proxy.core.document import json_object
from proxy.core.grant import (
    AUTH_METHODS,
    Refusal,
    TokenRequest,
    TokenResponse,
    parse_response,
    refused_status,
    token_request,
)
from proxy.errors import ConfigError, SecretUnreadable
from proxy.settings import Client, OAuth, is_loopback_host
from proxy.tls import client_context

MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class Endpoints:
    token_url: str
    jwks_url: str | None


class _Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class _BodyTooLarge(Exception):
    pass


class Provider:
    """The identity provider that `oauth` names. Raises ConfigError for what can't work with any provider.

    `wall_clock`: Unix time, which dates in the provider's answers are compared with.
    """

    def __init__(self, oauth: OAuth, *, wall_clock: Callable[[], float] = time.time) -> None:
        if oauth.auth_method not in AUTH_METHODS:
            raise ConfigError([f"oauth.auth_method: {oauth.auth_method} is not supported"])
        if oauth.token_url is None and oauth.issuer is None:
            raise ConfigError(["oauth.token_url: required, unless oauth.issuer is given"])
        self._oauth = oauth
        self._wall_clock = wall_clock
        self._tls = client_context(oauth.tls, "oauth.tls")
        self._session: aiohttp.ClientSession | None = None
        self._issuer = oauth.issuer or ""
        self._endpoints = _configured_endpoints(oauth)

    @property
    def jwks_url(self) -> str | None:
        """Where the signing keys are, as far as it is known: configured, or discovered by an earlier request."""
        return self._oauth.jwks_url if self._endpoints is None else self._endpoints.jwks_url

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def request_token(self, client: Client) -> TokenResponse | Refusal:
        """One token request, with the secret as its source gives it now."""
        endpoints = await self.discover()
        if isinstance(endpoints, Refusal):
            return endpoints
        try:
            # A secret can lie on a file system that hangs.
            request = await asyncio.to_thread(self._token_request, client)
        except SecretUnreadable as exc:
            return Refusal("rejected", exc.code, exc.detail)
        reply = await self._exchange("POST", endpoints.token_url, request.headers, request.body)
        if isinstance(reply, Refusal):
            return reply
        return parse_response(*reply, now=self._wall_clock(), secrets=request.secrets)

    async def fetch_jwks(self) -> bytes | Refusal:
        """The document of the signing keys, as the provider publishes it now."""
        endpoints = await self.discover()
        if isinstance(endpoints, Refusal):
            return endpoints
        if endpoints.jwks_url is None:
            return Refusal("malformed", "invalid_response", "the provider's metadata names no jwks_uri")
        return await self._get(endpoints.jwks_url)

    async def discover(self) -> Endpoints | Refusal:
        """The configured URLs, completed from the issuer's metadata, which is asked for until it came once."""
        if self._endpoints is None:
            found = await self._metadata()
            if isinstance(found, Refusal):
                return found
            self._endpoints = found
        return self._endpoints

    async def _metadata(self) -> Endpoints | Refusal:
        base = self._issuer.rstrip("/")
        # RFC 8414 §3.1 puts the well-known part before the issuer's path, OpenID Connect Discovery §4 after it.
        found = await self._metadata_at(get_well_known_url(base, external=True))
        if isinstance(found, Refusal) and found.kind == "malformed":
            found = await self._metadata_at(f"{base}/.well-known/openid-configuration")
        return found

    async def _metadata_at(self, url: str) -> Endpoints | Refusal:
        body = await self._get(url)
        if isinstance(body, Refusal):
            return body
        try:
            return self._endpoints_in(json_object(body))
        except ValueError as exc:
            return Refusal("malformed", "invalid_response", f"the metadata of oauth.issuer {exc}")

    def _endpoints_in(self, metadata: Mapping[str, object]) -> Endpoints:
        # RFC 8414 §3.3: identical, else one provider could speak for another.
        if metadata.get("issuer") != self._issuer:
            raise ValueError("is that of another issuer")
        oauth = self._oauth
        token_url = oauth.token_url or _endpoint(metadata, "token_endpoint", self._issuer)
        if token_url is None:
            raise ValueError("names no token_endpoint")
        return Endpoints(token_url, oauth.jwks_url or _endpoint(metadata, "jwks_uri", self._issuer))

    def _token_request(self, client: Client) -> TokenRequest:
        oauth = self._oauth
        return token_request(
            oauth.auth_method,
            client.client_id.read(),
            client.client_secret.read(),
            scope=oauth.scope,
            audience=oauth.audience,
            resource=oauth.resource,
            params=oauth.params,
        )

    async def _get(self, url: str) -> bytes | Refusal:
        reply = await self._exchange("GET", url, {"Accept": "application/json"})
        if isinstance(reply, Refusal):
            return reply
        if reply.status != HTTPStatus.OK:
            return refused_status(reply.status, reply.headers, self._wall_clock())
        return reply.body

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> _Reply | Refusal:
        if self._session is None:
            self._session = self._open_session()
        try:
            async with self._session.request(
                method, url, headers=headers, data=body, allow_redirects=False, proxy=self._oauth.egress_proxy
            ) as response:
                return _Reply(response.status, response.headers, await _read(response))
        except TimeoutError:
            return Refusal("transient", "timeout", f"no complete answer within {self._oauth.timeout}")
        except _BodyTooLarge:
            return Refusal("malformed", "invalid_response", "the body is larger than 1 MiB")
        except aiohttp.ClientHttpProxyError as exc:
            return Refusal("transient", "network", f"oauth.egress_proxy answers with status {exc.status}")
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError):
            return Refusal("malformed", "invalid_response", "the answer is not complete, well-formed HTTP")
        except (aiohttp.ClientError, OSError, UnicodeError) as exc:
            return Refusal("transient", "network", _why(exc))

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # Requests are minutes to hours apart: a kept connection would only be a stale one.
            connector=aiohttp.TCPConnector(ssl=self._tls, force_close=True),
            timeout=aiohttp.ClientTimeout(total=self._oauth.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            # Nothing is inflated, so that 1 MiB on the wire is 1 MiB in memory.
            auto_decompress=False,
            headers={"User-Agent": f"thg-proxy/{__version__}", "Accept-Encoding": "identity"},
        )


def _configured_endpoints(oauth: OAuth) -> Endpoints | None:
    """None where the issuer's metadata is needed: for the token URL, or for keys to verify with."""
    wants_jwks_url = oauth.issuer is not None and oauth.jwks_url is None and oauth.verify.mode != "off"
    if oauth.token_url is None or wants_jwks_url:
        return None
    return Endpoints(oauth.token_url, oauth.jwks_url)


def _endpoint(metadata: Mapping[str, object], name: str, issuer: str) -> str | None:
    url = metadata.get(name)
    if url is None:
        return None
    if not isinstance(url, str) or not _is_acceptable(url, issuer):
        raise ValueError(f"has a {name} that is not an https URL")
    return url


def _is_acceptable(url: str, issuer: str) -> bool:
    """https, or anything on this machine for an issuer on this machine: metadata can't point a remote one at it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if not parts.hostname:
        return False
    if is_loopback_host(parts.hostname):
        return parts.scheme in ("http", "https") and is_loopback_host(urlsplit(issuer).hostname or "")
    return parts.scheme == "https"


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_BODY:
            raise _BodyTooLarge
    return bytes(body)


def _why(exc: Exception) -> str:
    """Our words and the system's; an exception's own text can hold a peer's."""
    match exc:
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as refused):
            return f"TLS: the certificate is not accepted: {refused.verify_message}"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | ssl.SSLError():
            return "TLS: the handshake failed"
        case aiohttp.ClientConnectorDNSError() | UnicodeError():
            return "DNS: the name can't be resolved"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without an answer"
        case OSError(strerror=str() as reason):
            return f"no connection: {reason}"
    return f"no connection: {type(exc).__name__}"
