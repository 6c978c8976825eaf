"""From a parsed request to the one that is sent upstream, or to the error that refuses it.

Everything here is decided from the head alone: before a byte of the body is read, before `100 Continue`, and before the
token is touched. A refused caller costs nothing and learns nothing.
"""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion10, HttpVersion11

from proxy.core import hops
from proxy.core.headers import (
    BROWSER_GRANTS,
    CORS_GRANTS,
    MessageFields,
    RequestRules,
    ResponseRules,
    names_us,
    request_head,
    request_section,
)
from proxy.core.policy import (
    BROWSER_FIELDS,
    OVERRIDES,
    PathRule,
    check_browser,
    check_header,
    check_path,
    host_allowed,
    host_names,
    is_host,
)
from proxy.core.target import Target, join_base, parse_target
from proxy.core.trace_context import TRACEPARENT, TRACESTATE, TraceContext, incoming
from proxy.credential import Credential
from proxy.errors import (
    BadRequest,
    BodyTooLarge,
    ExpectationFailed,
    HeaderTooLarge,
    HostNotAllowed,
    LoopDetected,
    MethodNotSupported,
)
from proxy.settings import Settings

# TRACE would return our Authorization to the client (RFC 9110 §9.3.8).
_UNSUPPORTED_METHODS = frozenset({"CONNECT", "TRACE"})
# With each of these a header section means the same. The authority of an absolute-form would stand for Host (RFC 9112
# §3.2.2), and OPTIONS may be for the proxy itself.
_PLAIN_REQUEST_LINE = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (/[!-\"$-~]*) HTTP/1\.1")
# How many header sections are remembered, and how large they may be.
_MAX_SECTIONS, _MAX_SECTION = 256, 2048
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=-]{1,128}")


class Section:
    """What the header section of a request comes to, whatever its target.

    `lines`: for the upstream, all but the credential and the trace. `length`: the Content-Length, 0 if there is none.
    `trace_context`: the caller's, where spans are made.
    """

    __slots__ = (
        "chunked",
        "ends_here",
        "expects_continue",
        "length",
        "lines",
        "max_body",
        "opens_tunnel",
        "request_id",
        "response_rules",
        "trace_context",
    )

    def __init__(
        self,
        lines: bytes,
        *,
        response_rules: ResponseRules,
        length: int = 0,
        chunked: bool = False,
        expects_continue: bool = False,
        opens_tunnel: bool = False,
        ends_here: bool = False,
        max_body: int | None = None,
        request_id: str = "",
        trace_context: TraceContext | None = None,
    ) -> None:
        self.lines = lines
        self.response_rules = response_rules
        self.length = length
        self.chunked = chunked
        self.expects_continue = expects_continue
        self.opens_tunnel = opens_tunnel
        self.ends_here = ends_here
        self.max_body = max_body
        self.request_id = request_id
        self.trace_context = trace_context

    @property
    def has_body(self) -> bool:
        """Are there bytes of a body, here or on their way?"""
        return self.chunked or self.length > 0


class Admitted:
    """A request that may be sent, once there is a token for it; with `section.ends_here` it is for the proxy itself.

    `trace`: finished lines for the upstream, empty where there are no spans.
    """

    __slots__ = ("method", "section", "target", "trace")

    def __init__(self, method: str, target: bytes, section: Section) -> None:
        self.method = method
        self.target = target
        self.section = section
        self.trace = b""


class Recalled:
    """A whole request whose header section has been admitted before; `target` as the client wrote it."""

    __slots__ = ("body", "method", "section", "target")

    def __init__(self, method: str, target: bytes, section: Section, body: bytes) -> None:
        self.method = method
        self.target = target
        self.section = section
        self.body = body


class OutboundRequest:
    """A request as it goes upstream; `head` is complete, with its empty line. `token` is the credential in it."""

    __slots__ = ("head", "method", "section", "token")

    def __init__(self, method: str, head: bytes, token: bytes, section: Section) -> None:
        self.method = method
        self.head = head
        self.token = token
        self.section = section

    @property
    def bodiless_response(self) -> bool:
        """RFC 9110 §9.3.2."""
        return self.method == "HEAD"


class Admission:
    """The rules of one configuration, prepared."""

    def __init__(self, settings: Settings) -> None:
        upstream, policy = settings.upstream, settings.policy
        url = urlsplit(upstream.url)
        required = policy.require_header
        self._required = None if required is None else (required.name.lower().encode(), required.value.encode())
        # Where there are no spans, these are fields like any other.
        trace = () if settings.tracing.otlp_endpoint is None else (TRACEPARENT, TRACESTATE)
        self._rules = RequestRules(
            url.netloc.encode(),
            via=upstream.via,
            added=upstream.headers.set,
            removed=(*upstream.headers.remove, *_overruled(settings)),
            noted={*BROWSER_FIELDS, hops.FIELD, *trace},
            withheld=[*trace, *([self._required[0]] if self._required else [])],
        )
        self._origin = f"{url.scheme}://{url.netloc}".encode()
        self._base_path = url.path.rstrip("/").encode()
        self._allowed_hosts = host_names(policy.allowed_hosts)
        origins = () if policy.browsers == "refuse" else policy.browsers.allow_origins
        self._allowed_origins = frozenset(origin.encode() for origin in origins)
        self._path_rules = (
            None if policy.allow == "all" else tuple(PathRule.parse(rule.methods, rule.path) for rule in policy.allow)
        )
        grants = BROWSER_GRANTS if settings.listen.address.is_loopback else frozenset()
        withheld = (b"dpop-nonce",) if settings.oauth.dpop else ()
        self._for_programs = ResponseRules(grants, withheld)
        self._for_allowed_origins = ResponseRules(grants - CORS_GRANTS, withheld)
        self._max_header_size = settings.listen.max_header_size
        self._max_body = settings.limits.max_body
        self._sections: dict[bytes, Section] = {}

    def admit(self, message: RawRequestMessage) -> Admitted:
        """Raises RequestError, or LoopDetected. What needs no knowledge of the request comes first."""
        if message.version not in (HttpVersion11, HttpVersion10):
            raise BadRequest("The HTTP version must be 1.0 or 1.1.")
        if message.method in _UNSUPPORTED_METHODS:
            raise MethodNotSupported
        target = parse_target(message.method, message.path)
        fields = self._rules.read(message.raw_headers)
        self._check_caller(target, fields.noted)
        upstream_target = self._upstream_target(message.method, target.origin_form)
        self._check_framing(message, fields)
        if b"via" in fields.noted and names_us(fields.noted[b"via"]):
            raise LoopDetected
        return Admitted(message.method, upstream_target, self._section(message, fields))

    # Clients send the same header section again and again. What the parser and the rules above have found good in it is
    # good the next time, byte for byte: then there is only the request line to read.

    def remember(self, data: bytes, message: RawRequestMessage, section: Section) -> int | None:
        """`data`: what began with `message`. Returns how many bytes of it are missing; None if that can't be said."""
        if section.chunked or message.upgrade:
            return None
        line_end, key, end = _split(data)
        missing = end + section.length - len(data)
        goes_on = not (message.should_close or section.expects_continue)
        is_plain = goes_on and _PLAIN_REQUEST_LINE.fullmatch(data, 0, line_end)
        if is_plain and missing == 0 and len(key) <= _MAX_SECTION:
            if len(self._sections) >= _MAX_SECTIONS:
                self._sections.clear()
            self._sections[key] = section
        return missing if missing >= 0 else None

    def recall(self, data: bytes) -> Recalled | None:
        """The request that `data` is, if it is exactly one, in a form that was remembered."""
        line_end, key, end = _split(data)
        section = self._sections.get(key)
        if section is None or len(data) != end + section.length:
            return None
        line = _PLAIN_REQUEST_LINE.fullmatch(data, 0, line_end)
        if line is None or line_end > self._max_header_size:
            return None
        return Recalled(line[1].decode(), line[2], section, data[end:])

    def admit_recalled(self, request: Recalled) -> Admitted:
        """Raises RequestError."""
        return Admitted(request.method, self._upstream_target(request.method, request.target), request.section)

    def _check_caller(self, target: Target, noted: Mapping[bytes, bytes]) -> None:
        self._check_host(target, noted)
        if not BROWSER_FIELDS.isdisjoint(noted):
            check_browser(noted, self._allowed_origins)
        if self._required is not None:
            name, value = self._required
            check_header(noted.get(name), value)

    def _upstream_target(self, method: str, origin_form: bytes) -> bytes:
        target = join_base(self._base_path, origin_form)
        if self._path_rules is not None:
            check_path(self._path_rules, method, target)
        return target

    def _check_host(self, target: Target, noted: Mapping[bytes, bytes]) -> None:
        host = noted.get(b"host") if target.authority is None else target.authority
        # Only HTTP/1.0 has requests without Host; a browser, the one to be wary of, always sends it.
        if host is None or host_allowed(host, self._allowed_hosts):
            return
        if target.authority is None and not is_host(host):
            raise BadRequest("The Host of the request is not a host.")
        raise HostNotAllowed

    def _check_framing(self, message: RawRequestMessage, fields: MessageFields) -> None:
        noted = fields.noted
        if fields.size > self._max_header_size:
            raise HeaderTooLarge
        if b"expect" in noted and noted[b"expect"].lower() != b"100-continue":
            raise ExpectationFailed
        if b"transfer-encoding" in noted and noted[b"transfer-encoding"].lower() != b"chunked":
            # A coding below the chunks would be lost with the field (RFC 9112 §6.1); the parser skips an empty one.
            raise BadRequest("The only transfer coding that is supported is chunked.")
        if message.chunked and message.version == HttpVersion10:
            # Its framing counts as faulty: whoever stands between may not know chunks (RFC 9112 §6.1).
            raise BadRequest("HTTP/1.0 has no transfer codings.")
        if self._max_body is not None and int(noted.get(b"content-length", 0)) > self._max_body:
            raise BodyTooLarge

    def _section(self, message: RawRequestMessage, fields: MessageFields) -> Section:
        hops_left = hops.hops_left(message.method, fields)
        if hops_left:
            fields = hops.with_hops(fields, hops_left - 1)
        noted = fields.noted
        length = int(noted.get(b"content-length", 0))
        has_body = message.chunked or length > 0
        # An HTTP/1.0 client does not know 100 (RFC 9110 §10.1.1).
        expects_continue = has_body and b"expect" in noted and message.version == HttpVersion11
        # Behind a body, nobody could tell where the tunnel begins.
        opens_tunnel = bool(message.upgrade) and not has_body and _opens_tunnel(message, fields)
        framing = b""
        if message.chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif b"content-length" in noted:
            framing = b"Content-Length: %d\r\n" % length
        if expects_continue:
            framing += b"Expect: 100-continue\r\n"
        if opens_tunnel:
            framing += b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        return Section(
            request_section(self._rules, fields.lines, version_minor=message.version.minor, framing=framing),
            response_rules=self._for_allowed_origins if b"origin" in noted else self._for_programs,
            length=length,
            chunked=message.chunked,
            expects_continue=expects_continue,
            opens_tunnel=opens_tunnel,
            ends_here=hops_left == 0,
            max_body=self._max_body,
            request_id=request_id(message),
            trace_context=incoming(noted.get(TRACEPARENT), noted.get(TRACESTATE)),
        )

    def outbound(self, admitted: Admitted, credential: Credential) -> OutboundRequest:
        method, target, section = admitted.method, admitted.target, admitted.section
        authorization = credential.fields(method, self._origin, target)
        return OutboundRequest(
            method,
            request_head(method, target, section.lines, admitted.trace + authorization),
            credential.token,
            section,
        )


def _overruled(settings: Settings) -> Iterator[str]:
    """Fields of the client that other settings leave no room for."""
    if settings.oauth.dpop:
        # A proof of the client's own would be a second one (RFC 9449 §4.3).
        yield "DPoP"
    if settings.policy.allow != "all":
        yield from OVERRIDES


def _split(data: bytes) -> tuple[int, bytes, int]:
    """Where the request line ends, the header section, and where the head ends."""
    line_end = data.find(b"\r\n")
    end = data.find(b"\r\n\r\n", line_end)
    return line_end, data[line_end:end], end + 4


def _opens_tunnel(message: RawRequestMessage, fields: MessageFields) -> bool:
    """A WebSocket handshake (RFC 6455 §4.1). Any other upgrade, h2c above all, would leave our rules behind."""
    return (
        message.method == "GET"
        and fields.noted.get(b"upgrade", b"").lower() == b"websocket"
        and message.version == HttpVersion11
    )


def request_id(message: RawRequestMessage) -> str:
    """The client's own `X-Request-Id` if it is harmless in a log; else empty, and one is made when it is needed."""
    value = message.headers.get("X-Request-Id")
    return value if value is not None and _REQUEST_ID.fullmatch(value.encode(errors="replace")) else ""
