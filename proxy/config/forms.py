"""The written forms of hosts, URLs, header fields and rules: whether a text is well-formed, and if not, why.

Nothing here quotes the text: it may hold a password.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from proxy.settings import is_ipv6, is_loopback_host

_HOST = r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_PORT = r"[0-9]{1,5}"
_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)", re.DOTALL)
_AUTHORITY = re.compile(rf"(?P<host>{_HOST})(?::(?P<port>{_PORT}))?")
# RFC 3986 §3.3: the characters of a path.
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*")
_DEFAULT_PORT = {"http": 80, "https": 443}
_MAX_PORT = 65535

HOST = re.compile(_HOST)
ORIGIN = re.compile(rf"https?://(?:{_HOST})(?::{_PORT})?")
_EGRESS_PROXY = re.compile(rf"http://(?:{_HOST}):{_PORT}")
# RFC 3986 §3.2.1; redis-py decodes %XX in a user name and a password.
_USERINFO = r"(?:[A-Za-z0-9._~!$&'()*+,;=:%-]*@)?"
_REDIS = rf"{_USERINFO}(?:{_HOST})(?::{_PORT})?(?:/[0-9]{{0,4}})?"
_STORE = re.compile(rf"memory|file:/[^\0]+|redis://{_REDIS}|rediss://{_REDIS}(?:\?ssl_ca_certs=/[A-Za-z0-9._~%/-]+)?")
UNIX_MODE = re.compile(r"0?[0-7]{3}")
CLIENT_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# RFC 6838 §4.2, with or without the top-level type (RFC 7515 §4.1.9)
MEDIA_TYPE = re.compile(r"(?:[A-Za-z0-9!#$&^_.+-]+/)?[A-Za-z0-9!#$&^_.+-]+")
METHOD = re.compile(r"[A-Z][A-Z-]*")
# RFC 9110 §5.6.2 and §5.5; a value that the proxy writes is ASCII.
FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FIELD_VALUE = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")


class Server(NamedTuple):
    """`host` in lower case, an IPv6 address without brackets."""

    host: str
    port: int


def server(url: str) -> Server | None:
    """The server that a URL names; None where it is not well-formed."""
    url_parts = _URL.fullmatch(url)
    authority = _AUTHORITY.fullmatch(url_parts["authority"]) if url_parts else None
    if url_parts is None or authority is None:
        return None
    host, port = authority["host"], int(authority["port"] or _DEFAULT_PORT[url_parts["scheme"]])
    if port > _MAX_PORT or (host.startswith("[") and not is_ipv6(host[1:-1])):
        return None
    return Server(host.strip("[]").lower(), port)


def url_faults(url: str, *, plain: bool = False, unless: str = "", egress_proxy: str | None = None) -> Iterator[str]:
    """The first thing that is wrong with a URL, if any (R41, R43). `plain`: http is accepted to every host.

    Else it is accepted for what stays on this machine.
    """
    parts = _URL.fullmatch(url)
    if parts is None:
        yield "must be a URL such as https://api.example.com"
    elif "@" in parts["authority"]:
        yield "must not hold a user name or a password"
    elif parts["rest"]:
        yield "must not hold a query or a fragment"
    elif (peer := server(url)) is None:
        yield "must name a host, with a port of at most 65535 if any"
    elif not _is_plain_path(parts["path"]):
        yield "must have a plain path: no empty, `.` or `..` segment, special characters as %XX"
    elif parts["scheme"] == "http" and not (plain or is_loopback_host(peer.host)):
        yield f"must be https; plain http is accepted only to a loopback address{unless}"
    elif parts["scheme"] == "http" and not plain and _is_elsewhere(egress_proxy):
        yield "must be https, since the egress proxy is not on this machine"


def _is_elsewhere(egress_proxy: str | None) -> bool:
    hop = server(egress_proxy) if egress_proxy else None
    return hop is not None and not is_loopback_host(hop.host)


def _is_plain_path(path: str) -> bool:
    """Empty, or segments that no server would take for others; one slash may end it."""
    inner = path.removesuffix("/").split("/")[1:]
    return _PATH.fullmatch(path) is not None and not {"", ".", ".."} & set(inner)


def is_egress_proxy(url: str) -> bool:
    """Is it http://HOST:PORT, and nothing more?"""
    return _EGRESS_PROXY.fullmatch(url) is not None and server(url) is not None


def is_store(url: str) -> bool:
    """Is it what `proxy.stores` opens? Of redis-py's options, which a query holds, the CA file is the only one."""
    try:
        return _STORE.fullmatch(url) is not None and urlsplit(url).port != 0
    except ValueError:  # a port past 65535, or no IPv6 address in the brackets
        return False


def is_path_rule(pattern: str) -> bool:
    """`/v1/*/status`, `/v1/**`: `*` is one whole segment, `**` the rest, and only last."""
    segments = pattern.split("/")
    if segments[-1] == "**":
        segments.pop()
    return pattern.startswith("/") and _is_plain_path(pattern) and not any("*" in s for s in segments if s != "*")
