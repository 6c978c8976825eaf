"""Who may be served, decided from the request head alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hmac import compare_digest

from proxy.errors import BadTarget, BrowserRefused, HeaderRequired, NotAllowed

_MAX_PORT_DIGITS = 5
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")

# What a browser adds by itself, and no page can take away (Fetch §2.2.2, Fetch Metadata §2).
BROWSER_FIELDS = frozenset(
    {b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"access-control-request-method"}
)
# The fetch() of Node.js and Deno says `Sec-Fetch-Mode: cors`, and the WebSocket of Node.js `websocket`, without being a
# browser. A browser says more than these: with a handshake always Origin (RFC 6455 §4.1, item 8), else the site, too.
_HARMLESS = {
    b"sec-fetch-site": frozenset({b"none"}),
    b"sec-fetch-mode": frozenset({b"cors", b"websocket"}),
    b"sec-fetch-dest": frozenset({b"empty"}),
}

_SITE_AND_MODE = {b"sec-fetch-site", b"sec-fetch-mode"}

# Fields that some frameworks obey in the place of the method or the target, which the rules are for.
OVERRIDES = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL")

# Spellings of a path that a server may read as another one: encoded slashes, dots and percent signs, ASCII as overlong
# UTF-8 (RFC 3629 §10) or in full width, broken encodings, empty and dot segments, backslashes, path parameters, control
# characters (R35, R45).
_AMBIGUOUS = re.compile(
    rb"%(?:2[ef5]|5c|[01][0-9a-f]|7f|c[01]|e0%[89]|ef%bc%(?:8[ef]|bc)|f0%8|f[89a-f]|(?![0-9a-f]{2}))"
    rb"|//|\\|(?:^|/)\.{1,2}(?:[;/]|$)|;",
    re.IGNORECASE,
)


def host_names(configured: Iterable[str]) -> frozenset[bytes]:
    """`policy.allowed_hosts` in the form that `host_allowed` looks up: no port, an IPv6 address in brackets."""
    return frozenset(name.lower().encode() for name in configured)


def host_allowed(host: bytes, allowed: frozenset[bytes]) -> bool:
    """Is `host`, a Host field or an authority, exactly one of `allowed`, with any port or none?

    Names are compared as they are written, so that neither a trailing dot nor another spelling of an address passes:
    a page that rebinds its name to this machine must not be served (R134).
    """
    host = host.lower()
    if host in allowed:
        return True
    name, _, port = host.rpartition(b":")
    return name in allowed and port.isdigit() and len(port) <= _MAX_PORT_DIGITS


def is_host(value: bytes) -> bool:
    """Is it a `uri-host [ ":" port ]` at all? (RFC 9110 §7.2)"""
    return _HOST.fullmatch(value) is not None


def check_browser(noted: Mapping[bytes, bytes], allowed_origins: frozenset[bytes]) -> None:
    """Refuses what a page in a browser could have caused: with our token, reading is as bad as writing (R135-R137).

    `noted`: the values of BROWSER_FIELDS that the request has. Raises BrowserRefused.
    """
    origin = noted.get(b"origin")
    if origin is not None:
        if origin not in allowed_origins:
            raise BrowserRefused
        return
    if noted.keys() >= _SITE_AND_MODE:
        # Harmless by its values: an extension's request, or an address that was typed.
        raise BrowserRefused
    for name in BROWSER_FIELDS & noted.keys():
        if noted[name] not in _HARMLESS.get(name, ()):
            raise BrowserRefused


def check_header(value: bytes | None, required: bytes) -> None:
    """Raises HeaderRequired unless the field is there, once, with the value (R139)."""
    if value is None or not compare_digest(value, required):
        raise HeaderRequired


@dataclass(frozen=True, slots=True)
class PathRule:
    """Methods (none: all) and a path: `*` is one segment, a last `**` is any number of segments."""

    methods: frozenset[str]
    segments: tuple[bytes, ...]
    open_ended: bool

    @classmethod
    def parse(cls, methods: Iterable[str], path: str) -> "PathRule":
        segments = tuple(path.encode().split(b"/"))
        open_ended = segments[-1] == b"**"
        return cls(frozenset(methods), segments[:-1] if open_ended else segments, open_ended)

    def matches(self, method: str, segments: list[bytes]) -> bool:
        if self.methods and method not in self.methods:
            return False
        if len(segments) < len(self.segments) or (len(segments) > len(self.segments) and not self.open_ended):
            return False
        # An empty segment is no `*`: to many servers `/vehicles/` is `/vehicles`, and not one of the vehicles.
        return all(
            pattern == segment or (pattern == b"*" and segment)
            for pattern, segment in zip(self.segments, segments, strict=False)
        )


def check_path(rules: tuple[PathRule, ...], method: str, target: bytes) -> None:
    """Is the target, in the very bytes that are sent, one that a rule allows? (R45)

    The query counts for nothing. Raises BadTarget for a path that could be read in two ways, else NotAllowed.
    """
    path = target.partition(b"?")[0]
    if _AMBIGUOUS.search(path):
        raise BadTarget("With policy.allow, the path must have one reading: no encoded dots or slashes, no `..`.")
    segments = path.split(b"/")
    if not any(rule.matches(method, segments) for rule in rules):
        raise NotAllowed
