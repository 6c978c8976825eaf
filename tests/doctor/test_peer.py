import pytest

from proxy.doctor.peer import Peer, issuer_of, token_endpoint_at, upstream_of
from proxy.settings import ClientTls, OAuth, Upstream, UpstreamTls


@pytest.mark.parametrize(
    "url, host, port",
    [
        ("https://api.example", "api.example", 443),
        ("http://localhost/base", "localhost", 80),
        ("https://[2001:db8::1]:8443/", "2001:db8::1", 8443),
    ],
)
def test_host_and_port(url: str, host: str, port: int) -> None:
    """The host is without brackets, the port is that of the scheme unless the URL has one."""
    peer = upstream_of(Upstream(url=url))
    assert (peer.host, peer.port, peer.first_hop) == (host, port, (host, port))


def test_server_name() -> None:
    """The certificate must be for the configured name, else for the host."""
    assert (
        upstream_of(Upstream(url="https://10.0.0.1", tls=UpstreamTls(server_name="api.example"))).name == "api.example"
    )
    assert upstream_of(Upstream(url="https://api.example")).name == "api.example"


def test_first_hop() -> None:
    """With an egress proxy that is what is connected to, and what is to be checked."""
    peer = token_endpoint_at("https://idp.example/token", OAuth(egress_proxy="http://proxy.example:3128"))
    assert (peer.first_hop, peer.first_hop_key) == (("proxy.example", 3128), "oauth.egress_proxy")
    assert token_endpoint_at("https://idp.example/token", OAuth()).first_hop_key == "oauth.token_url"
    peer = upstream_of(Upstream(url="https://api.example", egress_proxy="http://[2001:db8::1]:3128"))
    assert (peer.first_hop, peer.first_hop_key) == (("2001:db8::1", 3128), "upstream.egress_proxy")


def test_tunnel() -> None:
    """To the upstream a tunnel leads in any case, to the provider only for https, which is what the proxy does, too."""
    egress = "http://proxy.example:3128"
    for scheme in ("http", "https"):
        assert upstream_of(Upstream(url=f"{scheme}://localhost", egress_proxy=egress)).is_tunnelled
        endpoint = token_endpoint_at(f"{scheme}://localhost", OAuth(egress_proxy=egress))
        assert endpoint.is_tunnelled == (scheme == "https")
    assert not upstream_of(Upstream()).is_tunnelled


def issuer(**tls: str) -> tuple[Peer, OAuth]:
    oauth = OAuth(issuer="https://idp.example/tenant", tls=ClientTls(ca_file="ca.pem", **tls))
    return issuer_of(oauth), oauth


@pytest.mark.parametrize(
    "url, same",
    [
        ("https://idp.example:443/token", True),
        ("https://idp.example:8443/token", False),
        ("https://mtls.idp.example/token", False),
        ("http://idp.example:443/token", False),
    ],
)
def test_one_server(url: str, same: bool) -> None:
    """What was found out about the issuer is found out again only for an endpoint at another place."""
    peer, oauth = issuer()
    assert token_endpoint_at(url, oauth).is_reached_as(peer) == same


def test_certificate_of_the_client() -> None:
    """Only the token endpoint is shown the client certificate, so that its handshake is another one (RFC 8705 §2)."""
    peer, oauth = issuer(cert_file="client.pem", key_file="client.key")
    endpoint = token_endpoint_at("https://idp.example/token", oauth)
    assert (peer.tls, endpoint.tls) == (ClientTls(ca_file="ca.pem"), oauth.tls)
    assert not endpoint.is_reached_as(peer)
