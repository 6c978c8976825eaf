"""The history, sampled by hand."""

import pytest

from proxy.admin.history import BUCKETS, History, quantile
from proxy.metrics import LATENCY_BUCKETS, LatencyHistogram, Traffic
from proxy.record import RequestRecord


def serve(traffic: Traffic, count: int = 1, *, outcome: str = "ok", duration: float = 0.02, code: str = "") -> None:
    for _ in range(count):
        record = RequestRecord("GET", "/", 0.0)
        record.outcome, record.duration, record.code = outcome, duration, code
        record.count(traffic)


def test_a_bucket_has_what_came_since_the_one_before() -> None:
    """The plots show what happened in each span of time, not sums since the start."""
    traffic = Traffic()
    serve(traffic, 1000)
    history = History(traffic)
    serve(traffic, 10)
    history.sample(5)
    history.sample(5)
    serve(traffic, 20, outcome="upstream_error")
    history.sample(5)
    document = history.document()
    assert document["rate"] == [2, 0, 4]
    assert document["failure_rate"] == [0, 0, 4]
    assert document["outcomes"] == {"ok": 10, "upstream_error": 20}


def test_a_late_timer_makes_no_peak() -> None:
    """A bucket that took longer counts for as long as it took."""
    traffic = Traffic()
    history = History(traffic)
    serve(traffic, 100)
    history.sample(50)
    assert history.document()["rate"] == [2]


def test_latencies_are_those_of_the_bucket() -> None:
    """A slow spell is seen while it lasts, however many fast requests came before; no request is no latency."""
    traffic = Traffic()
    history = History(traffic)
    serve(traffic, 1000, duration=0.0005)
    history.sample(5)
    serve(traffic, 10, duration=7)
    history.sample(5)
    history.sample(5)
    document = history.document()
    assert document["p50_ms"] == [pytest.approx(0.5), pytest.approx(7500), None]
    assert document["p99_ms"] == [pytest.approx(0.99), pytest.approx(9950), None]


def test_old_buckets_go() -> None:
    """A quarter of an hour is kept, and no more memory is used however long the proxy runs."""
    traffic = Traffic()
    history = History(traffic)
    for _ in range(BUCKETS + 1):
        serve(traffic, code="upstream_tls")
        history.sample(5)
    assert history.errors() == {"upstream_tls": BUCKETS}
    document = history.document()
    assert [len(values) for values in document.values() if isinstance(values, list)] == [BUCKETS] * 4


@pytest.mark.parametrize(
    "outcome, failed",
    [
        ("ok", False),
        ("client_error", False),
        ("client_gone", False),
        ("proxy_error", True),
        ("upstream_error", True),
        ("aborted", True),
    ],
)
def test_what_counts_as_failed(outcome: str, failed: bool) -> None:
    """What a client did wrong says nothing about the health of proxy and API."""
    traffic = Traffic()
    history = History(traffic)
    serve(traffic, 3, outcome=outcome)
    history.sample(5)
    assert history.lately(1) == (3, 3 if failed else 0)


def test_lately_is_the_newest() -> None:
    """The last minute is judged by the last minute."""
    traffic = Traffic()
    history = History(traffic)
    for count in (100, 2, 3):
        serve(traffic, count)
        history.sample(5)
    assert history.lately(2) == (5, 0)


@pytest.mark.parametrize(
    "q, seconds, expected",
    [
        (0.5, [], None),
        (0.5, [0.02], 0.0175),
        (0.99, [0.02], 0.02485),
        (0.5, [0.0002] * 50 + [20.0] * 50, 0.001),
        (0.51, [0.0002] * 50 + [20.0] * 50, 10.4),
        (0.99, [1000.0], 60.0),
        (0.5, [0.02, 1000.0, 1000.0], 60.0),
    ],
)
def test_quantiles_are_those_of_prometheus(q: float, seconds: list[float], expected: float | None) -> None:
    """As `histogram_quantile`: linear within a bucket, the last bound for what is beyond it."""
    histogram = LatencyHistogram()
    for value in seconds:
        histogram.observe(value)
    assert quantile(q, histogram.counts) == (expected if expected is None else pytest.approx(expected))
    assert len(histogram.counts) == len(LATENCY_BUCKETS) + 1
