"""The last quarter of an hour of traffic, in buckets of a few seconds.

Nothing is done per request: a timer reads the counters that the metrics have anyway, and keeps the differences.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Self

from proxy.metrics import LATENCY_BUCKETS, Traffic

BUCKET_SECONDS = 5
BUCKETS = 180

# What is not the client's doing.
_FAILED = ("proxy_error", "upstream_error", "aborted")


class _Counts(NamedTuple):
    """`durations`: by LATENCY_BUCKETS."""

    outcomes: Counter[str]
    errors: Counter[str]
    durations: tuple[int, ...]

    @classmethod
    def of(cls, traffic: Traffic) -> Self:
        return cls(traffic.outcomes(), Counter(traffic.errors), tuple(traffic.duration.counts))

    def since(self, earlier: "_Counts") -> "_Counts":
        durations = tuple(new - old for new, old in zip(self.durations, earlier.durations, strict=True))
        return _Counts(self.outcomes - earlier.outcomes, self.errors - earlier.errors, durations)


class _Bucket:
    """What was counted in `seconds`. Rates are per second, latencies milliseconds."""

    __slots__ = ("errors", "failed", "failure_rate", "outcomes", "p50", "p99", "rate", "requests")

    def __init__(self, counts: _Counts, seconds: float) -> None:
        self.outcomes = counts.outcomes
        self.errors = counts.errors
        self.requests = counts.outcomes.total()
        self.failed = sum(counts.outcomes[outcome] for outcome in _FAILED)
        self.rate = round(self.requests / seconds, 3)
        self.failure_rate = round(self.failed / seconds, 3)
        self.p50, self.p99 = (_milliseconds(quantile(q, counts.durations)) for q in (0.5, 0.99))


class History:
    """The differences between the samples of `traffic`, the last BUCKETS of them."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._last = _Counts.of(traffic)
        self._buckets: deque[_Bucket] = deque(maxlen=BUCKETS)

    async def keep(self) -> None:
        """Takes a sample every BUCKET_SECONDS, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(BUCKET_SECONDS)
            self.sample(loop.time() - began)

    def sample(self, seconds: float) -> None:
        """Closes the bucket of the last `seconds`; a timer that comes late makes a longer bucket, not a peak."""
        counts = _Counts.of(self._traffic)
        self._buckets.append(_Bucket(counts.since(self._last), seconds))
        self._last = counts

    def errors(self) -> Counter[str]:
        """Answers that this proxy made itself, by code."""
        return _sum(bucket.errors for bucket in self._buckets)

    def lately(self, buckets: int) -> tuple[int, int]:
        """The requests of the last `buckets`, and how many of them failed, through no fault of the client."""
        newest = list(islice(reversed(self._buckets), buckets))
        return sum(bucket.requests for bucket in newest), sum(bucket.failed for bucket in newest)

    def document(self) -> dict[str, object]:
        """A value a bucket, the oldest first; no latency where there was no request. `outcomes`: of the whole time."""
        buckets = self._buckets
        return {
            "bucket_seconds": BUCKET_SECONDS,
            "buckets": BUCKETS,
            "rate": [bucket.rate for bucket in buckets],
            "failure_rate": [bucket.failure_rate for bucket in buckets],
            "p50_ms": [bucket.p50 for bucket in buckets],
            "p99_ms": [bucket.p99 for bucket in buckets],
            "outcomes": _sum(bucket.outcomes for bucket in buckets),
        }


def quantile(q: float, counts: Sequence[int]) -> float | None:
    """Seconds, read off LATENCY_BUCKETS as Prometheus' `histogram_quantile` does; None where nothing was counted.

    Within a bucket the observations count as evenly spread; beyond the last bound, that bound is all that is known.
    """
    rank = q * sum(counts)
    if not rank:
        return None
    lower = 0.0
    for upper, count in zip(LATENCY_BUCKETS, counts, strict=False):
        if rank <= count:
            return lower + (upper - lower) * rank / count
        rank -= count
        lower = upper
    return lower


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total
