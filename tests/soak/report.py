"""What a soak has shown, beside what is expected of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from tests.soak.clients import KINDS, Exchange, failures
from tests.soak.process import Sample
from tests.soak.soak import Outcome

_MIB = 2**20
# By how much the memory may grow from the middle to the end: what an allocator does, not what a leak does.
_GROWTH, _SLACK = 1.05, 4 * _MIB
# The provider's connection, and one that is about to close.
_SPARE = 2
# Parts of the run, of which the median counts.
_START, _MIDDLE, _END = (0.05, 0.25), (0.4, 0.6), (0.8, 1.0)


@dataclass(frozen=True)
class Line:
    """`expected` is empty where nothing is."""

    what: str
    found: str
    expected: str = ""
    is_met: bool = True


def report(outcome: Outcome) -> list[Line]:
    return [*_traffic(outcome), *_events(outcome), *_resources(outcome), *_end(outcome)]


def is_sound(lines: Iterable[Line]) -> bool:
    return all(line.is_met for line in lines)


def table(lines: Sequence[Line]) -> str:
    """In Markdown, which a terminal shows as well."""
    rows = [("", "found", "expected", ""), *((line.what, line.found, line.expected, _mark(line)) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]])


def _mark(line: Line) -> str:
    if not line.expected:
        return ""
    return "✓" if line.is_met else "✗"


def _traffic(outcome: Outcome) -> list[Line]:
    failed = failures(outcome.exchanges)
    inside = [each for each in failed if _is_inside(each, outcome.outages)]
    outside = [each for each in failed if not _is_inside(each, outcome.outages)]
    counts = Counter(each.kind for each in outcome.exchanges)
    return [
        Line("requests", str(len(outcome.exchanges)), "some of each kind", all(counts[kind] for kind in KINDS)),
        *(Line(f"- {kind}", str(counts[kind])) for kind in KINDS),
        Line("failures outside API restarts", str(len(outside)), "0", not outside),
        *_listed(outside),
        Line("failures in API restarts", str(len(inside))),
        *_listed(inside),
        Line("requests with a bad token", str(outcome.refused), "0", outcome.refused == 0),
    ]


def _is_inside(exchange: Exchange, outages: Iterable[tuple[float, float]]) -> bool:
    return any(exchange.began <= end and exchange.ended >= begin for begin, end in outages)


def _listed(failed: Sequence[Exchange]) -> list[Line]:
    kinds = Counter(f"- {each.failure} ({each.kind})" for each in failed)
    return [Line(kind, str(count)) for kind, count in kinds.most_common()]


def _events(outcome: Outcome) -> list[Line]:
    done = outcome.reloads.get("ok", 0)
    failed = outcome.reloads.get("failed", 0)
    return [
        Line("tokens used", str(outcome.tokens), "more than 1", outcome.tokens > 1),
        *(Line(what, str(count), "1 or more", count > 0) for what, count in outcome.events.items()),
        Line("reloads done, failed", f"{done}, {failed}", "some, 0", done > 0 and failed == 0),
    ]


def _resources(outcome: Outcome) -> list[Line]:
    samples = outcome.samples
    if len(samples) < len((_START, _MIDDLE, _END)):
        return [Line("samples", str(len(samples)), "one a second", is_met=False)]
    resident = [_typical(samples, part, lambda each: each.resident) for part in (_START, _MIDDLE, _END)]
    descriptors = [_typical(samples, part, lambda each: each.descriptors) for part in (_START, _MIDDLE, _END)]
    lags = sorted(each.lag * 1000 for each in samples)
    most = resident[1] * _GROWTH + _SLACK
    return [
        Line("memory, start / middle / end", f"{_row(resident, _MIB)} MiB", "flat", resident[2] <= most),
        Line("descriptors, start / middle / end", _row(descriptors)),
        Line(
            "descriptors at rest, before / after",
            f"{outcome.before} / {outcome.after}",
            "the same",
            outcome.after <= outcome.before + _SPARE,
        ),
        Line("event loop lag, p99 / max", f"{lags[int(len(lags) * 0.99)]:.0f} / {lags[-1]:.0f} ms"),
    ]


def _typical(samples: Sequence[Sample], part: tuple[float, float], figure: Callable[[Sample], float]) -> float:
    first, last = (int(len(samples) * fraction) for fraction in part)
    return median(map(figure, samples[first : max(last, first + 1)]))


def _row(figures: Iterable[float], unit: int = 1) -> str:
    return " / ".join(f"{figure / unit:.0f}" for figure in figures)


def _end(outcome: Outcome) -> list[Line]:
    return [
        Line("requests in flight at the end", str(outcome.in_flight), "0", outcome.in_flight == 0),
        Line("bugs in the log", str(len(outcome.bugs)), "0", not outcome.bugs),
        Line("exit code", str(outcome.exit_code), "0", outcome.exit_code == 0),
    ]
