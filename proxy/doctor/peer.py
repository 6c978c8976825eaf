"""A server that the proxy talks to, as the configuration describes it."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.settings import ClientTls, Duration, OAuth, Upstream

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Peer:
    """`section`, `key`: of the configuration, and of the URL in it. `timeout`: for each step on the way there.

    `server_name`: the name that its certificate must be for, if that is not the host of the URL.
    """

    section: str
    key: str
    url: str
    timeout: Duration
    tls: ClientTls
    egress_proxy: str | None = None
    server_name: str | None = None

    @property
    def host(self) -> str:
        return _server(self.url)[0]

    @property
    def port(self) -> int:
        return _server(self.url)[1]

    @property
    def is_secure(self) -> bool:
        return urlsplit(self.url).scheme == "https"

    def is_reached_as(self, other: "Peer") -> bool:
        """Does what was found about the one hold for the other?"""
        return (self.host, self.port, self.is_secure, self.tls) == (other.host, other.port, other.is_secure, other.tls)

    @property
    def name(self) -> str:
        return self.server_name or self.host

    @property
    def first_hop(self) -> tuple[str, int]:
        """What is looked up and connected to: the egress proxy, if there is one."""
        return _server(self.egress_proxy or self.url)

    @property
    def first_hop_key(self) -> str:
        return f"{self.section}.egress_proxy" if self.egress_proxy else self.key

    @property
    def is_tunnelled(self) -> bool:
        """Does CONNECT lead to it? What is plain http of `oauth`, aiohttp hands to the egress proxy to forward."""
        return self.egress_proxy is not None and (self.is_secure or self.section == "upstream")


def issuer_of(oauth: OAuth) -> Peer:
    """Where the metadata is. Only the token endpoint is shown a client certificate."""
    tls = ClientTls(ca_file=oauth.tls.ca_file)
    return Peer("oauth", "oauth.issuer", oauth.issuer or "", oauth.timeout, tls, oauth.egress_proxy)


def token_endpoint_at(url: str, oauth: OAuth) -> Peer:
    return Peer("oauth", "oauth.token_url", url, oauth.timeout, oauth.tls, oauth.egress_proxy)


def upstream_of(upstream: Upstream) -> Peer:
    return Peer(
        "upstream",
        "upstream.url",
        upstream.url,
        upstream.connect_timeout,
        upstream.tls,
        upstream.egress_proxy,
        upstream.tls.server_name,
    )


def _server(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
