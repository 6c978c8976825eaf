"""How finished spans get to a collector: OTLP over HTTP, in batches, in the background.

OpenTelemetry's own SDK would take four times the CPU for a span and 19 MB more, and let variables such as
OTEL_EXPORTER_OTLP_HEADERS and HTTP_PROXY decide what is sent where (R40). Of its packages only the protocol is used.
"""

import asyncio
import random
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple

import aiohttp
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from proxy import __version__
from proxy.log import Log
from proxy.outgoing import abort, open_session
from proxy.settings import ClientTls
from proxy.tls import client_context

Attributes = Mapping[str, str | int | float]

# Spans that may wait for the collector, about a megabyte; the oldest make room for others.
MAX_WAITING = 2048
# Spans that are sent together; to encode them takes the loop a millisecond or two.
MAX_BATCH = 256
# Seconds for which a span waits for others,
_PAUSE = 1.0
# the collector has for its answer,
_TIMEOUT = 10.0
# and the end of the process waits for it.
_LAST_EXPORT = 2.0
# Of the pause after a failure, which gets as long as a minute.
_MAX_DOUBLINGS = 6
# OTLP specification, "Retryable Response Codes": the same spans are worth another attempt.
_RETRYABLE = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
CLIENT = Span.SPAN_KIND_CLIENT
FAILED = Status(code=Status.STATUS_CODE_ERROR)
_VALUES = {str: "string_value", int: "int_value", float: "double_value"}


def piece_of_span(attributes: Attributes, **fields: Any) -> bytes:
    """A part of a span; its parts, one behind the other, are the span (protobuf merges a message that repeats)."""
    piece: bytes = Span(attributes=_pairs(attributes), **fields).SerializeToString()
    return piece


def _pairs(attributes: Attributes) -> list[Any]:
    return [{"key": name, "value": {_VALUES[type(value)]: value}} for name, value in attributes.items()]


_RESOURCE = Resource(attributes=_pairs({"service.name": "thg-proxy", "service.version": __version__}))
_SCOPE = InstrumentationScope(name="thg-proxy", version=__version__)


def export_request(spans: Sequence[bytes]) -> bytes:
    """The body of the request that hands spans to a collector."""
    of_scope = ScopeSpans(scope=_SCOPE, spans=map(Span.FromString, spans))
    body: bytes = ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=_RESOURCE, scope_spans=[of_scope])]
    ).SerializeToString()
    return body


def _url(endpoint: str) -> str:
    return f"{endpoint.rstrip('/')}/v1/traces"


class _Refusal(NamedTuple):
    """`is_passing`: the same spans may be taken later."""

    reason: str
    is_passing: bool


class Exporter:
    """Sends spans to a collector, from now on. One that is slow, or does not answer, costs spans and nothing else."""

    def __init__(self, endpoint: str, log: Log) -> None:
        self._url = _url(endpoint)
        self._log = log
        self._tls = client_context(ClientTls(), "tracing.otlp_endpoint")
        self._waiting: deque[bytes] = deque()
        self._batch: list[bytes] = []
        self._failures = 0
        self._dropped = 0
        self._awake = asyncio.Event()
        self._is_closing = False
        self._work = asyncio.get_running_loop().create_task(self._run())

    def send_to(self, endpoint: str) -> None:
        """From here on, also what waits."""
        url = _url(endpoint)
        if url != self._url:
            # Another collector has not failed yet.
            self._url, self._failures = url, 0
            self._awake.set()

    def take(self, span: bytes) -> None:
        """A whole span, to be sent soon."""
        if len(self._waiting) == MAX_WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(span)
        if len(self._waiting) == MAX_BATCH and not self._failures:
            self._awake.set()

    async def close(self, until: float) -> None:
        """Sends what waits, if the collector takes it soon, and by that moment of the loop's clock; then ends."""
        self._is_closing = True
        self._awake.set()
        time_left = min(_LAST_EXPORT, until - asyncio.get_running_loop().time())
        await asyncio.wait({self._work}, timeout=max(0, time_left))
        self._work.cancel()
        await asyncio.wait({self._work})
        self._dropped += len(self._batch) + len(self._waiting)
        self._batch, self._waiting = [], deque()
        self._tell_dropped()

    async def _run(self) -> None:
        async with open_session(_TIMEOUT, {"Content-Type": "application/x-protobuf"}) as session:
            while not self._is_closing:
                if self._failures or len(self._waiting) < MAX_BATCH:
                    await self._pause()
                await self._export(session)
            while self._waiting and not self._failures:
                await self._export(session)

    async def _pause(self) -> None:
        self._awake.clear()
        seconds = _PAUSE
        if self._failures:
            # Whoever shares the collector should not come back together with all the others.
            seconds = random.uniform(0.5, 1) * 2 ** min(self._failures, _MAX_DOUBLINGS)  # noqa: S311 - no secret
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._awake.wait()

    async def _export(self, session: aiohttp.ClientSession) -> None:
        """One batch, which is kept for the next time where it may be taken then."""
        if not self._batch:
            self._batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
        if not self._batch:
            return
        refusal = await self._send(session, export_request(self._batch))
        if refusal is None:
            self._batch = []
            self._works()
        else:
            self._fails(refusal)

    async def _send(self, session: aiohttp.ClientSession, body: bytes) -> _Refusal | None:
        try:
            async with session.post(self._url, data=body, allow_redirects=False, ssl=self._tls) as response:
                status = response.status
                # What else it says is not read.
                abort(response)
        except TimeoutError:
            return _Refusal(f"no answer within {_TIMEOUT:g}s", is_passing=True)
        except (aiohttp.ClientError, OSError, UnicodeError) as exc:
            # An exception's own text can hold a peer's words.
            return _Refusal(f"no answer: {getattr(exc, 'strerror', None) or type(exc).__name__}", is_passing=True)
        if status < HTTPStatus.MULTIPLE_CHOICES:
            return None
        return _Refusal(f"it answers with status {status}", is_passing=status in _RETRYABLE)

    def _works(self) -> None:
        if self._failures:
            self._log.info("collector_recovered")
        self._failures = 0
        self._tell_dropped()

    def _fails(self, refusal: _Refusal) -> None:
        if not self._failures:
            self._log.warning("collector_unavailable", reason=refusal.reason)
        self._failures += 1
        if not refusal.is_passing:
            self._dropped += len(self._batch)
            self._batch = []

    def _tell_dropped(self) -> None:
        if self._dropped:
            self._log.warning("spans_dropped", count=self._dropped)
        self._dropped = 0
