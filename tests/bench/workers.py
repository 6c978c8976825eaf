"""Several processes on one port: what a request costs then, and how many more there are in a second."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from .measure import children, usage, wrk
from .peers import THG_PROXY, Target, program, thg_proxy
from .processes import Cores, on_cores
from .report import Figures, Row
from .stage import MICRO, MILLI, Bench, Effort, all_started, in_turn, rss
from .upstream import serving

ONE = "one process"
# For each worker: so few may all be in one.
_CONNECTIONS = 32


@dataclass(frozen=True)
class Places:
    """Whose cores are whose."""

    proxy: Cores
    api: Cores
    load: Cores


def places(machine: Cores, workers: int) -> Places | None:
    """A core for each worker, as many for the API, half as many for the load; None where there are not as many."""
    cores = sorted(machine)
    load = -(-workers // 2)
    if len(cores) < 2 * workers + load:
        return None
    return Places(
        proxy=frozenset(cores[:workers]),
        api=frozenset(cores[workers : 2 * workers]),
        load=frozenset(cores[-load:]),
    )


def workers(bench: Bench) -> list[Row]:
    """Where there are too few cores, all processes of the proxy share one: then there is no rate to speak of."""
    count = bench.effort.workers
    peers = (thg_proxy(ONE), thg_proxy(THG_PROXY, f"workers={count}"))
    found = places(bench.machine, count)
    with ExitStack() as stack:
        if found is None:
            bench.progress.say(f"{len(bench.machine)} cores are too few for a rate with {count} workers")
        else:
            stack.enter_context(on_cores(found.load))
            upstream, _ = stack.enter_context(serving(program("nginx"), found.api, bench.effort.bulk))
            bench = replace(bench, upstream=upstream, cores=found.proxy)
        targets, failed = stack.enter_context(all_started(replace(bench, peers=peers)))
        threads = 1 if found is None else len(found.load)
        jobs = {
            target.name: partial(_one_load, target, bench.effort, threads, has_rate=found is not None)
            for target in targets
        }
        return failed + in_turn(bench, jobs, bench.effort.rounds, discard=1)


def _one_load(target: Target, effort: Effort, threads: int, *, has_rate: bool) -> Figures:
    before, each_before = usage(target.pid), children(target.pid)
    connections = _CONNECTIONS * effort.workers
    load = wrk(target.url, seconds=effort.seconds, connections=connections, body=0, headers=(), threads=threads)
    cpu = usage(target.pid).cpu - before.cpu
    figures = {"cpu": cpu / load.requests / MICRO, "cores": cpu / load.seconds, "rss": rss(target)}
    if each_before:
        figures["busiest"] = busiest(each_before, children(target.pid))
    if has_rate:
        figures |= {"rate": load.rate, "p99": load.p99 / MILLI}
    return figures


def busiest(before: Mapping[int, int], after: Mapping[int, int]) -> float:
    """The part of the work that the process has done that has done most of it; both say how much by then."""
    done = [after[pid] - before[pid] for pid in before if pid in after]
    return max(done) / sum(done)
