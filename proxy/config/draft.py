"""A configuration that comes into being: the answers to a few questions, and the file that they make."""

import re

import msgspec

from proxy.config import forms
from proxy.config.checks import problems
from proxy.config.document import scalar
from proxy.core.secret import Secret
from proxy.secret import SecretRef
from proxy.settings import AuthMethod, Client, OAuth, Settings, Upstream

_SERVICE = "thg-proxy"
_KEYS = {
    "upstream_url": "upstream.url",
    "token_url": "oauth.token_url",
    "issuer": "oauth.issuer",
    "scope": "oauth.scope",
}
# What is the same text in YAML without quotes, wherever it stands.
_BARE = re.compile(r"[A-Za-z0-9/](?:[A-Za-z0-9/._@:=~-]*[A-Za-z0-9/_=~-])?")

_HEAD = """\
# Made by `thg-proxy init`. What is commented out is what may be wanted next; `thg-proxy check --print` shows every key,
# and the value that is in force.
"""
_HINTS = """\

# listen:
#   address: 127.0.0.1:8080 # where your app calls the proxy
# admin:
#   address: 127.0.0.1:9090 # open http://127.0.0.1:9090/ in a browser
# policy:
#   allow: [{methods: [GET], path: "/v1/**"}] # what your app may do; without it, all that the client may do
# log:
#   access: all # a line for each request
"""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """Either `token_url` or `issuer` is given in the end."""

    upstream_url: str = Upstream().url
    token_url: str | None = None
    issuer: str | None = None
    client_id: str = ""
    client_secret: Secret = Secret("")
    scope: str | None = None
    auth_method: AuthMethod = OAuth().auth_method

    def settings(self) -> Settings:
        """With the client as it is, to be tried."""
        client = Client(
            client_id=SecretRef("literal", "", Secret(self.client_id)),
            client_secret=SecretRef("literal", "", self.client_secret),
        )
        oauth = OAuth(
            token_url=self.token_url,
            issuer=self.issuer,
            auth_method=self.auth_method,
            clients=(client,),
            scope=self.scope,
        )
        return Settings(upstream=Upstream(url=self.upstream_url), oauth=oauth)

    def fault(self, name: str) -> str | None:
        """What is wrong with the answer of that name, without the answer; None where it can be used."""
        answer = getattr(self, name)
        text = answer.reveal() if isinstance(answer, Secret) else answer
        if text is not None and not (text and text.isprintable()):
            return "must be a line of text"
        return next((problem.text for problem in problems(self.settings()) if problem.key == _KEYS.get(name)), None)

    @property
    def keyring_entry(self) -> tuple[str, str]:
        """Service and name: of this client at this provider."""
        provider = forms.server(self.token_url or self.issuer or "")
        return _SERVICE, f"{self.client_id}@{provider.host if provider else ''}"

    def text(self, client_secret: SecretRef) -> str:
        """The file, in which the secret is what `client_secret` refers to."""
        return "\n".join([_HEAD, *self._upstream(), *self._oauth(client_secret)]) + _HINTS

    def _upstream(self) -> list[str]:
        return [
            "upstream:",
            f"  url: {_scalar(self.upstream_url)} # the API",
            "  # tls: {ca_file: ca.pem} # of a CA that this machine does not trust",
            "",
        ]

    def _oauth(self, client_secret: SecretRef) -> list[str]:
        lines = ["oauth:"]
        if self.token_url is not None:
            lines += [
                f"  token_url: {_scalar(self.token_url)}",
                "  # jwks_url: https://idp.example.com/keys # with the provider's keys each token is verified",
            ]
        else:
            lines += [f"  issuer: {_scalar(self.issuer or '')} # names the token URL, and the keys that verify tokens"]
        if self.auth_method != OAuth().auth_method:
            lines += [f"  auth_method: {self.auth_method}"]
        lines += [
            "  clients:",
            f"    - client_id: {_scalar(self.client_id)}",
            f"      client_secret: {{{client_secret.kind}: {_scalar(client_secret.source)}}}",
        ]
        if self.scope is not None:
            return [*lines, f"  scope: {_scalar(self.scope)}", ""]
        return [*lines, '  # scope: "a b" # no more than your app needs; without it the provider may grant nothing', ""]


def _scalar(text: str) -> str:
    """As it stands in YAML, in any context."""
    if _BARE.fullmatch(text) and scalar(text, plain=True) == text:
        return text
    inner = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{inner}"'
