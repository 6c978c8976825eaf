"""Requests as aiohttp's C parser hands them over, and what is sent upstream for them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage

from proxy.admission import Admission, OutboundRequest, request_id
from proxy.core.secret import Secret
from proxy.credential import Credential
from proxy.errors import (
    BadRequest,
    BadTarget,
    BodyTooLarge,
    BrowserRefused,
    ExpectationFailed,
    HeaderRequired,
    HeaderTooLarge,
    HostNotAllowed,
    LoopDetected,
    MethodNotSupported,
    NotAllowed,
)
from proxy.settings import (
    AllowOrigins,
    Limits,
    Listen,
    OAuth,
    Policy,
    RequireHeader,
    Rule,
    Settings,
    Size,
    Tracing,
    Upstream,
    UpstreamHeaders,
)

TOKEN = Credential(Secret("token"), 1)
MAX_HEADER_SIZE = 2048


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


class Parse:
    """Raw bytes to the message that the data port would see."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, raw: bytes) -> RawRequestMessage:
        protocol = BaseProtocol(self._loop)
        parser: Any = HttpRequestParser(protocol, self._loop, 1 << 16, max_line_size=1 << 15, max_field_size=1 << 15)
        ((message, _),) = parser.feed_data(raw)[0]
        assert isinstance(message, RawRequestMessage)
        return message

    def get(self, target: bytes = b"/a", *lines: bytes, host: bytes = b"localhost") -> RawRequestMessage:
        return self.request(b"GET", target, *lines, host=host)

    def request(self, method: bytes, target: bytes, *lines: bytes, host: bytes = b"localhost") -> RawRequestMessage:
        return self(b"\r\n".join((method + b" " + target + b" HTTP/1.1", b"Host: " + host, *lines, b"", b"")))


@pytest.fixture
def parse(loop: asyncio.AbstractEventLoop) -> Parse:
    return Parse(loop)


def admission(url: str = "https://api.example", **upstream: Any) -> Admission:
    return Admission(
        Settings(
            upstream=Upstream(url=url, **upstream),
            listen=Listen(max_header_size=Size(MAX_HEADER_SIZE)),
            limits=Limits(max_body=Size(1000)),
            policy=Policy(allowed_hosts=("localhost", "[::1]")),
        )
    )


def outbound(message: RawRequestMessage, url: str = "https://api.example", **upstream: Any) -> OutboundRequest:
    admits = admission(url, **upstream)
    return admits.outbound(admits.admit(message), TOKEN)


def test_the_request_that_is_sent(parse: Parse) -> None:
    """The whole head, byte for byte: our Host, the client's fields, Via, framing, the credential (R37, R50, R65)."""
    message = parse.request(
        b"POST", b"/a%2Fb?c=%zz", b"X-A:  caf\xe9 ", b"content-LENGTH: 3", b"Authorization: Basic E2"
    )
    request = outbound(message)
    assert (request.method, request.token, request.section.has_body, request.section.chunked) == (
        "POST",
        b"token",
        True,
        False,
    )
    assert (request.bodiless_response, request.section.expects_continue, request.section.opens_tunnel) == (
        False,
        False,
        False,
    )
    assert request.section.max_body == 1000
    assert request.head == (
        b"POST /a%2Fb?c=%zz HTTP/1.1\r\nHost: api.example\r\nX-A: caf\xe9\r\nVia: 1.1 thg-proxy\r\n"
        b"Content-Length: 3\r\nAuthorization: Bearer token\r\n\r\n"
    )


@pytest.mark.parametrize(
    "url, line",
    [
        ("https://api.example", b"GET /a HTTP/1.1\r\nHost: api.example\r\n"),
        ("https://api.example/", b"GET /a HTTP/1.1\r\nHost: api.example\r\n"),
        ("https://api.example:8443/v1/", b"GET /v1/a HTTP/1.1\r\nHost: api.example:8443\r\n"),
        ("http://[::1]:8080/v1/x", b"GET /v1/x/a HTTP/1.1\r\nHost: [::1]:8080\r\n"),
    ],
)
def test_the_origin_comes_from_the_configuration(parse: Parse, url: str, line: bytes) -> None:
    """Host and base path are those of `upstream.url`, whatever the client says (R32, R37)."""
    for target in (b"/a", b"http://localhost:9/a"):
        assert outbound(parse.get(target), url).head.startswith(line)


class Proving(Credential):
    """Shows what a proof of possession is made of."""

    def fields(self, method: str, origin: bytes, target: bytes) -> bytes:
        return b"%bDPoP: %b %b %b\r\n" % (self.line, method.encode(), origin, target)


@pytest.mark.parametrize(
    "url, target, proved",
    [
        ("https://api.example", b"/a?b=c", b"GET https://api.example /a?b=c"),
        ("https://api.example:8443/v1/", b"/a%2Fb", b"GET https://api.example:8443 /v1/a%2Fb"),
        ("http://[::1]:8080", b"http://localhost:9/a", b"GET http://[::1]:8080 /a"),
    ],
)
def test_proof_of_possession(parse: Parse, url: str, target: bytes, proved: bytes) -> None:
    """With oauth.dpop each request has one proof, ours, for the URI that goes upstream; the nonce is kept (R105)."""
    admits = Admission(Settings(upstream=Upstream(url=url), oauth=OAuth(dpop=True)))
    message = parse.get(target, b"DPoP: the.clients.own", b"dpop: an.other.one", b"Connection: dpop")
    request = admits.outbound(admits.admit(message), Proving(Secret("token"), 1))

    assert request.head.lower().count(b"dpop:") == 1
    assert request.head.endswith(b"Authorization: Bearer token\r\nDPoP: " + proved + b"\r\n\r\n")
    assert request.token == b"token"
    assert request.section.response_rules.read([b"DPoP-Nonce: n\r\n"])[:2] == ([], {b"dpop-nonce": b"n"})


def test_proofs_are_nothing_to_a_bearer_token(parse: Parse) -> None:
    """Without oauth.dpop the fields of DPoP pass like any others (R37, R105)."""
    request = outbound(parse.get(b"/a", b"DPoP: the.clients.own"))

    assert b"\r\nDPoP: the.clients.own\r\n" in request.head
    assert request.section.response_rules.read([b"DPoP-Nonce: n\r\n"]).lines == [b"DPoP-Nonce: n\r\n"]


def test_the_version_is_our_own(parse: Parse) -> None:
    """An HTTP/1.0 request goes on as HTTP/1.1, and Via says how it came (R50, R51)."""
    head = outbound(parse(b"GET /a HTTP/1.0\r\nHost: localhost\r\n\r\n")).head
    assert head.startswith(b"GET /a HTTP/1.1\r\n")
    assert b"\r\nVia: 1.0 thg-proxy\r\n" in head


def test_http_10_without_host(parse: Parse) -> None:
    """Only HTTP/1.0 has requests without Host, and they are served (R19)."""
    assert outbound(parse(b"GET /a HTTP/1.0\r\n\r\n")).head.startswith(b"GET /a HTTP/1.1\r\nHost: api.example\r\n")


def test_configured_headers(parse: Parse) -> None:
    """`upstream.headers` and `upstream.via` shape what is sent."""
    message = parse.get(b"/a", b"X-Tenant: evil", b"X-Debug: 1")
    headers = UpstreamHeaders(set={"X-Tenant": "ours"}, remove=("X-Debug",))
    assert outbound(message, headers=headers, via=False).head == (
        b"GET /a HTTP/1.1\r\nHost: api.example\r\nX-Tenant: ours\r\nAuthorization: Bearer token\r\n\r\n"
    )


@pytest.mark.parametrize("raw", [b"GET /a HTTP/2.0\r\nHost: localhost\r\n\r\n", b"GET /a\r\n\r\n"])
def test_other_versions(parse: Parse, raw: bytes) -> None:
    """Neither HTTP/2 nor HTTP/0.9 is spoken here (R21)."""
    with pytest.raises(BadRequest):
        admission().admit(parse(raw))


@pytest.mark.parametrize(
    "raw", [b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"CONNECT a:443 HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
def test_connect_and_trace(parse: Parse, raw: bytes) -> None:
    """Neither opens a tunnel to elsewhere nor echoes our credential (R24)."""
    with pytest.raises(MethodNotSupported):
        admission().admit(parse(raw))


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND"])
def test_other_methods_pass(parse: Parse, method: bytes) -> None:
    """A method that is not refused is forwarded as it is."""
    request = outbound(parse.request(method, b"/a"))
    assert request.head.startswith(method + b" /a HTTP/1.1\r\n")
    assert request.bodiless_response is (method == b"HEAD")


@pytest.mark.parametrize("host", [b"evil.example", b"evil.example:80", b"localhost.", b"127.1", b"[::2]:80", b""])
def test_foreign_host(parse: Parse, host: bytes) -> None:
    """A Host that is not exactly one of `policy.allowed_hosts` is refused (R134)."""
    with pytest.raises(HostNotAllowed):
        admission().admit(parse.get(host=host))


@pytest.mark.parametrize(
    "host",
    [b"localhost@evil.example", b"localhost/evil", b"local host", b"localhost:99999999", b"::1", b"localhost, a"],
)
def test_no_host(parse: Parse, host: bytes) -> None:
    """A Host that is none is a malformed request (R19)."""
    with pytest.raises(BadRequest):
        admission().admit(parse.get(host=host))


@pytest.mark.parametrize(
    "target", [b"http://evil.example/a", b"http://a@localhost/a", b"http://localhost@evil.example/"]
)
def test_foreign_authority(parse: Parse, target: bytes) -> None:
    """An absolute form speaks for its own authority, whatever Host says (R33)."""
    with pytest.raises(HostNotAllowed):
        admission().admit(parse.get(target))


def test_host_beside_an_absolute_form(parse: Parse) -> None:
    """With our own authority in the target, Host is ignored (R33, RFC 9112 §3.2.2)."""
    head = outbound(parse.get(b"http://localhost:8080/a", host=b"evil.example")).head
    assert head.startswith(b"GET /a HTTP/1.1\r\nHost: api.example\r\n")
    assert b"evil" not in head


def test_bad_target(parse: Parse) -> None:
    """A fragment, or a way out of the base path, is refused (R20, R35)."""
    with pytest.raises(BadTarget):
        admission().admit(parse.get(b"/a#f"))
    with pytest.raises(BadTarget):
        admission("https://api.example/v1").admit(parse.get(b"/%2e%2e/admin"))


@pytest.mark.parametrize(
    "expect", [b"Expect: 200-ok", b"Expect: 100-continue, x", b"Expect: x\r\nExpect: 100-continue"]
)
def test_unknown_expectation(parse: Parse, expect: bytes) -> None:
    """Only 100-continue can be met (R28)."""
    with pytest.raises(ExpectationFailed):
        admission().admit(parse.request(b"POST", b"/a", expect, b"Content-Length: 3"))


@pytest.mark.parametrize(
    "raw, expects",
    [
        (b"POST /a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n", True),
        (b"POST /a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"GET /a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n", False),
        (b"POST /a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", False),
        (b"POST /a HTTP/1.0\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", False),
    ],
)
def test_expectation_is_passed_on(parse: Parse, raw: bytes, expects: bool) -> None:
    """The upstream is asked before the client sends, where there is a body and the client knows 100 (R28)."""
    request = outbound(parse(raw))
    assert request.section.expects_continue is expects
    assert (b"\r\nExpect: 100-continue\r\n" in request.head) is expects


@pytest.mark.parametrize(
    "lines, framing",
    [
        ([], b""),
        ([b"Content-Length: 0"], b"Content-Length: 0\r\n"),
        ([b"Content-Length: 007"], b"Content-Length: 7\r\n"),
        ([b"Transfer-Encoding: Chunked"], b"Transfer-Encoding: chunked\r\n"),
    ],
)
def test_framing_is_written_anew(parse: Parse, lines: list[bytes], framing: bytes) -> None:
    """Exactly one framing field goes upstream, in its canonical form (R8, R48, R56)."""
    request = outbound(parse.request(b"POST", b"/a", *lines))
    assert b"Via: 1.1 thg-proxy\r\n" + framing + b"Authorization: " in request.head
    assert request.section.chunked is (b"chunked" in framing)
    assert request.section.has_body is (framing not in (b"", b"Content-Length: 0\r\n"))


def test_a_coding_below_the_chunks(parse: Parse) -> None:
    """`gzip, chunked` would lose its gzip on the way (R2, RFC 9112 §6.1)."""
    with pytest.raises(BadRequest):
        admission().admit(parse.request(b"POST", b"/a", b"Transfer-Encoding: gzip, chunked"))


@pytest.mark.parametrize("length, refused", [(b"1000", False), (b"1001", True), (b"9999999999999999999", True)])
def test_announced_size(parse: Parse, length: bytes, refused: bool) -> None:
    """A body that says that it is too large is refused before it is sent (R7)."""
    message = parse.request(b"POST", b"/a", b"Content-Length: " + length)
    if refused:
        with pytest.raises(BodyTooLarge):
            admission().admit(message)
    else:
        assert outbound(message).section.has_body


@pytest.mark.parametrize(
    "lines",
    [
        [b"X-A: " + b"a" * MAX_HEADER_SIZE],
        [b"X-%d: %b" % (number, b"a" * 200) for number in range(20)],
        [b"Cookie: %b" % (b"a" * 200) for _ in range(20)],
        [b"X-Forwarded-%d: %b" % (number, b"a" * 200) for number in range(20)],
    ],
)
def test_large_header(parse: Parse, lines: list[bytes]) -> None:
    """A header is too large as a whole, whether or not its fields would be forwarded (R25)."""
    with pytest.raises(HeaderTooLarge):
        admission().admit(parse.get(b"/a", *lines))


@pytest.mark.parametrize(
    "lines",
    [
        [b"Via: 1.1 thg-proxy"],
        [b"Via: 1.1 a", b"via: 1.0 b, 1.1 thg-proxy"],
        [b"Connection: Via", b"Via: 1.1 thg-proxy"],
    ],
)
def test_loop(parse: Parse, lines: list[bytes]) -> None:
    """A request that has been here before is refused, and can't hide that in `Connection` (R42, R47)."""
    with pytest.raises(LoopDetected):
        admission().admit(parse.get(b"/a", *lines))


HANDSHAKE = [b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket", b"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw=="]


def test_websocket_handshake(parse: Parse) -> None:
    """A WebSocket handshake goes on as one, with the credential (R59)."""
    request = outbound(parse.get(b"/a", *HANDSHAKE))
    assert request.section.opens_tunnel
    assert request.head == (
        b"GET /a HTTP/1.1\r\nHost: api.example\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
        b"Via: 1.1 thg-proxy\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer token\r\n\r\n"
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /a HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /a HTTP/1.0\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
    ],
)
def test_other_upgrades(parse: Parse, raw: bytes) -> None:
    """Nothing else leaves HTTP/1.1: the request goes on without its Upgrade (R48, R59)."""
    request = outbound(parse(raw))
    assert not request.section.opens_tunnel
    assert b"pgrade" not in request.head
    assert b"HTTP2" not in request.head


def test_policy(parse: Parse) -> None:
    """Browsers, a missing header and a path that no rule names are refused from the head alone (R45, R135, R139)."""
    rules = Policy(
        require_header=RequireHeader("X-Key", "1"), allow=(Rule("/v1/status"),), browsers=AllowOrigins(("http://a",))
    )
    admits = Admission(Settings(upstream=Upstream(url="https://api.example"), policy=rules))
    with pytest.raises(BrowserRefused):
        admits.admit(parse.get(b"/v1/status", b"X-Key: 1", b"Origin: http://b"))
    with pytest.raises(HeaderRequired):
        admits.admit(parse.get(b"/v1/status", b"Origin: http://a"))
    for target in (b"/v1/secret?x=/v1/status", b"/v1/statusx", b"/v1/status/"):
        with pytest.raises(NotAllowed):
            admits.admit(parse.get(target, b"X-Key: 1", b"X-Forwarded-Uri: /v1/status"))
    admitted = admits.admit(parse.get(b"/v1/status?a", b"X-Key: 1", b"X_Key: 1", b"Origin: http://a"))
    assert admitted.section.lines == b"Host: api.example\r\nOrigin: http://a\r\nVia: 1.1 thg-proxy\r\n"


@pytest.mark.parametrize("with_rules", [False, True])
def test_fields_that_overrule_the_request_line(parse: Parse, with_rules: bool) -> None:
    """With rules for methods and paths, a field by which a framework would take another one is dropped (R45)."""
    rules = Policy(allow=(Rule("/a"),)) if with_rules else Policy()
    names = ["X-HTTP-Method-Override", "x-http-method", "X_Method_Override", "X-Original-URL", "X-Rewrite-URL"]
    admits = Admission(Settings(policy=rules))
    message = parse.get(b"/a", *(f"{name}: /admin".encode() for name in names))
    head = admits.outbound(admits.admit(message), TOKEN).head
    assert head.count(b": /admin\r\n") == (0 if with_rules else len(names))


@pytest.mark.parametrize(
    "value, expected",
    [
        (b"0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319c"),
        (b"a/b+c=.~_-", "a/b+c=.~_-"),
        (b"a" * 128, "a" * 128),
        (b"a" * 129, ""),
        (b"a b", ""),
        (b"a\tb", ""),
        (b'"><script>', ""),
        (b"caf\xe9", ""),
        (b"", ""),
    ],
)
def test_request_id(parse: Parse, value: bytes, expected: str) -> None:
    """The client's id is kept if it is harmless in a log and a header; else one is made."""
    assert request_id(parse.get(b"/a", b"X-Request-Id: " + value)) == expected


def test_no_request_id(parse: Parse) -> None:
    """None is made up before it is needed."""
    assert request_id(parse.get()) == ""


# Trace context.

TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_trace_context_without_spans(parse: Parse) -> None:
    """Where nothing is traced, it is two fields like any other, good or not (R168)."""
    fields = (b"traceparent: x", b"TraceState: a=1", b"tracestate: b")
    request = outbound(parse.get(b"/a", *fields))
    assert b"".join(b"%b\r\n" % field for field in fields) in request.head
    assert request.section.trace_context is None


@pytest.mark.parametrize(
    "fields, context",
    [
        ((), None),
        ((b"TraceParent: \t" + TRACEPARENT + b" ", b"tracestate: a=1", b"TRACESTATE: b=2"), b"a=1,b=2"),
        ((b"traceparent: " + TRACEPARENT, b"trace-state: a=1", b"tracestate: a=1,a=2"), b""),
        ((b"traceparent: " + TRACEPARENT, b"traceparent: " + TRACEPARENT, b"tracestate: a=1"), None),
        ((b"traceparent: 00-1-1-00", b"tracestate: a=1"), None),
    ],
)
def test_trace_context(parse: Parse, fields: tuple[bytes, ...], context: bytes | None) -> None:
    """Where spans are made, the client's fields end here, and ours come with the credential (R168)."""
    admits = Admission(
        Settings(upstream=Upstream(url="https://api.example"), tracing=Tracing(otlp_endpoint="http://localhost:4318"))
    )
    admitted = admits.admit(parse.get(b"/a", *fields))
    found = admitted.section.trace_context
    assert (None if found is None else found.state) == context
    assert b"traceparent:" not in admitted.section.lines.lower()
    assert b"tracestate:" not in admitted.section.lines.lower()
    admitted.trace = b"traceparent: ours\r\n"
    head = admits.outbound(admitted, TOKEN).head
    assert head.endswith(b"traceparent: ours\r\nAuthorization: Bearer token\r\n\r\n")


# A header section that has been admitted before.


def recalled(admits: Admission, parse: Parse, first: bytes, second: bytes) -> bytes | None:
    """The head that `second` is sent with after `first` has been admitted; None if it is not recalled."""
    message = parse(first)
    assert admits.remember(first, message, admits.admit(message).section) == 0
    request = admits.recall(second)
    return None if request is None else admits.outbound(admits.admit_recalled(request), TOKEN).head


SECTION = b"Host: localhost\r\nX-A:  caf\xe9 \r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-Id: 1\r\n"
LONG = b"Host: localhost\r\nContent-Length: 3\r\n"


@pytest.mark.parametrize(
    "first, second",
    [
        (b"GET /a HTTP/1.1\r\n" + SECTION + b"\r\n", b"GET /b?c=%zz HTTP/1.1\r\n" + SECTION + b"\r\n"),
        (b"GET /a HTTP/1.1\r\n" + SECTION + b"\r\n", b"HEAD /a%2Fb HTTP/1.1\r\n" + SECTION + b"\r\n"),
        (b"POST /a HTTP/1.1\r\n" + LONG + b"\r\nabc", b"PUT /b HTTP/1.1\r\n" + LONG + b"\r\nxyz"),
    ],
)
def test_the_same_header_section_again(parse: Parse, first: bytes, second: bytes) -> None:
    """What is sent for a request with a known header section is what is sent for it when it is parsed (R34, R52)."""
    head = recalled(admission(), parse, first, second)
    assert head is not None
    assert head == outbound(parse(second)).head


def test_what_is_recalled(parse: Parse) -> None:
    """Method, target, body and request id are those of the request that is recalled."""
    admits, first = admission(), b"POST /a HTTP/1.1\r\n" + LONG + b"X-Request-Id: id-1\r\n\r\nabc"
    message = parse(first)
    admits.remember(first, message, admits.admit(message).section)
    request = admits.recall(first.replace(b"POST /a", b"PUT /b?c").replace(b"abc", b"xyz"))
    assert request is not None
    assert (request.method, request.target, request.body) == ("PUT", b"/b?c", b"xyz")
    assert (request.section.request_id, request.section.length) == ("id-1", 3)


PLAIN = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "second",
    [
        b"",
        b"\r\n" + PLAIN,
        PLAIN[:-1],
        PLAIN + b"x",
        PLAIN + PLAIN,
        PLAIN.replace(b"localhost", b"LOCALHOST"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/2.0"),
        PLAIN.replace(b" HTTP/1.1", b""),
        *(PLAIN.replace(b"GET", method) for method in (b"TRACE", b"OPTIONS", b"get", b"PROPFIND", b"G")),
        *(PLAIN.replace(b"/a", target) for target in (b"a", b"*", b"http://localhost/a", b"/a#b", b"/a b", b"/\xe9")),
        *(PLAIN.replace(b"/a", target) for target in (b"/\r", b"/a\x00", b"/\t", b"/\x7f", b"", b"/" + b"a" * 3000)),
    ],
)
def test_what_is_not_recalled(parse: Parse, second: bytes) -> None:
    """Anything but one whole request in the plainest form is left to the parser (R15, R20, R21, R24, R25, R27)."""
    assert recalled(admission(), parse, PLAIN, second) is None


@pytest.mark.parametrize(
    "raw, missing",
    [
        (b"OPTIONS /a HTTP/1.1\r\nHost: localhost\r\nMax-Forwards: 0\r\n\r\n", 0),
        (b"GET http://localhost/a HTTP/1.1\r\nHost: evil.example\r\n\r\n", 0),
        (b"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 0),
        (b"GET /a HTTP/1.0\r\nHost: localhost\r\n\r\n", 0),
        (b"POST /a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", 0),
        (b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n", 3),
        (b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nab", 1),
        (b"POST /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
        (b"GET /a HTTP/1.1\r\n" + b"\r\n".join([*HANDSHAKE, b"Host: localhost"]) + b"\r\n\r\n", None),
        (PLAIN + b"GET", None),
        (b"GET /a HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 2048 + b"\r\n\r\n", 0),
    ],
)
def test_what_is_not_remembered(parse: Parse, raw: bytes, missing: int | None) -> None:
    """What ends a connection, waits, switches, depends on its request line or is large is parsed anew; how much of it
    is still to come is known where it can be (R33, R134).
    """
    admits = Admission(Settings(policy=Policy(allowed_hosts=("localhost",))))
    message = parse(raw)
    assert admits.remember(raw, message, admits.admit(message).section) == missing
    assert admits.recall(raw) is None
    assert admits.recall(raw.replace(b"OPTIONS", b"GET").replace(b"http://localhost", b"")) is None


def test_rules_for_paths_hold_for_what_is_recalled(parse: Parse) -> None:
    """The target is looked at each time (R35, R45)."""
    admits = Admission(Settings(upstream=Upstream(url="https://a/v1"), policy=Policy(allow=(Rule("/v1/*"),))))
    message = parse(PLAIN)
    admits.remember(PLAIN, message, admits.admit(message).section)
    for target, error in ((b"/../a", BadTarget), (b"/a/b", NotAllowed)):
        request = admits.recall(PLAIN.replace(b"/a", target))
        assert request is not None
        with pytest.raises(error):
            admits.admit_recalled(request)


def test_memory_is_bounded(parse: Parse) -> None:
    """However many header sections there are, a bounded number is remembered; the latest is (R153)."""
    admits = admission()
    for number in range(1000):
        raw = PLAIN.replace(b"\r\n\r\n", b"\r\nX-A: %d\r\n\r\n" % number)
        message = parse(raw)
        admits.remember(raw, message, admits.admit(message).section)
        assert admits.recall(raw) is not None
    assert len(admits._sections) <= 256
