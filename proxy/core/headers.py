"""Header blocks, bytes in and bytes out. The order is the rule: strip first, add last.

A caller who names `Authorization` in `Connection` must not make us drop the field that we add (golang/go#50580, R47).
So the fields of a message are read into lines first, without all that ends here, and only then ours are appended.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

Fields = Iterable[tuple[bytes, bytes]]

PSEUDONYM = b"thg-proxy"

# RFC 9110 §7.6.1, with the non-standard fields that proxies of old invented.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"upgrade",
        b"http2-settings",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
    }
)
# What the client may not say for itself: identity is ours to give (R60, R65, R71).
_CLIENT_IDENTITY = frozenset({b"authorization", b"cookie", b"forwarded", b"x-real-ip"})
_FORWARDED_PREFIX = b"x-forwarded-"
# Read here and rebuilt by `request_head`.
_REBUILT = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade"})

# The connection options that name no field, and the values that have nothing else.
_PLAIN_OPTIONS = frozenset({b"", b"close", b"keep-alive"})
_PLAIN_VALUES = frozenset({b"close", b"keep-alive", b"Keep-Alive"})


class _Handling(NamedTuple):
    """What becomes of a field."""

    noted: bool
    passed: bool


_DROP = _Handling(noted=False, passed=False)
_REBUILD = _Handling(noted=True, passed=False)
_NOTE = _Handling(noted=True, passed=True)
_PASS = _Handling(noted=False, passed=True)

_MAX_KNOWN = 512


class MessageFields(NamedTuple):
    """The end-to-end fields of a message as finished lines, in their order, and the values that were noted on the way.

    A noted field that came in several lines is joined with commas (RFC 9110 §5.3). `size`: bytes of the whole section,
    with what was dropped.
    """

    lines: list[bytes]
    noted: dict[bytes, bytes]
    size: int


NO_FIELDS = MessageFields([], {}, 0)


class RequestRules:
    """What `upstream.headers` and `upstream.via` say, prepared once.

    `noted`, `withheld`: names (lower case) of fields whose values somebody wants to see; the withheld end here.
    """

    def __init__(
        self,
        authority: bytes,
        *,
        via: bool = True,
        added: Mapping[str, str] | None = None,
        removed: Iterable[str] = (),
        noted: Iterable[bytes] = (),
        withheld: Iterable[bytes] = (),
    ) -> None:
        self.via = via
        self.host = b"Host: " + authority + b"\r\n"
        self.added = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in (added or {}).items())
        gone = {name.encode().lower() for name in (*removed, *(added or {}))}
        self.handling = dict.fromkeys(HOP_BY_HOP | _CLIENT_IDENTITY | gone, _DROP)
        noted = {b"via", *noted}
        self.handling |= dict.fromkeys(noted - gone, _NOTE) | dict.fromkeys(noted & gone, _REBUILD)
        self.handling |= dict.fromkeys({*_REBUILT, *withheld}, _REBUILD)

        self._handlings = _Handlings(self._handle)

    def read(self, fields: Fields) -> MessageFields:
        """The client's fields without those that end here."""
        lines: list[bytes] = []
        noted: dict[bytes, bytes] = {}
        size = 0
        known = self._handlings.known
        for name, value in fields:
            try:
                handling = known[name]
            except KeyError:
                handling = self._handlings.learn(name)
            line = b"%b: %b\r\n" % (name, value)
            size += len(line)
            if handling is not _PASS:
                if handling.noted:
                    _note(noted, name.lower(), value)
                if not handling.passed:
                    continue
            lines.append(line)
        return MessageFields(_without_nominated(lines, noted), noted, size)

    def _handle(self, lower: bytes) -> _Handling:
        # CGI and WSGI read `X_Real_IP` as `X-Real-IP`, so a twin with underscores is dropped like the field itself.
        dashed = lower.replace(b"_", b"-")
        if dashed[:12] == _FORWARDED_PREFIX or (dashed != lower and dashed in self.handling):
            return _DROP
        return self.handling.get(lower, _PASS)


class _Handlings:
    """What becomes of fields, by their names as they are written: senders write the same few again and again."""

    def __init__(self, handle: Callable[[bytes], _Handling]) -> None:
        self._handle = handle
        self.known: dict[bytes, _Handling] = {}

    def learn(self, name: bytes) -> _Handling:
        """Of a name that is not `known` yet. A hostile sender has a new one each time."""
        if len(self.known) >= _MAX_KNOWN:
            self.known.clear()
        handling = self.known[name] = self._handle(name.lower())
        return handling


def _note(noted: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    noted[name] = noted[name] + b"," + value if name in noted else value


def _without_nominated(lines: list[bytes], noted: Mapping[bytes, bytes]) -> list[bytes]:
    """Drops what any `Connection` line names (RFC 9110 §7.6.1, R46)."""
    connection = noted.get(b"connection")
    if connection is None or connection in _PLAIN_VALUES:
        return lines
    nominated = connection_options(connection) - _PLAIN_OPTIONS
    if not nominated:
        return lines
    return [line for line in lines if line.partition(b":")[0].lower() not in nominated]


def connection_options(value: bytes) -> set[bytes]:
    """The options of a `Connection` value, in lower case."""
    return {option.strip().lower() for option in value.split(b",")}


def names_us(via: bytes) -> bool:
    """Has a message with this `Via` passed through here already? (RFC 9110 §7.6.3, R42)"""
    return any(PSEUDONYM in entry.lower().split()[1:2] for entry in via.split(b","))


def request_section(rules: RequestRules, lines: list[bytes], *, version_minor: int, framing: bytes) -> bytes:
    """The header section for the upstream, without the credential. `framing` is finished lines, and may be empty."""
    return b"".join(
        (
            rules.host,
            *lines,
            rules.added,
            # The received protocol is the client's (RFC 9110 §7.6.3).
            b"Via: 1.%d thg-proxy\r\n" % version_minor if rules.via else b"",
            framing,
        )
    )


def request_head(method: str, target: bytes, section: bytes, authorization: bytes) -> bytes:
    """The whole head for the upstream, with exactly one `Authorization`: ours (RFC 6750 §2.1).

    `authorization` is finished lines; it comes last, so that nothing before it can take its place.
    """
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method.encode("ascii"), target, section, authorization)


# Fields by which an answer from "localhost" would speak for every program on this machine (R138): these let pages read
# it (Fetch §3.3),
CORS_GRANTS = frozenset(
    {
        b"access-control-allow-origin",
        b"access-control-allow-credentials",
        b"access-control-allow-methods",
        b"access-control-allow-headers",
        b"access-control-expose-headers",
        b"access-control-max-age",
        b"access-control-allow-private-network",
    }
)
# and these outlive it in the browser.
BROWSER_GRANTS = CORS_GRANTS | {
    b"alt-svc",
    b"clear-site-data",
    b"service-worker-allowed",
    b"strict-transport-security",
}


class ResponseRules:
    """What becomes of the upstream's fields. Names are in lower case; the `withheld` are noted, and end here."""

    def __init__(self, removed: Iterable[bytes] = (), withheld: Iterable[bytes] = ()) -> None:
        self._handling = dict.fromkeys((*HOP_BY_HOP, *removed), _DROP)
        self._handling |= dict.fromkeys((b"connection", b"content-length", b"transfer-encoding", b"upgrade"), _REBUILD)
        self._handling |= dict.fromkeys(withheld, _REBUILD)
        self._handling |= dict.fromkeys((b"date", b"www-authenticate"), _NOTE)
        self._handlings = _Handlings(lambda lower: self._handling.get(lower, _PASS))

    def read(self, section: list[bytes]) -> MessageFields:
        """The fields of a header section, whole lines, without those that end here."""
        lines: list[bytes] = []
        noted: dict[bytes, bytes] = {}
        known = self._handlings.known
        for line in section:
            name, _, value = line.partition(b":")
            try:
                handling = known[name]
            except KeyError:
                handling = self._handlings.learn(name)
            if handling is not _PASS:
                if handling.noted:
                    _note(noted, name.lower(), value.strip())
                if not handling.passed:
                    continue
            lines.append(line)
        return MessageFields(_without_nominated(lines, noted), noted, sum(map(len, section)))


def response_head(status: int, reason: bytes, lines: list[bytes], framing: bytes) -> bytes:
    """The status line and header block for the client; `framing` is finished lines, and may be empty."""
    return b"".join((b"HTTP/1.1 %d %b\r\n" % (status, reason), *lines, framing, b"\r\n"))
