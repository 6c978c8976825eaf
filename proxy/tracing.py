"""A span for each request that is sent upstream: which trace it belongs to, and what it says of the exchange.

The attributes are those of OpenTelemetry's semantic conventions for HTTP clients, and times of our own. But for the
request id they hold no value of a header field, no query and nothing of a body (R145, R152).
"""

import time
from binascii import a2b_hex
from collections.abc import Iterator
from functools import partial
from random import getrandbits
from urllib.parse import urlsplit

from proxy.admission import Admitted
from proxy.core.text import one_line
from proxy.core.trace_context import TraceContext, beginning, outgoing
from proxy.metrics import METHODS
from proxy.otlp import CLIENT, FAILED, Exporter, piece_of_span
from proxy.record import RequestRecord, milliseconds
from proxy.settings import Settings

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Flags of a span (opentelemetry/proto/trace/v1): sampled; its parent is known to be remote.
_SAMPLED, _REMOTE_PARENT = 0x01, 0x300


class Tracer:
    """Spans as one configuration wants them; those that are sampled go to `exporter`."""

    def __init__(self, settings: Settings, exporter: Exporter) -> None:
        self._exporter = exporter
        self._fraction = settings.tracing.sample
        headers = settings.upstream.headers
        own = {name.lower() for name in (*headers.remove, *headers.set)}
        self._is_told = "traceparent" not in own
        self._is_state_told = "tracestate" not in own
        url = urlsplit(settings.upstream.url)
        self._origin = f"{url.scheme}://{url.netloc}"
        self._common = piece_of_span(
            {
                "server.address": url.hostname or "",
                "server.port": url.port or _DEFAULT_PORTS[url.scheme],
                "network.protocol.version": "1.1",
            },
            kind=CLIENT,
        )

    def begin(self, admitted: Admitted, record: RequestRecord) -> None:
        """The upstream is told of each span, also of one that is not sampled and ends nowhere."""
        context = admitted.section.trace_context or beginning(getrandbits(128) or 1, self._fraction)
        span_id = b"%016x" % (getrandbits(64) or 1)
        if self._is_told:
            admitted.trace = outgoing(context if self._is_state_told else context._replace(state=b""), span_id)
        if context.is_sampled:
            record.on_end = partial(self._end, context, span_id, admitted.target)

    def _end(self, context: TraceContext, span_id: bytes, target: bytes, record: RequestRecord) -> None:
        end = time.time_ns()
        attributes = dict(_attributes(record))
        path = target.partition(b"?")[0].decode("ascii")
        attributes["url.full"] = self._origin + one_line(path if path.startswith("/") else "")
        piece = piece_of_span(
            attributes,
            name=record.method if record.method in METHODS else "HTTP",
            trace_id=a2b_hex(context.trace_id),
            span_id=a2b_hex(span_id),
            parent_span_id=a2b_hex(context.parent_id),
            flags=_SAMPLED | (_REMOTE_PARENT if context.parent_id else 0),
            start_time_unix_nano=end - int(record.duration * 1e9),
            end_time_unix_nano=end,
            status=FAILED if "error.type" in attributes else None,
        )
        self._exporter.take(self._common + piece)


def _attributes(record: RequestRecord) -> Iterator[tuple[str, str | int | float]]:
    if record.method in METHODS:
        yield "http.request.method", record.method
    else:
        yield "http.request.method", "_OTHER"
        yield "http.request.method_original", record.method
    # An answer of our own is no response of the upstream, but for one that was cut off.
    has_response = record.status != 0 and (not record.code or record.outcome == "aborted")
    if has_response:
        yield "http.response.status_code", record.status
    if record.outcome != "ok":
        yield "error.type", _error_type(record)
    if record.replayed:
        yield "http.request.resend_count", 1
    if record.request_id:
        yield "thg_proxy.request_id", record.request_id
    for name, seconds in (("token_wait", record.token_wait), ("connect", record.connect), ("ttfb", record.ttfb)):
        if seconds:
            yield f"thg_proxy.{name}_ms", milliseconds(seconds)


def _error_type(record: RequestRecord) -> str:
    """Our code, or what became of it without one: the client has gone, or the upstream's status is an error."""
    if record.code or record.outcome == "client_gone":
        return record.code or record.outcome
    return str(record.status)
