"""From a parsed request to the one that is sent upstream, or to the error that refuses it.

Everything here is decided from the head alone: before a byte of the body is read, before `100 Continue`, and before the
token is touched. A refused caller costs nothing and learns nothing.
"""

import re
from typing import NamedTuple
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
)
from proxy.core.policy import (
    BROWSER_FIELDS,
    PathRule,
    check_browser,
    check_header,
    check_path,
    host_allowed,
    host_names,
    is_host,
)
from proxy.core.target import Target, join_base, parse_target
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
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=-]{1,128}")


class OutboundRequest(NamedTuple):
    """A request as it goes upstream; `head` is complete, with its empty line. `token` is the credential in it."""

    method: str
    head: bytes
    token: bytes
    response_rules: ResponseRules
    has_body: bool
    chunked: bool
    bodiless_response: bool
    expects_continue: bool
    opens_tunnel: bool
    max_body: int | None


class Admitted(NamedTuple):
    """A request that may be sent, once there is a token for it; with `ends_here` it is for the proxy itself."""

    message: RawRequestMessage
    fields: MessageFields
    upstream_target: bytes
    ends_here: bool


class Admission:
    """The rules of one configuration, prepared."""

    def __init__(self, settings: Settings) -> None:
        upstream, policy = settings.upstream, settings.policy
        url = urlsplit(upstream.url)
        required = policy.require_header
        self._required = None if required is None else (required.name.lower().encode(), required.value.encode())
        self._rules = RequestRules(
            url.netloc.encode(),
            via=upstream.via,
            added=upstream.headers.set,
            # A proof of the client's own would be a second one (RFC 9449 §4.3).
            removed=(*upstream.headers.remove, *(("DPoP",) if settings.oauth.dpop else ())),
            noted={*BROWSER_FIELDS, hops.FIELD},
            withheld=[self._required[0]] if self._required else [],
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

    def admit(self, message: RawRequestMessage) -> Admitted:
        """Raises RequestError, or LoopDetected. What needs no knowledge of the request comes first."""
        if message.version not in (HttpVersion11, HttpVersion10):
            raise BadRequest("The HTTP version must be 1.0 or 1.1.")
        if message.method in _UNSUPPORTED_METHODS:
            raise MethodNotSupported
        target = parse_target(message.method, message.path)
        fields = self._rules.read(message.raw_headers)
        self._check_host(target, fields)
        if not BROWSER_FIELDS.isdisjoint(fields.noted):
            check_browser(fields.noted, self._allowed_origins)
        if self._required is not None:
            name, value = self._required
            check_header(fields.noted.get(name), value)
        upstream_target = join_base(self._base_path, target.origin_form)
        if self._path_rules is not None:
            check_path(self._path_rules, message.method, upstream_target)
        self._check_framing(message, fields)
        if b"via" in fields.noted and names_us(fields.noted[b"via"]):
            raise LoopDetected
        hops_left = hops.hops_left(message.method, fields)
        if hops_left:
            fields = hops.with_hops(fields, hops_left - 1)
        return Admitted(message, fields, upstream_target, ends_here=hops_left == 0)

    def _check_host(self, target: Target, fields: MessageFields) -> None:
        host = fields.noted.get(b"host") if target.authority is None else target.authority
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
        if message.chunked and noted[b"transfer-encoding"].lower() != b"chunked":
            # A coding below the chunks would be lost with the field (RFC 9112 §6.1).
            raise BadRequest("The only transfer coding that is supported is chunked.")
        if message.chunked and message.version == HttpVersion10:
            # Its framing counts as faulty: whoever stands between may not know chunks (RFC 9112 §6.1).
            raise BadRequest("HTTP/1.0 has no transfer codings.")
        if self._max_body is not None and int(noted.get(b"content-length", 0)) > self._max_body:
            raise BodyTooLarge

    def outbound(self, admitted: Admitted, credential: Credential, *, has_body: bool) -> OutboundRequest:
        """`has_body`: are there bytes of a body, here or on their way?"""
        message, fields, target, _ = admitted
        # An HTTP/1.0 client does not know 100 (RFC 9110 §10.1.1).
        expects_continue = has_body and b"expect" in fields.noted and message.version == HttpVersion11
        framing = b""
        if message.chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif b"content-length" in fields.noted:
            framing = b"Content-Length: %d\r\n" % int(fields.noted[b"content-length"])
        if expects_continue:
            framing += b"Expect: 100-continue\r\n"
        has_body = has_body or message.chunked
        # Behind a body, nobody could tell where the tunnel begins.
        opens_tunnel = message.upgrade and not has_body and _opens_tunnel(message, fields)
        if opens_tunnel:
            framing += b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        head = request_head(
            message.method,
            target,
            self._rules,
            fields.lines,
            version_minor=message.version.minor,
            framing=framing,
            authorization=credential.fields(message.method, self._origin, target),
        )
        return OutboundRequest(
            method=message.method,
            head=head,
            token=credential.token,
            response_rules=self._for_allowed_origins if b"origin" in fields.noted else self._for_programs,
            has_body=has_body,
            chunked=message.chunked,
            bodiless_response=message.method == "HEAD",
            expects_continue=expects_continue,
            opens_tunnel=opens_tunnel,
            max_body=self._max_body,
        )


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
