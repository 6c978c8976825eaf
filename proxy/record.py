"""What is known of one request when it is over: one log line, one set of metrics, one row of `/status`, one span."""

from collections.abc import Callable
from random import getrandbits

import msgspec

from proxy.core.text import one_line
from proxy.metrics import METHODS, Traffic

_CLIENT_ERROR, _UNAUTHORIZED, _SERVER_ERROR = 400, 401, 500

_JSON = (
    b'"request_id":"%b","method":"%b","path":%b,"status":%d,"code":"%b","outcome":"%b","duration_ms":%.3f,'
    b'"token_wait_ms":%.3f,"connect_ms":%.3f,"ttfb_ms":%.3f,"bytes_in":%d,"bytes_out":%d,"replayed":%b'
)
_encode_json = msgspec.json.Encoder().encode


class RequestRecord:
    """Filled in on the way. Times are seconds; the path has no query (RFC 9110 §17.9). `on_end` takes it at the end."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "code",
        "connect",
        "duration",
        "method",
        "on_end",
        "outcome",
        "replayed",
        "request_id",
        "started",
        "status",
        "target",
        "token_wait",
        "ttfb",
    )

    def __init__(self, method: str, target: str, started: float) -> None:
        self.method = method
        self.target = target
        self.started = started
        self.request_id = ""
        self.status = 0
        self.code = ""
        self.outcome = ""
        self.duration = self.token_wait = self.connect = self.ttfb = 0.0
        self.bytes_in = self.bytes_out = 0
        self.replayed = False
        self.on_end: Callable[[RequestRecord], None] | None = None

    def relayed(self) -> None:
        """The upstream's answer went through whole."""
        if self.status < _CLIENT_ERROR:
            self.outcome = "ok"
        else:
            self.outcome = "client_error" if self.status < _SERVER_ERROR else "upstream_error"

    @property
    def is_notable(self) -> bool:
        """Is it one of those that `log.access: errors` writes?"""
        return self.outcome != "ok" or self.replayed

    def count(self, traffic: Traffic) -> None:
        method = self.method if self.method in METHODS else "other"
        traffic.requests[method, self.status, self.outcome] += 1
        traffic.duration.observe(self.duration)
        if self.ttfb:
            traffic.ttfb.observe(self.ttfb)
        if self.code:
            traffic.errors[self.code] += 1
        if self.replayed:
            traffic.replays[self._replay_result()] += 1
        traffic.request_bytes += self.bytes_in
        traffic.response_bytes += self.bytes_out

    def _replay_result(self) -> str:
        """Of the second sending."""
        if self.code or self.outcome == "client_gone":
            return "failed"
        return "rejected" if self.status == _UNAUTHORIZED else "ok"

    def fields(self) -> dict[str, object]:
        """The canonical fields of the log line, times in milliseconds."""
        return {
            "request_id": self.request_id,
            "method": self.method,
            "path": _path(self.target),
            "status": self.status,
            "code": self.code,
            "outcome": self.outcome,
            "duration_ms": milliseconds(self.duration),
            "token_wait_ms": milliseconds(self.token_wait),
            "connect_ms": milliseconds(self.connect),
            "ttfb_ms": milliseconds(self.ttfb),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "replayed": self.replayed,
        }

    def json(self) -> bytes:
        """`fields` as JSON, without the braces. Only the path is somebody else's to choose, and may need an escape."""
        return _JSON % (
            self.request_id.encode(),
            self.method.encode(),
            _encode_json(one_line(_path(self.target))),
            self.status,
            self.code.encode(),
            self.outcome.encode(),
            self.duration * 1000,
            self.token_wait * 1000,
            self.connect * 1000,
            self.ttfb * 1000,
            self.bytes_in,
            self.bytes_out,
            b"true" if self.replayed else b"false",
        )


def _path(target: str) -> str:
    """Neither a query, nor a fragment, nor the authority of an absolute-form: each can hold a secret."""
    path = target.partition("?")[0].partition("#")[0]
    if path.startswith("/") or "://" not in path:
        return path
    return "/" + path.partition("://")[2].partition("/")[2]


def milliseconds(seconds: float) -> float:
    """To the microsecond."""
    return int(seconds * 1e6 + 0.5) / 1000


def new_request_id() -> str:
    """Tells requests apart, and is no secret."""
    return f"{getrandbits(128):032x}"
