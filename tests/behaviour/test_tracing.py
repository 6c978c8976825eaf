"""Spans, as a collector gets them, and the trace context, as the API gets it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo.idp import DemoProvider
from tests.behaviour.canaries import leaks
from tests.behaviour.running import Launch, Launcher, Proxy, clean_environment, until
from tests.behaviour.test_replay import refusing
from tests.behaviour.test_websocket import HANDSHAKE, echo
from tests.collector import attributes, spans
from tests.peers import OK, Answer, Received, Upstream, free_port, http_answer, mute, request, trap

TRACE, PARENT = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
TRACEPARENT = b"traceparent: 00-%b-%b-01" % (TRACE, PARENT)
UNSAMPLED = b"traceparent: 00-%b-%b-00" % (TRACE, PARENT)
STATE = b"tracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"


@pytest.fixture
def collector() -> Iterator[Upstream]:
    with Upstream(answer=http_answer(200, b"")) as collector:
        yield collector


@pytest.fixture
def launch_traced(launch: Launcher, upstream: Upstream, collector: Upstream) -> Launch:
    """As `launch`, with spans that go to `collector`."""

    def start(*overrides: str, environment: dict[str, str] | None = None) -> Proxy:
        return launch(upstream, f"tracing.otlp_endpoint={collector.url}", *overrides, environment=environment)

    return start


def exported(collector: Upstream, count: int = 1) -> list[Span]:
    """All spans, once there are so many."""
    until(lambda: len(spans(collector.requests)) >= count, f"{count} spans")
    return spans(collector.requests)


def told(received: Received) -> tuple[str, str, str]:
    """Trace, span and flags of the one `traceparent` that the API was sent."""
    (value,) = received.values(b"traceparent")
    version, *ids, flags = value.decode().split("-")
    assert version == "00"
    return ids[0], ids[1], flags


def test_spans(launch_traced: Launch, collector: Upstream, upstream: Upstream) -> None:
    """Each exchange is a client span of the trace that the API is told of; nothing else is, and no query is in it
    (R152, R168).
    """
    proxy = launch_traced()
    with proxy.connect() as client:
        client.get(b"/v1/a?access_token=s3cret", b"X-Request-Id: my-id")
        # the same header section again
        client.get(b"/v1/b", b"X-Request-Id: my-id")
        # what is not sent to the API
        assert client.get(b"/a", b"Origin: http://evil.example").status == 403
        assert client.get(b"/a", b"Host: evil.example").status == 400
    proxy.status()
    proxy.stop()

    first, second = spans(collector.requests)
    assert [told(received) for received in upstream.requests] == [
        (span.trace_id.hex(), span.span_id.hex(), "01") for span in (first, second)
    ]
    assert first.trace_id != second.trace_id
    said = attributes(first)
    assert {said.pop(name) > 0 for name in ("thg_proxy.connect_ms", "thg_proxy.ttfb_ms")} == {True}
    assert said == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "server.address": "localhost",
        "server.port": upstream.port,
        "thg_proxy.request_id": "my-id",
        "url.full": f"{upstream.url}/v1/a",
    }
    assert (first.name, first.kind, first.parent_span_id) == ("GET", Span.SPAN_KIND_CLIENT, b"")
    assert first.start_time_unix_nano < first.end_time_unix_nano <= second.start_time_unix_nano
    assert attributes(second)["url.full"] == f"{upstream.url}/v1/b"


def test_callers_trace(launch_traced: Launch, collector: Upstream, upstream: Upstream) -> None:
    """A span is the child of the caller's; `tracestate` arrives as it was (R168)."""
    proxy = launch_traced("tracing.sample=0")
    with proxy.connect() as client:
        client.get(b"/a", TRACEPARENT, STATE)
        client.get(b"/a", TRACEPARENT, STATE)
    both = exported(collector, 2)

    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in both} == {(TRACE.decode(), PARENT.decode())}
    assert [told(received) for received in upstream.requests] == [
        (TRACE.decode(), span.span_id.hex(), "01") for span in both
    ]
    assert both[0].span_id != both[1].span_id
    assert [received.values(b"tracestate") for received in upstream.requests] == [[STATE.partition(b": ")[2]]] * 2


@pytest.mark.parametrize(
    "fields",
    [
        (TRACEPARENT.upper(),),
        (TRACEPARENT, TRACEPARENT),
        (TRACEPARENT + b"-more",),
        (TRACEPARENT.replace(b" 00-", b" ff-"),),
        (TRACEPARENT.replace(TRACE, b"0" * 32),),
        (b"trace-parent" + TRACEPARENT.removeprefix(b"traceparent"),),
        (),
    ],
)
def test_bad_trace(launch_traced: Launch, collector: Upstream, upstream: Upstream, fields: tuple[bytes, ...]) -> None:
    """What is no trace begins a new one, and its state ends here (R168)."""
    proxy = launch_traced()
    with proxy.connect() as client:
        assert client.get(b"/a", *fields, STATE).status == 200
    (span,) = exported(collector)

    (received,) = upstream.requests
    assert told(received) == (span.trace_id.hex(), span.span_id.hex(), "01")
    assert span.trace_id.hex() != TRACE.decode()
    assert received.values(b"tracestate") == []


@pytest.mark.parametrize(
    "fields, arrives",
    [
        # The name in any case, a later version, whitespace, and a list in several fields.
        ((TRACEPARENT.replace(b"traceparent", b"TrAcEpArEnT"), b"TraceState: foo=1"), [b"foo=1"]),
        ((TRACEPARENT.replace(b" 00-", b" cc-") + b"-more", b"tracestate: foo=1"), [b"foo=1"]),
        ((TRACEPARENT.replace(b" 00-", b"\t 00-") + b" \t", b"tracestate: \t foo=1 \t"), [b"foo=1"]),
        ((TRACEPARENT, b"tracestate: foo=1", b"tracestate: ", b"tracestate: bar=2"), [b"foo=1,,bar=2"]),
        ((TRACEPARENT, b"tracestate: " + b",".join(b"k%d=1" % number for number in range(33))), []),
        ((TRACEPARENT, b"tracestate: "), []),
    ],
)
def test_trace_on_the_wire(
    launch_traced: Launch, upstream: Upstream, fields: tuple[bytes, ...], arrives: list[bytes]
) -> None:
    """The trace goes on; its state with it, if it is well-formed (R168)."""
    proxy = launch_traced()
    with proxy.connect() as client:
        assert client.get(b"/a", *fields).status == 200
    (received,) = upstream.requests
    assert told(received)[0] == TRACE.decode()
    assert received.values(b"tracestate") == arrives


@pytest.mark.parametrize("sample, fields", [(0, ()), (1, (UNSAMPLED,))])
def test_unsampled(
    launch_traced: Launch, collector: Upstream, upstream: Upstream, sample: int, fields: tuple[bytes, ...]
) -> None:
    """A request that is not sampled ends in no span, and the API is told so."""
    proxy = launch_traced(f"tracing.sample={sample}")
    with proxy.connect() as client:
        client.get(b"/a", *fields)
        client.get(b"/last", TRACEPARENT)
    (span,) = exported(collector)

    first, _ = upstream.requests
    assert told(first)[2] == "00"
    assert attributes(span)["url.full"].endswith("/last")


def test_upstream_that_is_not_to_know(launch_traced: Launch, collector: Upstream, upstream: Upstream) -> None:
    """`upstream.headers.remove` keeps the trace from the API, and the span in it (R169)."""
    proxy = launch_traced("upstream.headers.remove=[traceparent, tracestate]")
    with proxy.connect() as client:
        client.get(b"/a", TRACEPARENT, STATE)
    (span,) = exported(collector)

    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE.decode(), PARENT.decode())
    assert b"trace" not in upstream.requests[0].head.lower()


def test_replay(launch_traced: Launch, collector: Upstream, upstream: Upstream, provider: DemoProvider) -> None:
    """A request that is sent again with a new token is one span, which says so (R93)."""
    upstream.answer = refusing(provider)
    proxy = launch_traced(f"oauth.refresh.min_interval={MIN_INTERVAL}")
    until(lambda: proxy.token_age > MIN_INTERVAL)
    with proxy.connect() as client:
        assert client.get().status == 200
    (span,) = exported(collector)

    assert attributes(span)["http.request.resend_count"] == 1
    assert attributes(span)["http.response.status_code"] == 200
    assert [told(received)[1] for received in upstream.requests] == [span.span_id.hex()] * 2


def cut(_received: Received, sock: socket.socket) -> bool:
    sock.sendall(OK[:-1])
    return False


def garbage(_received: Received, sock: socket.socket) -> bool:
    sock.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")
    return False


@pytest.mark.parametrize(
    "answer, error, status",
    [
        (http_answer(404, b""), "404", 404),
        (http_answer(500, b""), "500", 500),
        (garbage, "upstream_protocol", None),
        (cut, "upstream_incomplete", 200),
    ],
)
def test_errors(
    launch_traced: Launch, collector: Upstream, upstream: Upstream, answer: Answer, error: str, status: int | None
) -> None:
    """A span says what failed: by the status of the API, or by the code of the answer that the client got."""
    upstream.answer = answer
    proxy = launch_traced()
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a", b"Connection: close"))
        client.rest()
    (span,) = exported(collector)

    said = attributes(span)
    assert (said["error.type"], said.get("http.response.status_code")) == (error, status)
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "")


def test_api_that_is_away(launch: Launcher, collector: Upstream) -> None:
    """What could not be sent is a span, too."""
    proxy = launch(f"http://localhost:{free_port()}", f"tracing.otlp_endpoint={collector.url}")
    with proxy.connect() as client:
        assert client.get().status == 502
    (span,) = exported(collector)
    assert attributes(span)["error.type"] == "upstream_unreachable"


def test_client_that_goes_away(launch_traced: Launch, collector: Upstream, upstream: Upstream) -> None:
    """A client that does not wait for the answer ends the span."""
    upstream.answer = mute
    proxy = launch_traced()
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a"))
        upstream.wait_for(1)
    (span,) = exported(collector)
    assert attributes(span)["error.type"] == "client_gone"


def test_last_spans(launch_traced: Launch, collector: Upstream) -> None:
    """What is over when the process ends arrives before that."""
    proxy = launch_traced()
    with proxy.connect() as client:
        for _ in range(300):
            client.get()
    assert proxy.stop() == 0
    assert len(spans(collector.requests)) == 300


def test_aborted_at_the_end(launch_traced: Launch, collector: Upstream, upstream: Upstream) -> None:
    """A tunnel that ends with the process is a span, too."""
    upstream.answer = echo
    proxy = launch_traced()
    with proxy.connect() as tunnel:
        tunnel.send(HANDSHAKE)
        tunnel.response()
        assert proxy.stop() == 0
    (span,) = spans(collector.requests)
    assert attributes(span)["http.response.status_code"] == 101


@pytest.mark.parametrize("answer", [None, mute, http_answer(500, b""), http_answer(503, b"", b"Retry-After: 100")])
def test_collector_that_fails(
    launch_traced: Launch, collector: Upstream, upstream: Upstream, answer: Answer | None
) -> None:
    """A collector that is away, slow or broken costs spans: every request is served, and the process ends."""
    if answer is None:
        collector.stop_listening()
    else:
        collector.answer = answer
    proxy = launch_traced("shutdown.grace=1s")
    with proxy.connect() as client:
        assert client.get().status == 200
        if answer is not mute:
            until(lambda: proxy.log_lines("collector_unavailable"), "said so")
        assert [client.get().status for _ in range(100)] == [200] * 100
    proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.wait(30) == 0
    (line,) = proxy.log_lines("spans_dropped")
    assert line["count"] == 101
    assert len(upstream.requests) == 101


def test_environment(launch_traced: Launch, collector: Upstream) -> None:
    """No variable says where spans go, by which way, or with which fields (R40)."""
    with trap() as elsewhere:
        url = f"http://127.0.0.1:{elsewhere.port}"
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"), url)
        otel = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-canary=1",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_SERVICE_NAME": "canary",
            "OTEL_RESOURCE_ATTRIBUTES": "canary=1",
            "OTEL_SDK_DISABLED": "true",
            "OTEL_TRACES_SAMPLER": "always_off",
        }
        proxy = launch_traced(environment=proxies | {"NO_PROXY": "", "no_proxy": ""} | otel)
        with proxy.connect() as client:
            client.get()
        exported(collector)
        assert elsewhere.hits == 0
    assert b"canary" not in collector.raw_bytes


def test_nothing_secret(launch_traced: Launch, collector: Upstream, upstream: Upstream, provider: DemoProvider) -> None:
    """Neither the token nor what a client sends beside the path is in what a collector gets (R145, R152)."""
    upstream.answer = http_answer(200, b"canary", b"Set-Cookie: canary")
    proxy = launch_traced()
    with proxy.connect() as client:
        for name in (b"Authorization", b"Cookie", b"X-Api-Key", b"User-Agent", b"X-Forwarded-For", b"baggage"):
            client.get(b"/a?canary=canary", name + b": canary")
        client.get(b"http://canary:canary@localhost/a", b"tracestate: canary=1", TRACEPARENT)
        client.send(request(b"POST", b"/a", body=b"canary"))
        client.response()
    exported(collector, len(upstream.requests))

    sent = bytes(collector.raw_bytes)
    assert b"canary" not in sent
    assert leaks(sent.decode(errors="replace"), provider) == []


def without_the_extra(directory: Path, provider: DemoProvider) -> dict[str, str]:
    """An environment in which OpenTelemetry's packages can't be imported."""
    (directory / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    environment = clean_environment(provider)
    return environment | {"PYTHONPATH": f"{directory}{os.pathsep}{environment['PYTHONPATH']}"}


@pytest.mark.parametrize("command", ["check", "run"])
def test_without_the_extra(provider: DemoProvider, tmp_path: Path, command: str) -> None:
    """Who wants spans, and lacks what they need, is told what to install."""
    overrides = [f"oauth.token_url={provider.token_url}", "tracing.otlp_endpoint=http://localhost:4318"]
    done = subprocess.run(
        [sys.executable, "-m", "proxy", command, *(part for item in overrides for part in ("--set", item))],
        cwd=tmp_path,
        env=without_the_extra(tmp_path, provider),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    hint = "needs the package opentelemetry-proto: pip install 'thg-proxy[otel]'"
    assert line == f"tracing.otlp_endpoint: {hint} (--set)"


def test_who_wants_no_spans(launch: Launcher, upstream: Upstream, provider: DemoProvider, tmp_path: Path) -> None:
    """Needs nothing of it; the caller's fields pass as they are, whatever they are (R168)."""
    proxy = launch(upstream, environment=without_the_extra(tmp_path, provider))
    fields = (b"traceparent: 00-x", b"TraceState: a=1", b"tracestate: a=1")
    with proxy.connect() as client:
        client.get(b"/a", *fields)
    assert [line for line in upstream.requests[0].lines if b"trace" in line.lower()] == list(fields)


@pytest.mark.parametrize("sent", [b"a\tb", b"a" * 10_000, b'"><script>', b"caf\xe9", b""])
def test_request_id(launch: Launcher, upstream: Upstream, sent: bytes) -> None:
    """An id that could do harm in a log is replaced: in the header, in `instance` and in the log it is ours (R170)."""
    proxy = launch(upstream, "log.access=all")
    with proxy.connect() as client:
        response = client.get(b"/a#b", b"X-Request-Id: " + sent)
        # one that is forwarded arrives as it is
        client.get(b"/a", b"X-Request-Id: my-id")
    (ours,) = response.values(b"X-Request-Id")
    assert len(bytes.fromhex(ours.decode())) == 16
    assert json.loads(response.body)["instance"] == ours.decode()
    until(lambda: len(proxy.log_lines("request")) == 2)
    assert [line["request_id"] for line in proxy.log_lines("request")] == [ours.decode(), "my-id"]
    assert upstream.requests[0].values(b"X-Request-Id") == [b"my-id"]
