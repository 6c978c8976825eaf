"""The only client of the identity provider: its token endpoint, its metadata, its signing keys.

Whatever goes wrong on the way is returned as a Refusal; no exception of aiohttp, ssl or the system leaves this file.
"""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from secrets import token_urlsafe
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from authlib.oauth2.rfc8414 import get_well_known_url

from proxy.core.client_auth import ClientCredentials
from proxy.core.document import json_object
from proxy.core.grant import (
    Refusal,
    TokenRequest,
    TokenResponse,
    clock_skew,
    parse_response,
    refused_status,
    token_request,
)
from proxy.core.secret import Secret
from proxy.credential import Credential
from proxy.errors import ConfigError, SecretUnreadable
from proxy.metadata import Endpoints, configured_endpoints, endpoints_in
from proxy.outgoing import abort, open_session
from proxy.settings import ClientTls, OAuth
from proxy.tls import client_context

if TYPE_CHECKING:
    from proxy.dpop import Binding

MAX_BODY = 1 << 20


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
        if oauth.token_url is None and oauth.issuer is None:
            raise ConfigError(["oauth.token_url: required, unless oauth.issuer is given"])
        self._oauth = oauth
        self._wall_clock = wall_clock
        # Only the token endpoint is shown a certificate (RFC 8705 §2).
        self._tls = client_context(ClientTls(ca_file=oauth.tls.ca_file), "oauth.tls")
        self._token_tls = client_context(oauth.tls, "oauth.tls") if oauth.tls.cert_file else self._tls
        self._session: aiohttp.ClientSession | None = None
        self._endpoints = configured_endpoints(oauth)
        self._skew = 0.0
        # What the tokens are bound to.
        self._binding = _new_binding(self._time) if oauth.dpop else None

    @property
    def jwks_url(self) -> str | None:
        """Where the signing keys are, as far as it is known: configured, or discovered by an earlier request."""
        return self._oauth.jwks_url if self._endpoints is None else self._endpoints.jwks_url

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def request_token(self, credentials: ClientCredentials) -> TokenResponse | Refusal:
        """One token request, and another one where the provider wants its nonce in the proof (RFC 9449 §8)."""
        endpoints = await self.discover()
        if isinstance(endpoints, Refusal):
            return endpoints
        answer = await self._ask_for_token(endpoints.token_url, credentials)
        if self._binding is not None and isinstance(answer, Refusal) and answer.result == "use_dpop_nonce":
            answer = await self._ask_for_token(endpoints.token_url, credentials)
        if endpoints.refuses_method and isinstance(answer, Refusal) and answer.result == "invalid_client":
            hint = f"the provider's metadata does not list oauth.auth_method {self._oauth.auth_method}"
            return replace(answer, description=f"{answer.description}; {hint}")
        return answer

    def credential(self, token: Secret, generation: int) -> Credential:
        """The token, ready for requests to the API; `generation` counts the tokens."""
        return Credential(token, generation) if self._binding is None else self._binding.credential(token, generation)

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
        base = (self._oauth.issuer or "").rstrip("/")
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
            return endpoints_in(json_object(body), self._oauth)
        except ValueError as exc:
            return Refusal("malformed", "invalid_response", f"the metadata of oauth.issuer {exc}")

    async def _ask_for_token(self, url: str, credentials: ClientCredentials) -> TokenResponse | Refusal:
        try:
            request = self._token_request(url, credentials)
        except SecretUnreadable as exc:
            return Refusal("rejected", exc.code, exc.detail)
        headers = dict(request.headers)
        if self._binding is not None:
            headers["DPoP"] = self._binding.provider.proof("POST", url)
        reply = await self._exchange("POST", url, headers, request.body, tls=self._token_tls)
        if isinstance(reply, Refusal):
            return reply
        now = self._wall_clock()
        self._skew = clock_skew(reply.headers, now)
        if self._binding is not None:
            self._binding.provider.remember(reply.headers.get("DPoP-Nonce", ""))
        return parse_response(*reply, now=now, dpop=self._oauth.dpop, secrets=request.secrets)

    def _token_request(self, url: str, credentials: ClientCredentials) -> TokenRequest:
        oauth = self._oauth
        return token_request(
            oauth.auth_method,
            credentials,
            assertion=self._assertion(url, credentials),
            scope=oauth.scope,
            audience=oauth.audience,
            resource=oauth.resource,
            params=oauth.params,
        )

    def _assertion(self, url: str, credentials: ClientCredentials) -> str:
        """What the client signs; empty where it shows something else."""
        oauth = self._oauth
        if oauth.auth_method not in ("client_secret_jwt", "private_key_jwt"):
            return ""
        from proxy.core.assertion import Terms, by_private_key, by_secret  # noqa: PLC0415 - as for `_new_binding`

        audience = oauth.assertion.audience or oauth.issuer or url
        terms = Terms(audience, oauth.issuer, oauth.assertion.algorithm, self._time(), token_urlsafe(16))
        return (by_secret if oauth.auth_method == "client_secret_jwt" else by_private_key)(credentials, terms)

    def _time(self) -> float:
        """Unix time by the provider's clock, as far as its last answer told (F20)."""
        return self._wall_clock() + self._skew

    async def _get(self, url: str) -> bytes | Refusal:
        reply = await self._exchange("GET", url, {"Accept": "application/json"})
        if isinstance(reply, Refusal):
            return reply
        if reply.status != HTTPStatus.OK:
            return refused_status(reply.status, reply.headers, self._wall_clock())
        return reply.body

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> _Reply | Refusal:
        if self._session is None:
            self._session = open_session(self._oauth.timeout, {"Accept-Encoding": "identity"})
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=self._oauth.egress_proxy,
                ssl=tls or self._tls,
            ) as response:
                try:
                    content = await _read(response)
                except BaseException:
                    abort(response)
                    raise
                return _Reply(response.status, response.headers, content)
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


def _new_binding(clock: Callable[[], float]) -> "Binding":
    # joserfc and cryptography cost 10 MB and 0.1 s, which only those pay who sign.
    from proxy.dpop import Binding  # noqa: PLC0415 - as said

    return Binding(clock)


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
