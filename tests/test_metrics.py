"""The exposition as Prometheus reads it: names and labels are API."""

import platform
import re
from collections.abc import Callable, Iterable

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy import __version__
from proxy.metrics import LATENCY_BUCKETS, METHODS, Metrics, WorkerStatus
from proxy.record import RequestRecord

# Sample name -> labels, the histograms' `le` included.
CONTRACT = {
    "thg_proxy_build_info": {"version", "python"},
    "thg_proxy_requests_total": {"method", "status", "outcome"},
    "thg_proxy_request_duration_seconds_bucket": {"le"},
    "thg_proxy_request_duration_seconds_count": set(),
    "thg_proxy_request_duration_seconds_sum": set(),
    "thg_proxy_upstream_ttfb_seconds_bucket": {"le"},
    "thg_proxy_upstream_ttfb_seconds_count": set(),
    "thg_proxy_upstream_ttfb_seconds_sum": set(),
    "thg_proxy_requests_in_flight": set(),
    "thg_proxy_requests_in_flight_limit": set(),
    "thg_proxy_request_bytes_total": set(),
    "thg_proxy_response_bytes_total": set(),
    "thg_proxy_errors_total": {"code"},
    "thg_proxy_replays_total": {"result"},
    "thg_proxy_upstream_connections": {"state"},
    "thg_proxy_upstream_connects_total": {"result"},
    "thg_proxy_token_expiry_timestamp_seconds": set(),
    "thg_proxy_token_issued_timestamp_seconds": set(),
    "thg_proxy_token_generation": set(),
    "thg_proxy_token_usable": set(),
    "thg_proxy_token_requests_total": {"client", "result"},
    "thg_proxy_token_request_duration_seconds_bucket": {"le"},
    "thg_proxy_token_request_duration_seconds_count": set(),
    "thg_proxy_token_request_duration_seconds_sum": set(),
    "thg_proxy_token_waits_total": {"result"},
    "thg_proxy_jwks_fetches_total": {"result"},
    "thg_proxy_clock_skew_seconds": set(),
    "thg_proxy_client_last_used_timestamp_seconds": {"client"},
    "thg_proxy_config_reloads_total": {"result"},
    "thg_proxy_event_loop_lag_seconds": set(),
    "thg_proxy_log_lines_dropped_total": set(),
    "thg_proxy_workers": set(),
    "thg_proxy_worker_restarts_total": set(),
}

Parser = Callable[[str], Iterable[Metric]]
FORMATS = [
    pytest.param("", parse_text, id="text"),
    pytest.param("application/openmetrics-text; version=1.0.0", parse_openmetrics, id="openmetrics"),
]


def busy() -> Metrics:
    """Metrics in which every label has a value."""
    metrics = Metrics()
    serve(metrics, "GET", "/v1/vehicles", status=502, outcome="upstream_error", code="upstream_unreachable")
    metrics.traffic.connects["ok"] += 1
    metrics.traffic.pool = lambda: {"idle": 1, "active": 2}
    metrics.token_requests.labels("primary", "ok").inc()
    metrics.token_waits.labels("ok").inc()
    metrics.jwks_fetches.labels("ok").inc()
    metrics.client_last_used.labels("primary").set(1)
    metrics.config_reloads.labels("ok").inc()
    metrics.traffic.replays["ok"] += 1
    return metrics


def serve(
    metrics: Metrics, method: str, target: str, *, status: int = 200, outcome: str = "ok", code: str = ""
) -> None:
    record = RequestRecord(method, target, started=0.0)
    record.status, record.outcome, record.code = status, outcome, code
    record.duration, record.ttfb = 0.02, 0.01
    record.bytes_in, record.bytes_out = 10, 200
    record.count(metrics.traffic)


def exposition(registry: CollectorRegistry, accept: str = "") -> str:
    encode, _ = choose_encoder(accept)
    return encode(registry).decode()


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one name by their labels' values, in the alphabetical order of the labels."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in parse_text(exposition(metrics.registry))
        for sample in family.samples
        if sample.name == name
    }


@pytest.mark.parametrize("accept, parse", FORMATS)
def test_names_and_labels_are_the_published_ones(accept: str, parse: Parser) -> None:
    """Every published metric is there with its labels, and none that is not published, in both formats (R153)."""
    found: dict[str, set[str]] = {}
    for family in parse(exposition(busy().registry, accept)):
        for sample in family.samples:
            if sample.name.startswith("thg_proxy_"):
                found.setdefault(sample.name, set()).update(sample.labels)
    assert found == CONTRACT


@pytest.mark.parametrize("accept, parse", FORMATS)
def test_every_metric_is_typed_and_explained(accept: str, parse: Parser) -> None:
    """Each family has a type and a sentence, so that a dashboard's author need not read the source."""
    for family in parse(exposition(busy().registry, accept)):
        if family.name.startswith("thg_proxy_"):
            assert family.type in {"counter", "gauge", "histogram"}
            assert re.fullmatch(r"[A-Z1].+\.", family.documentation)


def test_standard_metrics_of_process_and_interpreter_are_there() -> None:
    """Ready-made dashboards find `process_*` and `python_*`."""
    names = {family.name for family in parse_text(exposition(Metrics().registry))}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_info", "python_gc_collections"} <= names


def test_build_info_names_the_version() -> None:
    """`build_info` says which version runs on which Python."""
    assert values(Metrics(), "thg_proxy_build_info") == {(platform.python_version(), __version__): 1}


def test_no_created_series() -> None:
    """No `_created` series doubles what Prometheus has to store."""
    assert "_created" not in exposition(busy().registry, "application/openmetrics-text; version=1.0.0")


def test_clients_cannot_create_series() -> None:
    """However many paths, queries and methods clients invent, the number of series stays the same (R153)."""
    metrics = busy()
    serve(metrics, "AAAA", "/")
    before = len(exposition(metrics.registry).splitlines())
    for number in range(10_000):
        serve(metrics, f"M{number}", f"/path/{number}?token={number}")
    assert len(exposition(metrics.registry).splitlines()) == before
    assert values(metrics, "thg_proxy_requests_total")["other", "ok", "200"] == 10_001


@pytest.mark.parametrize("method", sorted(METHODS))
def test_registered_methods_are_labels(method: str) -> None:
    """The methods that people use are told apart."""
    metrics = Metrics()
    serve(metrics, method, "/", status=204)
    assert values(metrics, "thg_proxy_requests_total") == {(method, "ok", "204"): 1}


def test_a_request_is_counted_once_everywhere() -> None:
    """One request: one count by what came of it, its error, its bytes and its times."""
    metrics = Metrics()
    serve(metrics, "GET", "/", status=504, outcome="upstream_error", code="upstream_timeout")
    assert values(metrics, "thg_proxy_requests_total") == {("GET", "upstream_error", "504"): 1}
    assert values(metrics, "thg_proxy_errors_total") == {("upstream_timeout",): 1}
    assert values(metrics, "thg_proxy_request_bytes_total") == {(): 10}
    assert values(metrics, "thg_proxy_response_bytes_total") == {(): 200}
    assert values(metrics, "thg_proxy_request_duration_seconds_sum") == {(): 0.02}
    assert values(metrics, "thg_proxy_upstream_ttfb_seconds_count") == {(): 1}


def test_latency_falls_into_its_buckets() -> None:
    """A bucket counts what took as long as its bound or less (Prometheus: `le`), the last one everything."""
    metrics = Metrics()
    for seconds in (0.0001, 0.001, 0.0011, 59.9, 3600):
        metrics.traffic.duration.observe(seconds)
    buckets = values(metrics, "thg_proxy_request_duration_seconds_bucket")
    counts = {float(bound): count for (bound,), count in buckets.items()}
    assert list(counts) == [*LATENCY_BUCKETS, float("inf")]
    assert (counts[0.001], counts[0.0025], counts[30.0], counts[60.0], counts[float("inf")]) == (2, 3, 3, 4, 5)


def test_counts_go_from_one_process_to_another() -> None:
    """Whatever one has counted, another shows, once: what is counted twice, or not at all, would be seen here."""
    worker, parent = busy(), Metrics()
    parent.traffic.pool = worker.traffic.pool
    serve(parent, "GET", "/")
    serve(worker, "GET", "/")
    for _ in range(2):
        parent.traffic.add(worker.traffic.take())
    together = busy()
    for _ in range(2):
        serve(together, "GET", "/")
    assert traffic(parent) == traffic(together)
    assert traffic(worker) == traffic(Metrics()) | {
        line: value for line, value in traffic(worker).items() if line.startswith("thg_proxy_upstream_connections")
    }


def traffic(metrics: Metrics) -> dict[str, str]:
    """The samples of the data port, without those of the token."""
    registry = CollectorRegistry()
    registry.register(metrics.traffic)
    lines = [line for line in exposition(registry).splitlines() if not line.startswith("#")]
    return dict(line.rsplit(" ", 1) for line in lines)


def test_workers() -> None:
    """Processes that serve are a gauge; those that were started for others, a counter."""
    metrics = Metrics()
    metrics.workers.read = lambda: [
        WorkerStatus(1, "serving", 0.0, 2, 3),
        WorkerStatus(2, "starting", 0.0, 0, 1),
        WorkerStatus(3, "serving", 0.0, 0, 0),
    ]
    assert values(metrics, "thg_proxy_workers") == {(): 2}
    assert values(metrics, "thg_proxy_worker_restarts_total") == {(): 4}


def test_connections_are_read_when_scraped() -> None:
    """The state of the pool is asked for at each scrape, not kept twice."""
    metrics, pool = Metrics(), {"idle": 0, "active": 0}
    metrics.traffic.pool = lambda: pool
    pool["idle"] = 3
    assert values(metrics, "thg_proxy_upstream_connections") == {("idle",): 3, ("active",): 0}


def test_the_limit_is_read_when_scraped() -> None:
    """A reload changes how many requests may be in flight; the metric is never behind."""
    metrics, limits = Metrics(), iter((1024, 2048))
    metrics.traffic.in_flight_limit = lambda: next(limits)
    read = [values(metrics, "thg_proxy_requests_in_flight_limit") for _ in range(2)]
    assert read == [{(): 1024}, {(): 2048}]


def test_reloads_are_counted_from_zero() -> None:
    """The first failed reload is an increase: the series is there before it."""
    assert values(Metrics(), "thg_proxy_config_reloads_total") == {("ok",): 0, ("failed",): 0}
