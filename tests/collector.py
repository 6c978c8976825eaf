"""What a collector reads out of the requests that the proxy exports spans with."""

from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from tests.peers import Received


def resource_spans(requests: list[Received]) -> list[ResourceSpans]:
    """In the order in which they came."""
    decoded = (ExportTraceServiceRequest.FromString(received.body) for received in list(requests))
    return [group for request in decoded for group in request.resource_spans]


def spans(requests: list[Received]) -> list[Span]:
    """All of them, in the order in which they came."""
    return [span for group in resource_spans(requests) for scope in group.scope_spans for span in scope.spans]


def attributes(of: Any) -> dict[str, Any]:
    """Of a span or a resource."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


def names(requests: list[Received]) -> list[str]:
    return [span.name for span in spans(requests)]
