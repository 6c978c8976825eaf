"""What can be measured: each case drives all peers in turn and returns a row for each."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen

from .measure import BenchError, usage, wrk
from .peers import Peer, Target, started
from .report import Column, Figures, Progress, Row, spread
from .upstream import Upstream

_MICRO, _MILLI = 1e-6, 1e-3
_MIB, _GIB = 1 << 20, 1 << 30
_POST = Path(__file__).parent / "conf" / "post.lua"
_SETTLE = 2.0
_SAMPLE_INTERVAL = 0.05
_TRANSFER_TIMEOUT = 300


@dataclass(frozen=True)
class Effort:
    """How long to look: so many rounds, of so many seconds under load; `bulk` bytes each way."""

    rounds: int
    seconds: int
    bulk: int


FULL = Effort(rounds=5, seconds=5, bulk=1 << 30)
QUICK = Effort(rounds=3, seconds=1, bulk=1 << 27)


@dataclass(frozen=True)
class Bench:
    """What all cases work with; the peers run on `core`, everything else on the core of the caller."""

    upstream: Upstream
    direct: Target
    peers: tuple[Peer, ...]
    core: int
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


def _under_load(connections: int, script: Path | None, bench: Bench) -> list[Row]:
    """Cost, rate and latency while `wrk` keeps that many connections busy."""
    with _all_started(bench) as (targets, failed):
        jobs = {
            target.name: partial(_one_load, target, _rss(target), bench.effort.seconds, connections, script)
            for target in [bench.direct, *targets]
        }
        return failed + _in_turn(bench, jobs, bench.effort.rounds, discard=1)


def _one_load(target: Target, rss_idle: float, seconds: int, connections: int, script: Path | None) -> Figures:
    before = usage(target.pid)
    load = wrk(target.url, seconds=seconds, connections=connections, script=script, headers=target.headers)
    return {
        "cpu": (usage(target.pid).cpu - before.cpu) / load.requests / _MICRO,
        "rate": load.rate,
        "p50": load.p50 / _MILLI,
        "p99": load.p99 / _MILLI,
        "rss_idle": rss_idle,
        "rss": _rss(target),
    }


def _rss(target: Target) -> float:
    return usage(target.pid).rss / _MIB


def _bulk(bench: Bench) -> list[Row]:
    """One large body each way."""
    with _all_started(bench) as (targets, failed):
        jobs = {target.name: partial(_both_ways, target, bench.upstream) for target in [bench.direct, *targets]}
        return failed + _in_turn(bench, jobs, rounds=1)


def _both_ways(target: Target, upstream: Upstream) -> Figures:
    down = _transfer(target, upstream, "/download", "-o", "/dev/null", "-w", "%{size_download}")
    # Expect: 100-continue is answered by some peers and passed on by others; it is not what is compared.
    up = _transfer(target, upstream, "/upload", "-T", str(upstream.sparse), "-H", "Expect:")
    return {f"down_{key}": value for key, value in down.items()} | {f"up_{key}": value for key, value in up.items()}


def _transfer(target: Target, upstream: Upstream, path: str, *arguments: str) -> Figures:
    """One transfer by curl, which `arguments` make print how many bytes arrived at the other end."""
    command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert", str(upstream.ca)]
    command += ["--max-time", str(_TRANSFER_TIMEOUT), *(word for header in target.headers for word in ("-H", header))]
    before, begin = usage(target.pid), time.perf_counter()
    with Popen([*command, *arguments, target.url + path], stdout=PIPE, stderr=PIPE, text=True) as curl:
        peak = before.rss
        while curl.poll() is None:
            peak = max(peak, usage(target.pid).rss)
            time.sleep(_SAMPLE_INTERVAL)
        arrived, complaint = curl.communicate()
    seconds = time.perf_counter() - begin
    size = upstream.sparse.stat().st_size
    if curl.returncode or arrived != str(size):
        raise BenchError(f"{path}: {arrived or 0} of {size} bytes arrived. {complaint.strip()}")
    return {
        "rate": size / _MIB / seconds,
        "cpu": (usage(target.pid).cpu - before.cpu) / size * _GIB,
        "growth": (peak - before.rss) / _MIB,
    }


def _start(bench: Bench) -> list[Row]:
    """From the command to the first answer that says ready."""
    jobs = {peer.name: partial(_one_start, bench, peer) for peer in bench.peers}
    return _in_turn(bench, jobs, bench.effort.rounds, discard=1)


def _one_start(bench: Bench, peer: Peer) -> Figures:
    with started(peer, bench.upstream, bench.core) as target:
        return {"start": target.started_in / _MILLI}


def _idle(bench: Bench) -> list[Row]:
    """Memory before the first request."""
    with _all_started(bench) as (targets, failed):
        bench.progress.step("settling")
        time.sleep(_SETTLE)
        return failed + [Row(target.name, [{"rss_idle": _rss(target)}]) for target in targets]


@contextmanager
def _all_started(bench: Bench) -> Iterator[tuple[list[Target], list[Row]]]:
    """The peers that came up, and a row for each that did not."""
    targets, failed = [], []
    with ExitStack() as stack:
        for peer in bench.peers:
            bench.progress.step(f"starting {peer.name}")
            try:
                targets.append(stack.enter_context(started(peer, bench.upstream, bench.core)))
            except BenchError as exc:
                failed.append(Row(peer.name, failure=str(exc)))
        yield targets, failed


def _in_turn(bench: Bench, jobs: Mapping[str, Job], rounds: int, discard: int = 0) -> list[Row]:
    """All peers in each round, in alternating order: what disturbs the machine for a while disturbs all of them.

    The first `discard` rounds warm up and are not kept. Who fails once is not measured again.
    """
    rows = {name: Row(name) for name in jobs}
    for number in range(1, discard + rounds + 1):
        for row in list(rows.values()) if number % 2 else reversed(rows.values()):
            if row.failure:
                continue
            bench.progress.step(f"round {number} of {discard + rounds}: {row.peer}")
            try:
                figures = jobs[row.peer]()
            except BenchError as exc:
                row.failure = str(exc)
                continue
            if number > discard:
                row.rounds.append(figures)
    return list(rows.values())


_LOAD_COLUMNS = (
    Column("cpu", "CPU us/request", "{:.1f}", ratio=True),
    Column("cpu", "spread", "{:.0%}", reduce=spread),
    Column("rate", "requests/s", "{:.0f}", ratio=True),
    Column("p50", "p50 ms", "{:.2f}"),
    Column("p99", "p99 ms", "{:.2f}", ratio=True),
    Column("rss_idle", "RSS idle MiB", "{:.0f}"),
    Column("rss", "after MiB", "{:.0f}", reduce=max),
)
_BULK_COLUMNS = tuple(
    column
    for way in ("down", "up")
    for column in (
        Column(f"{way}_rate", f"{way} MiB/s", "{:.0f}"),
        Column(f"{way}_cpu", "CPU s/GiB", "{:.2f}", ratio=True),
        Column(f"{way}_growth", "RSS + MiB", "{:.1f}"),
    )
)
CASES = {
    "json": Case("GET of 190 bytes of JSON, 32 connections", _LOAD_COLUMNS, partial(_under_load, 32, None), "wrk"),
    "post": Case("POST of 2 KiB, 32 connections", _LOAD_COLUMNS, partial(_under_load, 32, _POST), "wrk"),
    "latency": Case("GET of 190 bytes of JSON, 1 connection", _LOAD_COLUMNS, partial(_under_load, 1, None), "wrk"),
    "bulk": Case("one large download and one large upload", _BULK_COLUMNS, _bulk, "curl"),
    "start": Case("from the command to ready", (Column("start", "ms", "{:.0f}", ratio=True),), _start),
    "idle": Case("memory before the first request", (Column("rss_idle", "RSS MiB", "{:.1f}", ratio=True),), _idle),
}
