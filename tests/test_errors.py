import re

import pytest

from proxy import errors
from proxy.errors import ConfigError, ProxyError, Stopping, TokenUnavailable, UpstreamTls

# The errors of the data port, with the one that the admin port adds.
# Class, code, status, Proxy-Status error (RFC 9209 §2.3), outcome of the metric.
TABLE = [
    ("BadRequest", "bad_request", 400, "http_request_error", "client_error"),
    ("BadTarget", "bad_target", 400, "http_request_error", "client_error"),
    ("NotFound", "not_found", 404, "http_request_error", "client_error"),
    ("RequestTimeout", "request_timeout", 408, "http_request_error", "client_error"),
    ("HostNotAllowed", "host_not_allowed", 421, "http_request_denied", "client_error"),
    ("BrowserRefused", "browser_refused", 403, "http_request_denied", "client_error"),
    ("NotAllowed", "not_allowed", 403, "http_request_denied", "client_error"),
    ("CallerRefused", "caller_refused", 403, "http_request_denied", "client_error"),
    ("MethodNotSupported", "method_not_supported", 405, "http_request_denied", "client_error"),
    ("HeaderRequired", "header_required", 412, "http_request_denied", "client_error"),
    ("BodyTooLarge", "body_too_large", 413, "http_request_denied", "client_error"),
    ("ExpectationFailed", "expectation_failed", 417, "http_request_error", "client_error"),
    ("HeaderTooLarge", "header_too_large", 431, "http_request_error", "client_error"),
    ("TokenUnavailable", "token_unavailable", 503, "destination_unavailable", "proxy_error"),
    ("ClientRejected", "client_rejected", 503, "destination_unavailable", "proxy_error"),
    ("Overloaded", "overloaded", 503, "connection_limit_reached", "proxy_error"),
    ("Stopping", "stopping", 503, "destination_unavailable", "proxy_error"),
    ("UpstreamUnreachable", "upstream_unreachable", 502, "connection_refused", "upstream_error"),
    ("UpstreamTls", "upstream_tls", 502, "tls_protocol_error", "upstream_error"),
    ("UpstreamProtocol", "upstream_protocol", 502, "http_protocol_error", "upstream_error"),
    ("UpstreamIncomplete", "upstream_incomplete", 502, "http_response_incomplete", "upstream_error"),
    ("UpstreamTimeout", "upstream_timeout", 504, "connection_read_timeout", "upstream_error"),
    ("LoopDetected", "loop_detected", 502, "proxy_loop_detected", "upstream_error"),
]
GROUPS = {"ProxyError", "RequestError", "Unavailable", "UpstreamError"}
# These end a command, and are never the answer to a request.
OF_COMMANDS = {"ConfigError", "SecretUnreadable", "StartError"}

# These are for the log and the metrics.
OF_THE_PROVIDER = {"BadToken", "BadJwt", "UnknownKey", "BadKeySet"}
OF_THE_STORE = {"StoreUnavailable"}

CLASSES = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, ProxyError)
}


@pytest.mark.parametrize("name, code, status, proxy_status, outcome", TABLE)
def test_table(name: str, code: str, status: int, proxy_status: str, outcome: str) -> None:
    """An error's code, status and Proxy-Status are what users may rely on."""
    error = CLASSES[name]()
    assert (error.code, error.status, error.proxy_status, error.outcome) == (code, status, proxy_status, outcome)


def test_table_is_complete() -> None:
    """Every error that a client can see is in the table, each with a code of its own."""
    assert {name for name, *_ in TABLE} == CLASSES.keys() - GROUPS - OF_COMMANDS - OF_THE_PROVIDER - OF_THE_STORE
    assert len({code for _, code, *_ in TABLE}) == len(TABLE)


def test_tree_in_the_docstring() -> None:
    """The drawing names every class, with the status that it has."""
    drawn = dict(re.findall(r"(?:^|── )([A-Z]\w+) {2,}(\d{3})?", errors.__doc__ or "", re.MULTILINE))
    assert drawn.keys() == CLASSES.keys()
    assert {name: int(status) for name, status in drawn.items() if status} == {name: row for name, _, row, *_ in TABLE}


@pytest.mark.parametrize("name", [name for name, *_ in TABLE])
def test_words_for_the_client(name: str) -> None:
    """Every error has a title and a detail of its own, in whole sentences."""
    error = CLASSES[name]()
    assert error.title not in {"", ProxyError.title}
    assert error.detail not in {"", ProxyError.hint}
    assert error.detail.endswith(".")


def test_own_detail() -> None:
    """A detail or a Proxy-Status that is nearer to the case replaces that of the class, for this error only."""
    error = UpstreamTls("The certificate is expired.", proxy_status="tls_certificate_error")
    assert (str(error), error.proxy_status) == ("The certificate is expired.", "tls_certificate_error")
    assert UpstreamTls().proxy_status == "tls_protocol_error"


@pytest.mark.parametrize("seconds, whole", [(0, 1), (0.2, 1), (1.0, 1), (1.1, 2), (30, 30)])
def test_retry_after(seconds: float, whole: int) -> None:
    """Retry-After is whole seconds, rounded up, at least one (RFC 9110 §10.2.3)."""
    assert TokenUnavailable(retry_after=seconds).retry_after == whole
    assert Stopping().retry_after == 1


def test_exit_codes() -> None:
    """A bad configuration ends a command with 2 and all its problems, a line each; every other error with 1 (R165)."""
    error = ConfigError(["a: b", "c: d"])
    assert (error.exit_code, str(error), error.problems) == (2, "a: b\nc: d", ("a: b", "c: d"))
    assert {value.exit_code for value in CLASSES.values() if value is not ConfigError} == {1}
