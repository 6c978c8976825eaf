"""What an identity provider says of itself (RFC 8414, OpenID Connect Discovery): where its endpoints are."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.config.forms import server
from proxy.settings import OAuth, is_loopback_host

# By other names, the methods of the registry that some of ours are (RFC 8414 §2). A certificate that the provider knows
# by itself, and not by its authority, is shown in the same way (RFC 8705 §2.2).
_REGISTERED = {
    "client_secret_basic_raw": {"client_secret_basic"},
    "federated": {"private_key_jwt"},
    "tls_client_auth": {"tls_client_auth", "self_signed_tls_client_auth"},
}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """`refuses_method`: the metadata does not list the way in which the client is configured to show who it is."""

    token_url: str
    jwks_url: str | None
    refuses_method: bool = False


def configured_endpoints(oauth: OAuth) -> Endpoints | None:
    """None where the issuer's metadata is needed: for the token URL, or for keys to verify with."""
    wants_jwks_url = oauth.issuer is not None and oauth.jwks_url is None and oauth.verify.mode != "off"
    if oauth.token_url is None or wants_jwks_url:
        return None
    return Endpoints(oauth.token_url, oauth.jwks_url)


def endpoints_in(metadata: Mapping[str, object], oauth: OAuth) -> Endpoints:
    """What is configured, completed from the metadata of `oauth.issuer`. ValueError, which says what is wrong."""
    issuer = oauth.issuer or ""
    # RFC 8414 §3.3: identical, else one provider could speak for another.
    if metadata.get("issuer") != issuer:
        raise ValueError("is that of another issuer")
    token_url = oauth.token_url or _token_endpoint(metadata, oauth)
    if token_url is None:
        raise ValueError("names no token_endpoint")
    jwks_url = oauth.jwks_url or _endpoint(metadata, "jwks_uri", issuer)
    return Endpoints(token_url, jwks_url, _refuses(metadata, oauth.auth_method))


def _token_endpoint(metadata: Mapping[str, object], oauth: OAuth) -> str | None:
    issuer = oauth.issuer or ""
    aliases = metadata.get("mtls_endpoint_aliases")
    if oauth.tls.cert_file is not None and isinstance(aliases, dict):
        # RFC 8705 §5: whoever has a certificate to show shows it there.
        alias = _endpoint(aliases, "token_endpoint", issuer)
        if alias is not None:
            return alias
    return _endpoint(metadata, "token_endpoint", issuer)


def _endpoint(metadata: Mapping[str, object], name: str, issuer: str) -> str | None:
    url = metadata.get(name)
    if url is None:
        return None
    if not isinstance(url, str) or not _is_acceptable(url, issuer):
        raise ValueError(f"has a {name} that is not an https URL, or one that it can't speak for")
    return url


def _is_acceptable(url: str, issuer: str) -> bool:
    """https, and no place that is another one for everybody who asks, unless the issuer is there, too.

    So metadata can't turn us to this machine, or to the metadata service of its cloud.
    """
    peer, home = server(url), server(issuer)
    if peer is None:
        return False
    place = _place(peer.host)
    if place and (home is None or _place(home.host) != place):
        return False
    return url.startswith("https:") or place == "loopback"


def _place(host: str) -> str:
    """What a literal address is relative to, empty for names and for addresses that are the same everywhere."""
    if is_loopback_host(host):
        return "loopback"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if (mapped := getattr(address, "ipv4_mapped", None)) is not None:
        return _place(str(mapped))
    # 0.0.0.0 and :: lead to this machine, too (RFC 1122 §3.2.1.3).
    return "link" if address.is_link_local else "loopback" if address.is_unspecified else ""


def _refuses(metadata: Mapping[str, object], auth_method: str) -> bool:
    listed = metadata.get("token_endpoint_auth_methods_supported")
    if not isinstance(listed, list):
        return False
    return not any(name in listed for name in _REGISTERED.get(auth_method, {auth_method}))
