"""The token endpoint's rules: Authlib's authorization server, made as strict as Ory Hydra is."""

import base64
import binascii
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web
from authlib.oauth2.rfc6749 import AuthorizationServer, ClientCredentialsGrant, OAuth2Request
from authlib.oauth2.rfc6749.errors import (
    InvalidClientError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from joserfc.jwk import Key, OctKey

_FORM = "application/x-www-form-urlencoded"
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNAUTHORIZED = 401


@dataclass(slots=True)
class Client:
    """A registered client. What is changed here counts from the next request on.

    `auth_method`: of RFC 8414; `key` is the public one of private_key_jwt. With tls_client_auth the subject of the
    certificate is the id.
    """

    client_id: str = "demo"
    client_secret: str = "demo-secret"
    auth_method: str = "client_secret_basic"
    key: Key | None = None
    scopes: set[str] = field(default_factory=lambda: {"fleet.read", "fleet.write"})
    audiences: set[str] = field(default_factory=lambda: {"https://api.example"})
    grant_types: set[str] = field(default_factory=lambda: {"client_credentials"})

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.grant_types

    def check_endpoint_auth_method(self, _method: str, _endpoint: str) -> bool:
        """True: who has found the client has compared the method already."""
        return True


# The members of a token response, for a client, its scopes and its audiences.
Mint = Callable[[Client, list[str], list[str]], Mapping[str, Any]]


class TokenEndpoint(AuthorizationServer):  # type: ignore[misc]  # Authlib has no types
    """Answers token requests for `clients` with what `mint` makes.

    `audiences`: what an assertion may call the provider. `legacy_errors` adds the members that old versions of Hydra
    send.
    """

    def __init__(
        self,
        clients: Mapping[str, Client],
        mint: Mint,
        *,
        audiences: Callable[[], list[str]] = list,
        legacy_errors: bool = False,
    ) -> None:
        super().__init__()
        self.mint = mint
        self._clients = clients
        self._legacy_errors = legacy_errors
        self.register_grant(_ClientCredentials)
        self.register_client_auth_method("assertion", _Assertion(audiences))
        self.register_client_auth_method("certificate", _authenticate_by_certificate)
        self.register_client_auth_method("secret", _authenticate)

    def answer(self, url: str, headers: Mapping[str, str], body: bytes, peer: str | None = None) -> web.Response:
        """The response to a POST of `body`. `headers` finds a field in any case.

        `peer`: the common name in the client's certificate, None where it has shown none.
        """
        request = _Request("POST", url, headers=headers)
        request.peer = peer
        try:
            request.payload = BasicOAuth2Payload(_form(headers, body))
        except OAuth2Error as error:
            refusal: web.Response = self.handle_error_response(request, error)
            return refusal
        response: web.Response = self.create_token_response(request)
        return response

    def query_client(self, client_id: str) -> Client | None:
        return self._clients.get(client_id)

    def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
        """The request itself: `answer` has made it."""
        return request

    def save_token(self, token: Mapping[str, Any], request: OAuth2Request) -> None:
        """Nothing: `mint` keeps what it makes."""

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Nothing: Authlib's frameworks have signals, and nobody listens here."""

    def handle_response(self, status: int, body: Mapping[str, Any], headers: list[tuple[str, str]]) -> web.Response:
        if "error" in body and self._legacy_errors:
            body = {**body, "error_hint": "", "error_debug": "", "status_code": status}
        fields = {**dict(headers), "Content-Type": "application/json;charset=UTF-8"}
        return web.Response(body=json.dumps(body).encode(), status=status, headers=fields)


class _Request(OAuth2Request):  # type: ignore[misc]  # Authlib has no types
    peer: str | None

    @property
    def form(self) -> dict[str, str]:
        parameters: dict[str, str] = self.payload.data
        return parameters


class _ClientCredentials(ClientCredentialsGrant):  # type: ignore[misc]  # Authlib has no types
    # One after another, until one finds that it is used; the last one refuses what is left.
    TOKEN_ENDPOINT_AUTH_METHODS = ("assertion", "certificate", "secret")
    server: TokenEndpoint

    def validate_requested_scope(self) -> None:
        if self._asked("scope") - self.client.scopes:
            raise InvalidScopeError("A scope is not on the list of the client.")
        if self._asked("audience") - self.client.audiences:
            raise InvalidRequestError("An audience is not on the list of the client.")

    def generate_token(self, **_options: object) -> Mapping[str, Any]:
        # What is not asked for is not granted.
        return self.server.mint(self.client, sorted(self._asked("scope")), sorted(self._asked("audience")))

    def _asked(self, parameter: str) -> set[str]:
        return set(self.request.payload.data.get(parameter, "").split())


def _form(headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """The parameters, each of them once (RFC 6749 §3.2). Those of the URL do not count."""
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != _FORM:
        raise InvalidRequestError(f"The body must be {_FORM}.")
    pairs = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
    # RFC 8707 §2: a client may name several resources.
    counts = Counter(name for name, _ in pairs if name != "resource")
    if any(count > 1 for count in counts.values()):
        raise InvalidRequestError("A parameter is repeated.")
    if "grant_type" not in counts:
        raise InvalidRequestError("The parameter grant_type is missing.")
    return dict(pairs)


class _Assertion(JWTBearerClientAssertion):  # type: ignore[misc]  # Authlib has no types
    """client_secret_jwt and private_key_jwt (RFC 7523 §3); each assertion is good for one request."""

    def __init__(self, audiences: Callable[[], list[str]]) -> None:
        super().__init__()
        self.get_audiences = audiences
        self._seen: set[str] = set()

    def __call__(self, query_client: Callable[[str], Client | None], request: _Request) -> Client | None:
        client: Client | None = super().__call__(query_client, request)
        if client is not None and ("Authorization" in request.headers or "client_secret" in request.form):
            raise InvalidRequestError("More than one authentication method was used.")
        if client is not None and request.form.get("client_id", client.client_id) != client.client_id:
            raise InvalidClientError("The assertion is that of another client.", status_code=_UNAUTHORIZED)
        return client

    def validate_jti(self, _claims: Mapping[str, Any], jti: str) -> bool:
        is_new = jti not in self._seen
        self._seen.add(jti)
        return is_new

    def resolve_client_public_key(self, client: Client) -> Key:
        return client.key or OctKey.import_key(client.client_secret)

    def authenticate_client(self, client: Client) -> Client:
        _check_method(client, "private_key_jwt" if client.key else "client_secret_jwt")
        return client


def _authenticate_by_certificate(query_client: Callable[[str], Client | None], request: _Request) -> Client | None:
    client = query_client(request.form.get("client_id", ""))
    if client is None or client.auth_method != "tls_client_auth" or request.peer != client.client_id:
        return None
    return client


def _check_method(client: Client, *used: str) -> None:
    if used != (client.auth_method,):
        hint = f"The client is registered for {client.auth_method}, another method was used."
        raise InvalidClientError(hint, status_code=_UNAUTHORIZED)


def _authenticate(query_client: Callable[[str], Client | None], request: OAuth2Request) -> Client:
    """The client that proved itself by the method it is registered for, and by no other one besides."""
    form = request.payload.data
    basic = _basic_credentials(request.headers.get("Authorization", ""))
    posted = (form.get("client_id", ""), form.get("client_secret", ""))
    client_id, secret = basic or posted
    client = query_client(client_id)
    if client is None or not secrets.compare_digest(client.client_secret.encode(), secret.encode()):
        raise InvalidClientError("Client authentication failed.", status_code=_UNAUTHORIZED)
    methods = (("client_secret_basic", basic), ("client_secret_post", all(posted)))
    _check_method(client, *(method for method, seen in methods if seen))
    return client


def _basic_credentials(authorization: str) -> tuple[str, str] | None:
    """The id and the secret, form-decoded (RFC 6749 §2.3.1); None without credentials in the Basic scheme."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (_form_decoded(client_id), _form_decoded(secret)) if colon else None


def _form_decoded(text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise InvalidRequestError("The credentials of the Authorization header are not form-encoded.")
    return unquote_plus(text)
