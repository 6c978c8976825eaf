"""What the cases have in common: the peers are started, and measured in turn."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from .measure import BenchError, usage
from .peers import Peer, Target, started
from .processes import Cores
from .report import Column, Figures, Progress, Row
from .upstream import Upstream

MEGA, MILLI, MICRO = 1e6, 1e-3, 1e-6
SETTLE = 2.0  # seconds until memory is what it stays


@dataclass(frozen=True)
class Effort:
    """How long to look.

    `rounds` of so many `seconds` under load, or of `long` seconds for what is rare; seconds of `warm_up` where no round
    is for that; `bulk` bytes each way; the `requests` after which memory is looked at; the number of idle `clients`,
    and of the proxy's `workers`.
    """

    rounds: int
    seconds: int
    long: int
    warm_up: int
    bulk: int
    requests: int
    clients: int
    workers: int = 2


FULL = Effort(rounds=5, seconds=2, long=5, warm_up=1, bulk=1 << 30, requests=1_000_000, clients=5_000)
QUICK = Effort(rounds=3, seconds=1, long=2, warm_up=1, bulk=1 << 27, requests=50_000, clients=500)


@dataclass(frozen=True)
class Bench:
    """What all cases work with; the peers run on `cores`, everything else on the core of the caller.

    `machine`: all cores that there are.
    """

    upstream: Upstream
    upstream_pid: int
    peers: tuple[Peer, ...]
    cores: Cores
    machine: Cores
    effort: Effort
    progress: Progress


Job = Callable[[], Figures]


@dataclass(frozen=True)
class Case:
    """`tool` is the program that makes the load, where one is needed."""

    what: str
    columns: tuple[Column, ...]
    run: Callable[[Bench], list[Row]]
    tool: str = ""


@contextmanager
def all_started(bench: Bench) -> Iterator[tuple[list[Target], list[Row]]]:
    """The peers that came up, and a row for each that did not."""
    targets, failed = [], []
    with ExitStack() as stack:
        for peer in bench.peers:
            bench.progress.step(f"starting {peer.name}")
            try:
                targets.append(stack.enter_context(started(peer, bench.upstream, bench.cores)))
            except BenchError as exc:
                failed.append(Row(peer.name, failure=str(exc)))
        yield targets, failed


def in_turn(bench: Bench, jobs: Mapping[str, Job], rounds: int, discard: int = 0) -> list[Row]:
    """All peers in each round, in alternating order: what disturbs the machine for a while disturbs all of them.

    The first `discard` rounds warm up and are not kept. Who fails once is not measured again.
    """
    rows = {name: Row(name) for name in jobs}
    for number in range(1, discard + rounds + 1):
        for row in list(rows.values()) if number % 2 else reversed(rows.values()):
            if row.failure:
                continue
            bench.progress.step(f"round {number} of {discard + rounds}: {row.name}")
            try:
                figures = jobs[row.name]()
            except BenchError as exc:
                row.failure = str(exc)
                continue
            if number > discard:
                row.rounds.append(figures)
    return list(rows.values())


def rss(target: Target) -> float:
    """In MB."""
    return usage(target.pid).rss / MEGA
