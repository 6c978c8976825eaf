"""What must come out nowhere: the secrets of a run, in every form in which they could (R145)."""

import base64
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

from proxy.demo.authorization import Client
from proxy.demo.idp import DemoProvider

# So much of a token is like nothing else. In twice as much of it, wherever a log cuts, one piece is whole.
_PIECE = 16
# Credentials of any kind, also of providers that a test has made for itself.
_CREDENTIALS = re.compile(r"\b(?:Bearer|DPoP|Basic) [\w+/.~=-]+|\beyJ[\w-]{10,}|PRIVATE KEY")


def canaries(provider: DemoProvider) -> set[str]:
    """Of every client of `provider`, and of every token that it has issued."""
    secrets = {form for client in provider.clients.values() if client.client_secret for form in _forms(client)}
    return secrets | {piece for token in list(provider.tokens) for piece in _pieces(token)}


def leaks(text: str, provider: DemoProvider) -> list[str]:
    """What of it is in `text`."""
    return [canary for canary in canaries(provider) if canary in text] + _CREDENTIALS.findall(text)


def _pieces(token: str) -> Iterator[str]:
    return (token[start : start + _PIECE] for start in range(0, len(token) - _PIECE + 1, _PIECE))


def _forms(client: Client) -> Iterator[str]:
    secret = client.client_secret
    yield from (secret, quote_plus(secret), quote(secret, safe=""))
    for text in (secret, f"{client.client_id}:{secret}", f"{quote_plus(client.client_id)}:{quote_plus(secret)}"):
        yield base64.b64encode(text.encode()).decode().rstrip("=")
        yield base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
