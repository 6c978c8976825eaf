"""An answer of the proxy's own: an RFC 9457 problem document, as bytes for the wire."""

import json
from http import HTTPStatus

from proxy.errors import MethodNotSupported, ProxyError, Unavailable

_ALLOW = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"


def problem_document(error: ProxyError, request_id: str) -> bytes:
    """The JSON body. It says only what the error's class and our own sentences say (R128)."""
    return json.dumps(
        {
            "type": f"urn:thg-proxy:{error.code}",
            "title": error.title,
            "status": error.status,
            "detail": error.detail,
            "code": error.code,
            "instance": request_id,
        }
    ).encode()


def problem_response(error: ProxyError, request_id: str, *, head_only: bool = False, close: bool = False) -> bytes:
    """A whole response; `head_only` for an answer to HEAD, `close` where the connection ends after it."""
    body = problem_document(error, request_id)
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"Proxy-Status: thg-proxy; error={error.proxy_status}\r\n"
        f"X-Request-Id: {request_id}\r\n"
    ).encode()
    if isinstance(error, Unavailable):
        head += b"Retry-After: %d\r\n" % error.retry_after
    if isinstance(error, MethodNotSupported):
        # RFC 9110 §15.5.6: a 405 names what is allowed.
        head += _ALLOW
    if close:
        head += b"Connection: close\r\n"
    return head + b"\r\n" + (b"" if head_only else body)
