"""How a client shows a token endpoint who it is: one way per request (RFC 6749 §2.3)."""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote_plus

from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable

# Of client_secret_jwt (RFC 7518 §3.2).
HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")

# RFC 7523 §2.2
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_JWT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
# Of an assertion that somebody else made. Servers take 8 KiB to 1 MiB of form.
_MAX_ASSERTION = 16 * 1024


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """What a client shows the provider. Secrets both, so that neither is printed.

    `client_secret`: the secret, the private key (PEM or JWK) or the assertion, by the method; None where the client
    shows a certificate. `key_id`: what the provider calls the private key; None: what the JWK says, if anything.
    """

    client_id: Secret
    client_secret: Secret | None
    key_id: str | None = None

    @property
    def secret(self) -> str:
        """The secret's text. Raises SecretUnreadable where there is none."""
        if self.client_secret is None:
            raise SecretUnreadable("the client has no secret")
        return self.client_secret.reveal()


class Shown(NamedTuple):
    """What is added to a token request. `secrets`: each form in which a secret is in it."""

    headers: Mapping[str, str]
    form: tuple[tuple[str, str], ...]
    secrets: tuple[str, ...]


def _basic(client: ClientCredentials, _assertion: str) -> Shown:
    # RFC 6749 §2.3.1 and appendix B. authlib's own client_secret_basic leaves the form encoding out.
    return _basic_header(quote_plus(client.client_id.reveal()), quote_plus(client.secret), client)


def _basic_raw(client: ClientCredentials, _assertion: str) -> Shown:
    if ":" in client.client_id.reveal():
        raise SecretUnreadable("the client id has a colon, which client_secret_basic_raw can't carry (RFC 7617 §2)")
    return _basic_header(client.client_id.reveal(), client.secret, client)


def _basic_header(name: str, password: str, client: ClientCredentials) -> Shown:
    credentials = b64encode(f"{name}:{password}".encode()).decode()
    return Shown({"Authorization": f"Basic {credentials}"}, (), (*_forms(client.secret), credentials))


def _post(client: ClientCredentials, _assertion: str) -> Shown:
    form = (("client_id", client.client_id.reveal()), ("client_secret", client.secret))
    return Shown({}, form, _forms(client.secret))


def _asserted(client: ClientCredentials, assertion: str) -> Shown:
    form = (
        # Optional (RFC 7521 §4.2), and wanted by many providers.
        ("client_id", client.client_id.reveal()),
        ("client_assertion_type", _ASSERTION_TYPE),
        ("client_assertion", assertion),
    )
    return Shown({}, form, (assertion, *_forms(client.secret)))


def _federated(client: ClientCredentials, _assertion: str) -> Shown:
    assertion = client.secret
    if len(assertion) > _MAX_ASSERTION or not _JWT.fullmatch(assertion):
        raise SecretUnreadable(f"the assertion is not a signed JWT of at most {_MAX_ASSERTION // 1024} KiB")
    return _asserted(client, assertion)


def _certificate(client: ClientCredentials, _assertion: str) -> Shown:
    # RFC 8705 §2: the certificate is in the TLS handshake, the id says whose it is.
    return Shown({}, (("client_id", client.client_id.reveal()),), ())


def _forms(secret: str) -> tuple[str, str]:
    return secret, quote_plus(secret)


AUTH_METHODS: Mapping[str, Callable[[ClientCredentials, str], Shown]] = {
    "client_secret_basic": _basic,
    "client_secret_basic_raw": _basic_raw,
    "client_secret_post": _post,
    "client_secret_jwt": _asserted,
    "private_key_jwt": _asserted,
    "tls_client_auth": _certificate,
    "federated": _federated,
}
"""By the name in the configuration: what the client shows, given the assertion that was signed for this request.

Each raises SecretUnreadable where the credentials can't be sent in that way, and UnicodeEncodeError where they are no
text.
"""
