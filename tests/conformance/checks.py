"""What the ends of a case must have seen: what the case says, and what holds in every case."""

import json
import re
from typing import TypeVar

from tests.conformance.cases import Answer, Case, Sent, text
from tests.conformance.messages import Message

T = TypeVar("T")

_BEARER = re.compile(rb"Bearer eyJ[\w-]+\.[\w-]+\.[\w-]+")
_PROBLEM_KEYS = {"type", "title", "status", "detail", "code", "instance"}

# RFC 9110 §7.6.1: what belongs to one connection does not cross the proxy. `Connection` and `Upgrade` are looked at
# by themselves, as the proxy has its own.
_HOP_BY_HOP = {
    *(b"keep-alive", b"proxy-connection", b"te", b"trailer", b"http2-settings"),
    *(b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info"),
}
# Identity is the proxy's to give, whether it is written with dashes or with underscores.
_IDENTITY = re.compile(rb"cookie|forwarded|x-real-ip|x-forwarded-.*")
# What would speak for every program on the machine.
_BROWSER_GRANTS = re.compile(
    rb"access-control-.*|alt-svc|clear-site-data|service-worker-allowed|strict-transport-security"
)
_OURS = {b"host", b"authorization", b"via", b"content-length", b"transfer-encoding"}


def check_answer(answer: Answer, message: Message, ended: str, *, is_last: bool) -> None:
    """One answer, as the client got it; `is_last`: the proxy closes the connection after it, and must say so."""
    assert message.status in _allowed(answer.status), f"{message.start!r} {message.body[:300]!r}"
    _check_end(answer, message, ended)
    _check_fields(answer, message)
    if answer.body is not None:
        assert message.body == text(answer.body)
    if answer.code is not None:
        _check_problem(answer, message)
    elif message.status >= 200:
        _check_relayed(message)
    if message.status >= 200 and message.complete:
        assert (b"close" in message.values(b"Connection")) == is_last


def _allowed(wanted: T | tuple[T, ...]) -> tuple[T, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _check_end(answer: Answer, message: Message, ended: str) -> None:
    if answer.end == "complete":
        assert message.complete, f"{message} and a {ended}"
    else:
        assert not message.complete, f"a whole response where it was cut: {message}"
        assert answer.end == "truncated" or ended == "reset"


def _check_fields(wanted: Answer | Sent, message: Message) -> None:
    """All of `fields` are there, byte for byte and in this order, and none of `no_fields`."""
    lines = iter(message.lines)
    for field in wanted.fields:
        assert field.encode("latin-1") in lines, f"no {field!r} (any more) in {message.lines}"
    assert not message.names & {name.lower().encode() for name in wanted.no_fields}, message.lines


def _check_problem(answer: Answer, message: Message) -> None:
    """An answer of the proxy's own (RFC 9457, RFC 9209)."""
    assert message.values(b"Content-Type") == [b"application/problem+json"]
    assert message.values(b"Cache-Control") == [b"no-store"]
    (proxy_status,) = message.values(b"Proxy-Status")
    assert re.fullmatch(rb"thg-proxy; error=[a-z_]+", proxy_status)
    assert (message.status == 503) == bool(message.values(b"Retry-After"))
    assert (message.status == 405) == bool(message.values(b"Allow"))
    if answer.bodiless:
        return
    problem = json.loads(message.body)
    assert problem.keys() == _PROBLEM_KEYS
    assert problem["code"] in _allowed(answer.code), problem
    assert problem["type"] == f"urn:thg-proxy:{problem['code']}"
    assert problem["status"] == message.status
    assert [problem["instance"].encode()] == message.values(b"X-Request-Id")


def _check_relayed(message: Message) -> None:
    """An answer of the upstream's."""
    assert not any(b"error=" in value for value in message.values(b"Proxy-Status"))
    assert not message.names & _HOP_BY_HOP
    assert not [name for name in message.names if _BROWSER_GRANTS.fullmatch(name)]
    assert len(message.values(b"Date")) == 1
    assert b"upgrade" not in message.names


def check_requests(case: Case, requests: list[Message], port: int) -> None:
    """All that the upstream got."""
    expected = case.expected_requests
    assert [request.start.decode() for request in requests] == [sent.line for sent in expected]
    for request, sent in zip(requests, expected, strict=True):
        _check_request(request, port)
        _check_fields(sent, request)
        assert request.body == text(sent.body)
        if sent.only:
            others = [line for line in request.lines if line.partition(b":")[0].lower() not in _OURS]
            assert others == [field.encode("latin-1") for field in sent.fields]


def _check_request(request: Message, port: int) -> None:
    assert request.values(b"Host") == [b"localhost:%d" % port]
    (authorization,) = request.values(b"Authorization")
    assert _BEARER.fullmatch(authorization), "not our credential"
    assert request.values(b"Via")[-1].endswith(b" thg-proxy")
    names = request.names
    assert not names & _HOP_BY_HOP
    assert not [name for name in names if _IDENTITY.fullmatch(name.replace(b"_", b"-"))]
    assert request.values(b"Connection") == ([b"Upgrade"] if b"upgrade" in names else [])


def check_secrets(received: bytes, requests: list[Message]) -> None:
    """No token has come back to the client."""
    assert not any(credential(request) in received for request in requests)


def credential(request: Message) -> bytes:
    """The token that the proxy has put into a request."""
    return request.values(b"Authorization")[0].removeprefix(b"Bearer ")
