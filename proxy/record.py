"""What is known of one request when it is over: one log line, one set of metrics, one row of `/status`."""

import msgspec

from proxy.log import one_line
from proxy.metrics import METHODS, Traffic

_CLIENT_ERROR, _UNAUTHORIZED, _SERVER_ERROR = 400, 401, 500


class RequestRecord(msgspec.Struct, array_like=True, eq=False):
    """Filled in on the way. Times are seconds; `path` has no query (RFC 9110 §17.9)."""

    method: str
    target: str
    started: float
    request_id: str = ""
    status: int = 0
    code: str = ""
    outcome: str = ""
    duration: float = 0.0
    token_wait: float = 0.0
    connect: float = 0.0
    ttfb: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    replayed: bool = False

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

    def shown(self) -> "RequestRecord":
        """A copy that holds no more than `fields` shows."""
        return msgspec.structs.replace(self, target=one_line(_path(self.target)))

    def fields(self) -> dict[str, object]:
        """The canonical fields of the log line, times in milliseconds."""
        return {
            "request_id": self.request_id,
            "method": self.method,
            "path": _path(self.target),
            "status": self.status,
            "code": self.code,
            "outcome": self.outcome,
            "duration_ms": _milliseconds(self.duration),
            "token_wait_ms": _milliseconds(self.token_wait),
            "connect_ms": _milliseconds(self.connect),
            "ttfb_ms": _milliseconds(self.ttfb),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "replayed": self.replayed,
        }


def _path(target: str) -> str:
    """Neither a query, nor a fragment, nor the authority of an absolute-form: each can hold a secret."""
    path = target.partition("?")[0].partition("#")[0]
    if path.startswith("/") or "://" not in path:
        return path
    return "/" + path.partition("://")[2].partition("/")[2]


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
