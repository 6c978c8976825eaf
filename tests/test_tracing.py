"""What a span says, and what the upstream is told of it."""

import time
from typing import Any, cast

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from proxy.admission import Admitted, Section
from proxy.core.headers import ResponseRules
from proxy.core.trace_context import TraceContext, incoming
from proxy.otlp import Exporter
from proxy.record import RequestRecord
from proxy.settings import Settings, Tracing, Upstream, UpstreamHeaders
from proxy.tracing import Tracer
from tests.collector import attributes

TRACE, PARENT = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
SAMPLED = TraceContext(TRACE, PARENT, is_sampled=True, state=b"congo=t61rcWkgMzE")
UNSAMPLED = SAMPLED._replace(is_sampled=False)
COMMON = {"server.address": "api.example", "server.port": 443, "network.protocol.version": "1.1"}


class Traced:
    """One request under a tracer, and the spans that it ends in."""

    def __init__(
        self,
        context: TraceContext | None = None,
        *,
        sample: float = 1.0,
        method: str = "GET",
        target: bytes = b"/a",
        **upstream: Any,
    ) -> None:
        self.taken: list[bytes] = []
        settings = Settings(
            upstream=Upstream(**{"url": "https://api.example"} | upstream), tracing=Tracing(sample=sample)
        )
        exporter = cast(Exporter, self)
        self.tracer = Tracer(settings, exporter)
        self.admitted = Admitted(method, target, Section(b"", response_rules=ResponseRules(), trace_context=context))
        self.record = RequestRecord(method, target.decode(), 0.0)
        self.tracer.begin(self.admitted, self.record)

    def take(self, span: bytes) -> None:
        self.taken.append(span)

    def ended(self, **known: object) -> list[Span]:
        for name, value in known.items():
            setattr(self.record, name, value)
        if self.record.on_end is not None:
            self.record.on_end(self.record)
        return [Span.FromString(span) for span in self.taken]

    @property
    def told(self) -> TraceContext:
        """What the upstream reads."""
        fields = dict(line.split(b": ") for line in self.admitted.trace.splitlines())
        context = incoming(fields.get(b"traceparent"), fields.get(b"tracestate"))
        assert context is not None
        return context


OK = {"status": 200, "outcome": "ok"}


@pytest.mark.parametrize(
    "known, said",
    [
        (OK, {"http.response.status_code": 200}),
        ({"status": 101, "outcome": "ok"}, {"http.response.status_code": 101}),
        ({"status": 304, "outcome": "ok"}, {"http.response.status_code": 304}),
        ({"status": 404, "outcome": "client_error"}, {"http.response.status_code": 404, "error.type": "404"}),
        ({"status": 503, "outcome": "upstream_error"}, {"http.response.status_code": 503, "error.type": "503"}),
        # answers of our own
        ({"status": 502, "outcome": "upstream_error", "code": "upstream_tls"}, {"error.type": "upstream_tls"}),
        ({"status": 503, "outcome": "proxy_error", "code": "token_unavailable"}, {"error.type": "token_unavailable"}),
        # a response that did not come to its end
        (
            {"status": 200, "outcome": "aborted", "code": "upstream_incomplete"},
            {"http.response.status_code": 200, "error.type": "upstream_incomplete"},
        ),
        ({"status": 200, "outcome": "client_gone"}, {"http.response.status_code": 200, "error.type": "client_gone"}),
        ({"status": 0, "outcome": "client_gone"}, {"error.type": "client_gone"}),
        # what else is known
        (OK | {"replayed": True}, {"http.response.status_code": 200, "http.request.resend_count": 1}),
        (OK | {"request_id": "my-id"}, {"http.response.status_code": 200, "thg_proxy.request_id": "my-id"}),
        (
            OK | {"token_wait": 0.25, "connect": 0.0015, "ttfb": 0.1},
            {
                "http.response.status_code": 200,
                "thg_proxy.token_wait_ms": 250.0,
                "thg_proxy.connect_ms": 1.5,
                "thg_proxy.ttfb_ms": 100.0,
            },
        ),
    ],
)
def test_attributes(known: dict[str, object], said: dict[str, object]) -> None:
    """What is known of an exchange, in the words of OpenTelemetry; a client's span fails with 4xx, too."""
    (span,) = Traced().ended(**known)
    common = COMMON | {"http.request.method": "GET", "url.full": "https://api.example/a"}
    assert attributes(span) == common | said
    assert (span.name, span.kind) == ("GET", Span.SPAN_KIND_CLIENT)
    failed = Status.STATUS_CODE_ERROR if "error.type" in said else Status.STATUS_CODE_UNSET
    assert (span.status.code, span.status.message) == (failed, "")


@pytest.mark.parametrize("method", ["PROPFIND", "M-SEARCH", "QUERY"])
def test_unknown_method(method: str) -> None:
    """A method that is not in the conventions is no span's name."""
    (span,) = Traced(method=method).ended(**OK)
    assert span.name == "HTTP"
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["http.request.method_original"] == method


@pytest.mark.parametrize(
    "url, target, full, server",
    [
        ("https://api.example", b"/a%2Fb?token=s3cret", "https://api.example/a%2Fb", ("api.example", 443)),
        ("https://api.example:8443/v1", b"/v1/a", "https://api.example:8443/v1/a", ("api.example", 8443)),
        ("http://localhost", b"/?", "http://localhost/", ("localhost", 80)),
        ("http://[::1]:8080", b"*", "http://[::1]:8080", ("::1", 8080)),
    ],
)
def test_url(url: str, target: bytes, full: str, server: tuple[str, int]) -> None:
    """The URL as it is sent, without the query (R152)."""
    (span,) = Traced(target=target, url=url).ended(**OK)
    said = attributes(span)
    assert (said["url.full"], said["server.address"], said["server.port"]) == (full, *server)


def test_long_path() -> None:
    """What waits for the collector has a bound: a path is cut (R151)."""
    (span,) = Traced(target=b"/" + b"a" * 30_000).ended(**OK)
    assert len(attributes(span)["url.full"]) < 300


def test_times() -> None:
    """A span is as long as its request, and ends now."""
    before = time.time_ns()
    (span,) = Traced().ended(**OK, duration=2.5)
    assert before <= span.end_time_unix_nano <= time.time_ns()
    assert span.end_time_unix_nano - span.start_time_unix_nano == 2_500_000_000


def test_new_trace() -> None:
    """Without a caller's trace each request is one of its own; the upstream is told the span's ids (R168)."""
    traced = [Traced(), Traced()]
    for one in traced:
        (span,) = one.ended(**OK)
        assert one.told == TraceContext(span.trace_id.hex().encode(), span.span_id.hex().encode(), True, b"")
        assert (span.parent_span_id, span.flags) == (b"", 0x01)
    assert traced[0].told.trace_id != traced[1].told.trace_id


def test_continued_trace() -> None:
    """With one, the span is the child of the caller's, and the state goes on (R168)."""
    traced = Traced(SAMPLED, sample=0)
    (span,) = traced.ended(**OK)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE.decode(), PARENT.decode())
    assert traced.told == SAMPLED._replace(parent_id=span.span_id.hex().encode())
    # sampled, and known to be of another process
    assert span.flags == 0x301


@pytest.mark.parametrize("context, sample", [(UNSAMPLED, 1.0), (None, 0.0)])
def test_unsampled(context: TraceContext | None, sample: float) -> None:
    """The caller decides, or else the fraction; the upstream is told either way, by another id each time (R168)."""
    traced = [Traced(context, sample=sample), Traced(context, sample=sample)]
    assert [one.ended(**OK) for one in traced] == [[], []]
    assert [one.told.is_sampled for one in traced] == [False, False]
    assert len({one.told.parent_id for one in traced} | {PARENT}) == 3
    assert {one.told.state for one in traced} == {context.state if context else b""}


def test_fraction() -> None:
    """Of many traces that begin here, some are sampled."""
    assert 0 < sum(bool(Traced(sample=0.5).ended(**OK)) for _ in range(200)) < 200


@pytest.mark.parametrize(
    "headers, told",
    [
        (UpstreamHeaders(remove=("traceparent", "tracestate")), False),
        (UpstreamHeaders(remove=("TraceParent",)), False),
        (UpstreamHeaders(set={"Traceparent": "mine"}), False),
        (UpstreamHeaders(remove=("Tracestate",)), True),
    ],
)
def test_upstream_that_is_not_to_know(headers: UpstreamHeaders, *, told: bool) -> None:
    """What `upstream.headers` removes, or sets, is not sent; the span stays a part of the caller's trace (R169)."""
    traced = Traced(SAMPLED, headers=headers)
    (span,) = traced.ended(**OK)
    assert span.trace_id.hex() == TRACE.decode()
    if told:
        assert traced.told == SAMPLED._replace(parent_id=span.span_id.hex().encode(), state=b"")
    else:
        assert traced.admitted.trace == b""
