"""Everything that can go wrong, once.

ProxyError                    `internal`, 500
├── ConfigError               exit code 2: every problem of a configuration, a sentence each
├── SecretUnreadable          a secret's source gives no usable value
├── StartError                exit code 1: a port is taken, a library can't be used
├── StoreUnavailable          the token store can't be used at the moment
├── BadToken                  the identity provider's side: not a token, or not a key set, that can be used
│   ├── BadJwt                not what the provider would issue
│   │   └── UnknownKey        a newer key set could change the answer
│   └── BadKeySet             no document of keys
├── RequestError              the client's side
│   ├── BadRequest            400   ├── NotFound             404 (admin port only)
│   │                               ├── MethodNotSupported   405
│   ├── BadTarget             400   ├── HeaderRequired       412
│   ├── RequestTimeout        408   ├── BodyTooLarge         413
│   ├── HostNotAllowed        421   ├── ExpectationFailed    417
│   ├── BrowserRefused        403   └── HeaderTooLarge       431
│   ├── NotAllowed            403
│   └── CallerRefused         403
├── Unavailable               this proxy can't serve now; each carries `retry_after`
│   ├── TokenUnavailable      503   ├── Overloaded           503
│   ├── ClientRejected        503   └── Stopping             503
└── UpstreamError             the API's side
    ├── UpstreamUnreachable   502   ├── UpstreamIncomplete   502
    ├── UpstreamTls           502   ├── UpstreamTimeout      504
    ├── UpstreamProtocol      502   └── LoopDetected         502

`code`, `status` and `proxy_status` (RFC 9209 §2.3) are the table of the data port: the answer, the metric label and
the log field read the same three.
`detail` is ours, never a peer's words: it can be shown to the client as it is.
"""

from collections.abc import Sequence
from typing import ClassVar


class ProxyError(Exception):
    """A failure that knows its code, its status and whose fault it is."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    hint: ClassVar[str] = "The proxy failed in a way that it does not know. Its log has the request id."
    outcome: ClassVar[str] = "proxy_error"
    exit_code: ClassVar[int] = 1
    proxy_status: str = "proxy_internal_error"

    def __init__(self, detail: str | None = None, *, proxy_status: str | None = None) -> None:
        self.detail = detail or self.hint
        if proxy_status is not None:
            self.proxy_status = proxy_status
        super().__init__(self.detail)


class ConfigError(ProxyError):
    """The configuration can't be used. `problems`: a sentence for each thing that is wrong, no secret in any."""

    code = "config"
    title = "Bad configuration"
    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class SecretUnreadable(ProxyError):
    """`detail` names the source, and never holds what was read."""

    code = "secret_unreadable"
    title = "Secret unreadable"


class StartError(ProxyError):
    code = "start"
    title = "Can't start"


class StoreUnavailable(ProxyError):
    """The place where processes share a token can't be used; `detail` says why and names the fix, without a secret."""

    code = "store_unavailable"
    title = "Token store unavailable"


class BadToken(ProxyError):
    """What the identity provider gave can't be used; `detail` says why, in our words."""

    code = "bad_token"
    title = "Bad token"


class BadJwt(BadToken):
    """The token is not one that the identity provider would issue."""

    code = "bad_jwt"


class UnknownKey(BadJwt):
    """No key of the set fits the token: the set may be older than the key."""

    code = "unknown_key"
    title = "Unknown signing key"


class BadKeySet(BadToken):
    """The document is no JWK Set (RFC 7517 §5), or holds no key that could sign a token."""

    code = "bad_key_set"
    title = "Bad JWK Set"


class RequestError(ProxyError):
    outcome = "client_error"
    proxy_status = "http_request_error"


class BadRequest(RequestError):
    code = "bad_request"
    status = 400
    title = "Bad request"
    hint = "The request is not well-formed HTTP/1.1."


class BadTarget(RequestError):
    code = "bad_target"
    status = 400
    title = "Bad request target"
    hint = "The request target must be an absolute path, with an optional query, without a fragment."


class RequestTimeout(RequestError):
    code = "request_timeout"
    status = 408
    title = "Request timeout"
    hint = "The request did not arrive in time."


class NotFound(RequestError):
    code = "not_found"
    status = 404
    title = "Not found"
    hint = "The admin port has no such path."


class HostNotAllowed(RequestError):
    code = "host_not_allowed"
    status = 421
    title = "Host not allowed"
    hint = "The Host of the request is not in policy.allowed_hosts."
    proxy_status = "http_request_denied"


class BrowserRefused(RequestError):
    code = "browser_refused"
    status = 403
    title = "Browser refused"
    hint = "A browser made the request (Origin or Sec-Fetch-*), and policy.browsers refuses these."
    proxy_status = "http_request_denied"


class NotAllowed(RequestError):
    code = "not_allowed"
    status = 403
    title = "Not allowed"
    hint = "No rule of policy.allow matches the method and path of the request."
    proxy_status = "http_request_denied"


class CallerRefused(RequestError):
    code = "caller_refused"
    status = 403
    title = "Caller refused"
    hint = "The calling process is not one that listen.allowed_uids names."
    proxy_status = "http_request_denied"


class MethodNotSupported(RequestError):
    code = "method_not_supported"
    status = 405
    title = "Method not supported"
    hint = "CONNECT and TRACE are not forwarded."
    proxy_status = "http_request_denied"


class HeaderRequired(RequestError):
    code = "header_required"
    status = 412
    title = "Header required"
    hint = "The request lacks the header field that policy.require_header names."
    proxy_status = "http_request_denied"


class BodyTooLarge(RequestError):
    code = "body_too_large"
    status = 413
    title = "Body too large"
    hint = "The request body is larger than limits.max_body."
    proxy_status = "http_request_denied"


class ExpectationFailed(RequestError):
    code = "expectation_failed"
    status = 417
    title = "Expectation failed"
    hint = "The only expectation that is supported is 100-continue."


class HeaderTooLarge(RequestError):
    code = "header_too_large"
    status = 431
    title = "Request header too large"
    hint = "The request line and header fields are larger than listen.max_header_size, or too many."


class Unavailable(ProxyError):
    """This proxy can't serve the request now. `retry_after`: whole seconds until another try is worth it."""

    status = 503

    def __init__(self, detail: str | None = None, *, retry_after: float = 1) -> None:
        super().__init__(detail)
        self.retry_after = max(1, -int(-retry_after // 1))


class TokenUnavailable(Unavailable):
    code = "token_unavailable"
    title = "No token available"
    hint = "The identity provider has not given a usable access token yet. The proxy keeps trying."
    proxy_status = "destination_unavailable"


class ClientRejected(Unavailable):
    code = "client_rejected"
    title = "Client rejected by the identity provider"
    hint = "The identity provider refused the client or its request. The proxy's log tells an operator more."
    proxy_status = "destination_unavailable"


class Overloaded(Unavailable):
    code = "overloaded"
    title = "Overloaded"
    hint = "As many requests as limits.max_in_flight are being served, or no upstream connection became free."
    proxy_status = "connection_limit_reached"


class Stopping(Unavailable):
    code = "stopping"
    title = "Stopping"
    hint = "The proxy is stopping."
    proxy_status = "destination_unavailable"


class UpstreamError(ProxyError):
    status = 502
    outcome = "upstream_error"


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"
    title = "Upstream unreachable"
    hint = "No connection to the upstream could be made."
    proxy_status = "connection_refused"


class UpstreamTls(UpstreamError):
    code = "upstream_tls"
    title = "Upstream TLS failure"
    hint = "The TLS handshake with the upstream failed. Its certificate must be valid for the name in upstream.url."
    proxy_status = "tls_protocol_error"


class UpstreamProtocol(UpstreamError):
    code = "upstream_protocol"
    title = "Bad upstream response"
    hint = "The upstream's response is not well-formed HTTP/1.1."
    proxy_status = "http_protocol_error"


class UpstreamIncomplete(UpstreamError):
    code = "upstream_incomplete"
    title = "Incomplete upstream response"
    hint = "The upstream closed the connection before its response was complete."
    proxy_status = "http_response_incomplete"


class UpstreamTimeout(UpstreamError):
    code = "upstream_timeout"
    status = 504
    title = "Upstream timeout"
    hint = "The upstream did not accept a connection, or did not answer, in time."
    proxy_status = "connection_read_timeout"


class LoopDetected(UpstreamError):
    code = "loop_detected"
    title = "Loop detected"
    hint = "The request has passed through this proxy already: upstream.url leads back to it."
    proxy_status = "proxy_loop_detected"
