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

_FORM = "application/x-www-form-urlencoded"
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNAUTHORIZED = 401


@dataclass(slots=True)
class Client:
    """A registered client. What is changed here counts from the next request on."""

    client_id: str = "demo"
    client_secret: str = "demo-secret"
    auth_method: str = "client_secret_basic"
    scopes: set[str] = field(default_factory=lambda: {"fleet.read", "fleet.write"})
    audiences: set[str] = field(default_factory=lambda: {"https://api.example"})
    grant_types: set[str] = field(default_factory=lambda: {"client_credentials"})

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.grant_types

    def check_endpoint_auth_method(self, _method: str, _endpoint: str) -> bool:
        """True: `_authenticate` has compared the method already."""
        return True


# The members of a token response, for a client, its scopes and its audiences.
Mint = Callable[[Client, list[str], list[str]], Mapping[str, Any]]


class TokenEndpoint(AuthorizationServer):  # type: ignore[misc]  # Authlib has no types
    """Answers token requests for `clients` with what `mint` makes.

    `legacy_errors` adds the members that old versions of Hydra send.
    """

    def __init__(self, clients: Mapping[str, Client], mint: Mint, *, legacy_errors: bool = False) -> None:
        super().__init__()
        self.mint = mint
        self._clients = clients
        self._legacy_errors = legacy_errors
        self.register_grant(_ClientCredentials)
        self.register_client_auth_method("registered", _authenticate)

    def answer(self, url: str, headers: Mapping[str, str], body: bytes) -> web.Response:
        """The response to a POST of `body`. `headers` finds a field in any case."""
        request = OAuth2Request("POST", url, headers=headers)
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


class _ClientCredentials(ClientCredentialsGrant):  # type: ignore[misc]  # Authlib has no types
    TOKEN_ENDPOINT_AUTH_METHODS = ("registered",)
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


def _authenticate(query_client: Callable[[str], Client | None], request: OAuth2Request) -> Client:
    """The client that proved itself by the method it is registered for, and by no other one besides."""
    form = request.payload.data
    basic = _basic_credentials(request.headers.get("Authorization", ""))
    posted = (form.get("client_id", ""), form.get("client_secret", ""))
    client_id, secret = basic or posted
    client = query_client(client_id)
    if client is None or not secrets.compare_digest(client.client_secret.encode(), secret.encode()):
        raise InvalidClientError("Client authentication failed.", status_code=_UNAUTHORIZED)
    used = {method for method, seen in (("client_secret_basic", basic), ("client_secret_post", all(posted))) if seen}
    if used != {client.auth_method}:
        hint = f"The client is registered for {client.auth_method}, another method was used."
        raise InvalidClientError(hint, status_code=_UNAUTHORIZED)
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
