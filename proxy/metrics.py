"""The metrics of the proxy; their names and labels are API.

What happens once per request is counted in plain integers (`Traffic`) and becomes metric families only when it is
scraped: a counter of prometheus_client costs seven times as much, and one request needs nine.
"""

import platform
from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from proxy import __version__

# The methods that llhttp knows are too many to be labels; these are RFC 9110 §9 and RFC 5789.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


Key = TypeVar("Key")


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """What was counted in a while, as it goes from one process to another."""

    requests: dict[tuple[str, int, str], int]
    errors: dict[str, int]
    connects: dict[str, int]
    replays: dict[str, int]
    durations: tuple[list[int], float]
    ttfbs: tuple[list[int], float]
    request_bytes: int
    response_bytes: int


class WorkerStatus(NamedTuple):
    """A process that serves the data port. `started`: Unix seconds; `restarts`: how many have died in its place.

    `state`: starting, serving, stuck, stopping or ended.
    """

    pid: int
    state: str
    started: float
    in_flight: int
    restarts: int


class LatencyHistogram:
    """Seconds, counted into LATENCY_BUCKETS."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.total += seconds

    def take(self) -> tuple[list[int], float]:
        taken = self.counts, self.total
        self.counts, self.total = [0] * len(taken[0]), 0.0
        return taken

    def add(self, counts: Sequence[int], total: float) -> None:
        self.counts = [old + new for old, new in zip(self.counts, counts, strict=True)]
        self.total += total

    def family(self, name: str, documentation: str) -> Metric:
        buckets, running = [], 0
        for bound, count in zip((*map(str, LATENCY_BUCKETS), "+Inf"), self.counts, strict=True):
            running += count
            buckets.append((bound, running))
        return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=self.total)


class Traffic(Collector):
    """What the data port counts. Everything here is written by the event loop alone."""

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, int, str], int] = defaultdict(int)
        self.errors: defaultdict[str, int] = defaultdict(int)
        self.connects: defaultdict[str, int] = defaultdict(int)
        self.replays: defaultdict[str, int] = defaultdict(int)
        self.duration = LatencyHistogram()
        self.ttfb = LatencyHistogram()
        self.in_flight = 0
        self.in_flight_limit: Callable[[], int] = int
        self.request_bytes = 0
        self.response_bytes = 0
        self.pool: Callable[[], dict[str, int]] = dict

    def take(self) -> Counts:
        """What was counted since the last time; from here on it counts from zero."""
        taken = Counts(
            requests=dict(self.requests),
            errors=dict(self.errors),
            connects=dict(self.connects),
            replays=dict(self.replays),
            durations=self.duration.take(),
            ttfbs=self.ttfb.take(),
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
        )
        for counted in (self.requests, self.errors, self.connects, self.replays):
            counted.clear()
        self.request_bytes = self.response_bytes = 0
        return taken

    def add(self, counts: Counts) -> None:
        """What another process has counted."""
        _add(self.requests, counts.requests)
        _add(self.errors, counts.errors)
        _add(self.connects, counts.connects)
        _add(self.replays, counts.replays)
        self.duration.add(*counts.durations)
        self.ttfb.add(*counts.ttfbs)
        self.request_bytes += counts.request_bytes
        self.response_bytes += counts.response_bytes

    def outcomes(self) -> Tally[str]:
        """Requests that ended, by what came of them."""
        outcomes: Tally[str] = Tally()
        for (_, _, outcome), count in self.requests.items():
            outcomes[outcome] += count
        return outcomes

    def collect(self) -> Iterator[Metric]:
        """The metric families as they are now; called by the registry at each scrape."""
        requests = CounterMetricFamily(
            "thg_proxy_requests", "Requests that ended, by what came of them.", labels=("method", "status", "outcome")
        )
        for (method, status, outcome), count in self.requests.copy().items():
            requests.add_metric((method, str(status), outcome), count)
        yield requests
        yield self.duration.family(
            "thg_proxy_request_duration_seconds", "Time from a request's head to the end of its answer."
        )
        yield self.ttfb.family(
            "thg_proxy_upstream_ttfb_seconds", "Time from sending a request upstream to the head of its response."
        )
        yield GaugeMetricFamily("thg_proxy_requests_in_flight", "Requests being served.", value=self.in_flight)
        yield GaugeMetricFamily(
            "thg_proxy_requests_in_flight_limit", "Requests that may be served at a time.", value=self.in_flight_limit()
        )
        yield CounterMetricFamily(
            "thg_proxy_request_bytes", "Bytes of request bodies sent upstream.", value=self.request_bytes
        )
        yield CounterMetricFamily(
            "thg_proxy_response_bytes", "Bytes of response bodies sent to clients.", value=self.response_bytes
        )
        yield _by_label("thg_proxy_errors", "Answers that this proxy made itself, by code.", "code", self.errors)
        yield _by_label("thg_proxy_upstream_connects", "Attempts to connect to the upstream.", "result", self.connects)
        yield _by_label("thg_proxy_replays", "Requests sent again after a 401.", "result", self.replays)
        connections = GaugeMetricFamily(
            "thg_proxy_upstream_connections", "Open connections to the upstream.", labels=("state",)
        )
        for state, count in self.pool().items():
            connections.add_metric((state,), count)
        yield connections


def _add(counted: dict[Key, int], more: Mapping[Key, int]) -> None:
    for key, count in more.items():
        counted[key] += count


def samples(collector: Collector) -> dict[str, float]:
    """The values of a collector without labels as they are now, by the names of its samples."""
    return {sample.name: sample.value for family in collector.collect() for sample in family.samples}


def _by_label(name: str, documentation: str, label: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=(label,))
    for value, count in counts.copy().items():
        family.add_metric((value,), count)
    return family


class Total(Collector):
    """A counter that somebody else keeps: `read` returns its value."""

    def __init__(self, name: str, documentation: str) -> None:
        self.read: Callable[[], int] = int
        self._name = name
        self._documentation = documentation

    def collect(self) -> Iterator[Metric]:
        """The value as it is now; called by the registry at each scrape."""
        yield CounterMetricFamily(self._name, self._documentation, value=self.read())


class Workers(Collector):
    """The processes that serve the data port; `read` returns them."""

    def __init__(self) -> None:
        self.read: Callable[[], Sequence[WorkerStatus]] = tuple

    def collect(self) -> Iterator[Metric]:
        """As they are now; called by the registry at each scrape."""
        workers = self.read()
        yield GaugeMetricFamily(
            "thg_proxy_workers",
            "Processes that serve the data port.",
            value=sum(worker.state == "serving" for worker in workers),
        )
        yield CounterMetricFamily(
            "thg_proxy_worker_restarts",
            "Processes that were started in the place of one that had died.",
            value=sum(worker.restarts for worker in workers),
        )


class Metrics:
    """All the metrics of one process, on a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.traffic = Traffic()
        self.registry.register(self.traffic)

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(f"thg_proxy_{name}", documentation, labels, registry=self.registry)

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return Gauge(f"thg_proxy_{name}", documentation, labels, registry=self.registry)

        gauge("build_info", "The version that runs.", "version", "python").labels(
            __version__, platform.python_version()
        ).set(1)
        self.token_expiry = gauge("token_expiry_timestamp_seconds", "When the current token expires (Unix time).")
        self.token_issued = gauge("token_issued_timestamp_seconds", "When the current token was obtained (Unix time).")
        self.token_generation = gauge("token_generation", "Counts the tokens that were obtained.")
        self.token_usable = gauge("token_usable", "1 while there is a token that requests can be sent with.")
        self.token_requests = counter("token_requests", "Requests to the token endpoint.", "client", "result")
        self.token_request_duration = Histogram(
            "thg_proxy_token_request_duration_seconds",
            "Time that a token request took.",
            registry=self.registry,
        )
        self.token_waits = counter("token_waits", "Requests that had to wait for a token.", "result")
        self.jwks_fetches = counter("jwks_fetches", "Fetches of the provider's signing keys.", "result")
        self.clock_skew = gauge("clock_skew_seconds", "The provider's clock minus this machine's.")
        self.client_last_used = gauge(
            "client_last_used_timestamp_seconds", "When a client last obtained a token (Unix time).", "client"
        )
        self.config_reloads = counter("config_reloads", "Reloads of the configuration.", "result")
        # A series that begins with its first event does not tell PromQL that something has increased.
        for result in ("ok", "failed"):
            self.config_reloads.labels(result)
        self.event_loop_lag = gauge("event_loop_lag_seconds", "How late the event loop last ran a timer.")
        self.log_lines_dropped = Total("thg_proxy_log_lines_dropped", "Lines of the log that could not be written.")
        self.registry.register(self.log_lines_dropped)
        self.workers = Workers()
        self.registry.register(self.workers)
