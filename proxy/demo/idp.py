"""An OAuth2 provider that behaves like Ory Hydra, and misbehaves when it is told to."""

import json
import time
import uuid
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import RSAKey

from proxy.demo.authorization import Client, TokenEndpoint
from proxy.demo.server import Handler, LoopbackServer

TOKEN_PATH = "/oauth2/token"
JWKS_PATH = "/.well-known/jwks.json"
DISCOVERY_PATHS = ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server")

_KEPT = 1000
_KEY_BITS = 2048


class _Omit(Enum):
    OMIT = "omit"


OMIT = _Omit.OMIT
"""In place of a member's value: the member is left out. (None is JSON's null.)"""


@dataclass(slots=True)
class Faults:
    """What goes wrong, looked at for each request.

    `token`, `jwks` and `discovery` answer in place of the provider (`proxy.demo.faults`, or any handler; it may await
    the provider's own). The others alter the provider's answer: members of the token response, of the JWT's header
    and of its claims are replaced, and the JWT is signed with another key under the same `kid`.
    """

    token: Handler | None = None
    jwks: Handler | None = None
    discovery: Handler | None = None
    response: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    signing_key: RSAKey | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived. `headers` finds a field in any case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class DemoProvider(LoopbackServer):
    """Tokens for `clients` by client credentials; RS256, as JWTs, valid for `lifetime` seconds.

    Everything can be changed while it runs: `faults`, `lifetime`, `clients` (by id), `published` (the keys that the
    JWKS shows), `clock` (wall clock, seconds). `received` and `tokens` are the last thousand requests and access
    tokens, `minted` counts the tokens.
    """

    def __init__(
        self,
        *clients: Client,
        lifetime: float = 86400,
        clock: Callable[[], float] = time.time,
        legacy_errors: bool = False,
    ) -> None:
        super().__init__()
        self.clients = {client.client_id: client for client in clients or (Client(),)}
        self.lifetime = lifetime
        self.clock = clock
        self.faults = Faults()
        self.received: deque[Received] = deque(maxlen=_KEPT)
        self.tokens: deque[str] = deque(maxlen=_KEPT)
        self.minted = 0
        self.key = new_key()
        self.published = [self.key]
        self._endpoint = TokenEndpoint(
            self.clients,
            self._mint,
            audiences=lambda: [self.issuer, self.token_url],
            legacy_errors=legacy_errors,
        )

    @property
    def issuer(self) -> str:
        return self.url

    @property
    def token_url(self) -> str:
        return self.url + TOKEN_PATH

    @property
    def jwks_url(self) -> str:
        return self.url + JWKS_PATH

    def rotate_keys(self, *, keep_old: bool = True, publish: bool = True) -> None:
        """Signs with a new key from here on. Without `publish` the JWKS lags: append `key` to `published` later."""
        self.key = new_key()
        self.published = (self.published if keep_old else []) + ([self.key] if publish else [])

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.received.append(Received(request.method, request.path, request.query_string, request.headers, body))
        response = await self._handler(request)(request)
        if not response.prepared:
            response.headers.setdefault("Date", formatdate(self.clock(), usegmt=True))
        return response

    async def issue_token(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the token endpoint answers without a fault."""
        return self._endpoint.answer(self.token_url, request.headers, await request.read(), common_name(request))

    async def show_keys(self, _request: web.BaseRequest) -> web.StreamResponse:
        """The JWKS (RFC 7517 §5)."""
        return web.json_response({"keys": [key.as_dict(private=False) for key in self.published]})

    async def describe(self, _request: web.BaseRequest) -> web.StreamResponse:
        """The metadata (RFC 8414 §2)."""
        return web.json_response(
            {
                "issuer": self.issuer,
                "token_endpoint": self.token_url,
                "jwks_uri": self.jwks_url,
                "response_types_supported": [],
                "grant_types_supported": ["client_credentials"],
                "token_endpoint_auth_methods_supported": [
                    "client_secret_basic",
                    "client_secret_post",
                    "client_secret_jwt",
                    "private_key_jwt",
                    "tls_client_auth",
                ],
            }
        )

    def _handler(self, request: web.BaseRequest) -> Handler:
        routes = {
            TOKEN_PATH: ("POST", self.faults.token or self.issue_token),
            JWKS_PATH: ("GET", self.faults.jwks or self.show_keys),
            **dict.fromkeys(DISCOVERY_PATHS, ("GET", self.faults.discovery or self.describe)),
        }
        if request.path not in routes:
            raise web.HTTPNotFound
        method, handler = routes[request.path]
        if request.method != method:
            raise web.HTTPMethodNotAllowed(request.method, [method])
        return handler

    def _mint(self, client: Client, scopes: list[str], audiences: list[str]) -> dict[str, Any]:
        issued = int(self.clock())
        expires = issued + self.lifetime
        token = self._signed(
            {
                "iss": self.issuer,
                "sub": client.client_id,
                "aud": audiences,
                "client_id": client.client_id,
                "exp": int(expires),
                "iat": issued,
                "nbf": issued,
                "jti": str(uuid.uuid4()),
                "scp": scopes,
                "ext": {},
            }
        )
        self.minted += 1
        self.tokens.append(token)
        answer = {
            "access_token": token,
            # Counted back from the expiry, which is a whole second: 86399 where the lifetime is a day.
            "expires_in": int(expires - self.clock()),
            "scope": " ".join(scopes),
            "token_type": "bearer",
        }
        return _altered(answer, self.faults.response)

    def _signed(self, claims: Mapping[str, Any]) -> str:
        header = _altered({"alg": "RS256", "typ": "JWT", "kid": self.key.kid}, self.faults.header)
        claims = _altered(claims, self.faults.claims)
        if header["alg"] == "none":
            return f"{_part(header)}.{_part(claims)}."
        return jwt.encode(header, claims, self.faults.signing_key or self.key, algorithms=[header["alg"]])


def common_name(request: web.BaseRequest) -> str | None:
    """Of the certificate that the client has shown, None where it has shown none."""
    certificate = request.get_extra_info("peercert") or {}
    names = (attribute for part in certificate.get("subject", ()) for attribute in part)
    return next((value for name, value in names if name == "commonName"), None)


def new_key() -> RSAKey:
    return RSAKey.generate_key(_KEY_BITS, {"use": "sig", "alg": "RS256"}, auto_kid=True)


def _altered(members: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**members, **changes}.items() if value is not OMIT}


def _part(members: Mapping[str, Any]) -> str:
    return urlsafe_b64encode(json.dumps(members).encode()).rstrip(b"=").decode()
