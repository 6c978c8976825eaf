"""The proxy's own answers, read back as a client reads them."""

import json
import re
from http import HTTPStatus
from http.client import HTTPResponse
from io import BytesIO
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy import errors
from proxy.core.problem import problem_response
from proxy.errors import (
    ClientRejected,
    ConfigError,
    MethodNotSupported,
    Overloaded,
    ProxyError,
    Stopping,
    TokenUnavailable,
    Unavailable,
    UpstreamTimeout,
    UpstreamUnreachable,
)

REQUEST_ID = "0123456789abcdef"


def every_error(kind: type[ProxyError] = ProxyError) -> list[ProxyError]:
    """One of each class of the error tree."""
    found = [ConfigError(["a problem"]) if kind is ConfigError else kind()]
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            found += every_error(child)
    return found


def parse(raw: bytes, method: str = "GET") -> tuple[HTTPResponse, bytes]:
    """The response, and every byte behind its head."""
    response = HTTPResponse(cast(Any, SimpleNamespace(makefile=lambda _mode: BytesIO(raw))), method=method)
    response.begin()
    return response, raw.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_error_is_a_problem_document(error: ProxyError) -> None:
    """Each error is valid problem+json whose status is the status, and says by whom and why (R127, R129)."""
    response, body = parse(problem_response(error, REQUEST_ID))
    document = json.loads(body)

    assert response.status == document["status"] == error.status
    assert response.reason == HTTPStatus(error.status).phrase
    assert document == {
        "type": f"urn:thg-proxy:{document['code']}",
        "title": type(error).title,
        "status": error.status,
        "detail": error.detail,
        "code": type(error).code,
        "instance": REQUEST_ID,
    }
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Proxy-Status"] == f"thg-proxy; error={error.proxy_status}"
    assert response.headers["X-Request-Id"] == REQUEST_ID


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_error_is_safe_to_receive(error: ProxyError) -> None:
    """No error is stored, sniffed or opened to other origins, and its length is exact (R132)."""
    response, body = parse(problem_response(error, REQUEST_ID))

    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name in response.headers if name.lower().startswith("access-control-")]
    assert int(response.headers["Content-Length"]) == len(body)


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_head_gets_the_head_alone(error: ProxyError) -> None:
    """An answer to HEAD has the fields of the answer to GET and no byte behind them (R127)."""
    raw = problem_response(error, REQUEST_ID)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert body
    assert problem_response(error, REQUEST_ID, head_only=True) == head + b"\r\n\r\n"


@pytest.mark.parametrize(
    "code, status, proxy_status",
    [
        ("bad_request", 400, "http_request_error"),
        ("bad_target", 400, "http_request_error"),
        ("request_timeout", 408, "http_request_error"),
        ("host_not_allowed", 421, "http_request_denied"),
        ("browser_refused", 403, "http_request_denied"),
        ("not_allowed", 403, "http_request_denied"),
        ("caller_refused", 403, "http_request_denied"),
        ("method_not_supported", 405, "http_request_denied"),
        ("header_required", 412, "http_request_denied"),
        ("body_too_large", 413, "http_request_denied"),
        ("expectation_failed", 417, "http_request_error"),
        ("header_too_large", 431, "http_request_error"),
        ("token_unavailable", 503, "destination_unavailable"),
        ("client_rejected", 503, "destination_unavailable"),
        ("overloaded", 503, "connection_limit_reached"),
        ("stopping", 503, "destination_unavailable"),
        ("upstream_unreachable", 502, "connection_refused"),
        ("upstream_tls", 502, "tls_protocol_error"),
        ("upstream_protocol", 502, "http_protocol_error"),
        ("upstream_incomplete", 502, "http_response_incomplete"),
        ("upstream_timeout", 504, "connection_read_timeout"),
        ("loop_detected", 502, "proxy_loop_detected"),
    ],
)
def test_published_codes(code: str, status: int, proxy_status: str) -> None:
    """Scripts may rely on the table of codes (R127, R129)."""
    (error,) = [error for error in every_error() if error.code == code]
    response, body = parse(problem_response(error, REQUEST_ID))
    assert (response.status, json.loads(body)["code"]) == (status, code)
    assert response.headers["Proxy-Status"] == f"thg-proxy; error={proxy_status}"


def test_titles_and_details_are_sentences_of_ours() -> None:
    """A title belongs to one type; no detail has an address, a path or the repr of an object in it (R127, R128)."""
    answers = [error for error in every_error() if error.status != HTTPStatus.INTERNAL_SERVER_ERROR]
    published = [error for error in answers if error.code != ProxyError.code]
    assert len({error.title for error in published}) == len({error.code for error in published}) == len(published)
    for error in published:
        assert re.fullmatch(r"[A-Z].+\.", error.detail)
        assert not re.search(r"\d+\.\d+\.\d+|/\w+/|[<>{}\\]|Error\b", error.detail)


def test_the_cause_stays_inside() -> None:
    """What the error was raised from does not show (R128)."""
    error = UpstreamUnreachable(proxy_status="dns_error")
    error.__cause__ = OSError(111, "Connect call failed ('192.0.2.7', 443) /run/secrets/client Bearer eyJ")
    raw = problem_response(error, REQUEST_ID)
    assert not re.search(rb"192\.0|OSError|Errno|/run|eyJ|Traceback", raw)


@pytest.mark.parametrize("kind", [TokenUnavailable, ClientRejected, Overloaded, Stopping])
@pytest.mark.parametrize(
    "seconds, header", [(0, "1"), (-5, "1"), (0.001, "1"), (1, "1"), (1.01, "2"), (59.5, "60"), (300, "300")]
)
def test_unavailable_says_when_to_come_back(kind: type[Unavailable], seconds: float, header: str) -> None:
    """Retry-After is a whole number of seconds, at least one, and not before it is worth it (R131)."""
    response, _ = parse(problem_response(kind(retry_after=seconds), REQUEST_ID))
    assert (response.status, response.headers["Retry-After"]) == (503, header)


def test_only_an_unavailable_proxy_asks_to_come_back() -> None:
    """A failure of the upstream promises nothing (R131)."""
    response, _ = parse(problem_response(UpstreamTimeout(), REQUEST_ID))
    assert "Retry-After" not in response.headers


def test_unsupported_method_names_the_others() -> None:
    """A 405 lists what is allowed (R24, RFC 9110 §15.5.6)."""
    response, _ = parse(problem_response(MethodNotSupported(), REQUEST_ID))
    assert response.headers["Allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


@pytest.mark.parametrize("close, header", [(True, "close"), (False, None)])
def test_the_end_of_the_connection_is_announced(close: bool, header: str | None) -> None:
    """`Connection: close` is there exactly where the connection ends (RFC 9112 §9.6)."""
    response, _ = parse(problem_response(ProxyError(), REQUEST_ID, close=close))
    assert response.headers["Connection"] == header
    response, _ = parse(problem_response(ProxyError(), REQUEST_ID))
    assert "Connection" not in response.headers


def test_a_detail_can_hold_anything() -> None:
    """Quotes, controls and other scripts in a detail of ours are escaped, so that the document stays JSON (R127)."""
    detail = 'a "quoted" \r\n\x00 é name'
    _, body = parse(problem_response(ProxyError(detail), REQUEST_ID))
    assert json.loads(body)["detail"] == detail
    assert b"\n" not in body
