"""Many small requests, made by `wrk`: their cost, their rate and their latency."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import ceil

from .measure import BenchError, Load, usage, wrk
from .peers import THG_PROXY, Target, direct, started, thg_proxy
from .processes import fetch
from .report import Figures, Row
from .stage import MICRO, MILLI, SETTLE, Bench, Effort, all_started, in_turn, rss

CONNECTIONS = 32
UNDISTURBED = "undisturbed"
_SCRAPE_INTERVAL = 1.0
# Of the 86,400 seconds that a token of the upstream lives: it is due again after one.
_EVERY_SECOND = ("oauth.refresh.at=0.0000116", "oauth.refresh.jitter=0")
_TOKENS = r"^thg_proxy_token_generation (\S+)$"


def under_load(bench: Bench, connections: int = CONNECTIONS, body: int = 0) -> list[Row]:
    """Cost, rate and latency while that many connections are busy."""
    with all_started(bench) as (targets, failed):
        jobs = {
            target.name: partial(_one_load, target, rss(target), bench.effort.seconds, connections, body)
            for target in [direct(bench.upstream, bench.upstream_pid), *targets]
        }
        return failed + in_turn(bench, jobs, bench.effort.rounds, discard=1)


def _one_load(target: Target, rss_idle: float, seconds: int, connections: int, body: int) -> Figures:
    before = usage(target.pid)
    load = load_on(target, seconds, connections, body)
    cpu = usage(target.pid).cpu - before.cpu
    return {
        "cpu": cpu / load.requests / MICRO,
        "requests": load.requests,
        "rate": load.rate,
        "core": cpu / load.seconds,
        "p50": load.p50 / MILLI,
        "p99": load.p99 / MILLI,
        "p999": load.p999 / MILLI,
        "rss_idle": rss_idle,
        "rss": rss(target),
    }


def load_on(target: Target, seconds: int, connections: int = CONNECTIONS, body: int = 0) -> Load:
    return wrk(target.url, seconds=seconds, connections=connections, body=body, headers=target.headers)


def plain(bench: Bench) -> list[Row]:
    """The same with an upstream that has no TLS."""
    return under_load(replace(bench, upstream=bench.upstream.plain()))


def logged(bench: Bench) -> list[Row]:
    """The same with an access log as JSON in a file."""
    with all_started(replace(bench, upstream=replace(bench.upstream, access_log=True))) as (targets, failed):
        jobs = {target.name: partial(_one_logged, target, rss(target), bench.effort.seconds) for target in targets}
        return failed + in_turn(bench, jobs, bench.effort.rounds, discard=1)


def _one_logged(target: Target, rss_idle: float, seconds: int) -> Figures:
    """`logged` is the part of the requests that the log has a line for; some peers write the last ones later."""
    target.log.write_bytes(b"")
    figures = _one_load(target, rss_idle, seconds, CONNECTIONS, body=0)
    return figures | {"logged": target.log.read_bytes().count(b"\n") / figures["requests"]}


def growth(bench: Bench) -> list[Row]:
    """Memory before the first request and after a great many."""
    with all_started(bench) as (targets, failed):
        bench.progress.step("settling")
        time.sleep(SETTLE)
        jobs = {target.name: partial(_one_growth, target, bench.effort) for target in targets}
        return failed + in_turn(bench, jobs, rounds=1)


def _one_growth(target: Target, effort: Effort) -> Figures:
    idle = rss(target)
    load = load_on(target, effort.seconds)
    answered = load.requests
    while answered < effort.requests:
        load = load_on(target, ceil((effort.requests - answered) / load.rate))
        answered += load.requests
    time.sleep(SETTLE)
    after = rss(target)
    return {"requests": answered, "rss_idle": idle, "rss": after, "growth": after - idle}


def tail(bench: Bench) -> list[Row]:
    """What a request meets at worst while tokens are refreshed and metrics are scraped, and while they are not."""
    jobs = {UNDISTURBED: partial(_undisturbed_tail, bench), THG_PROXY: partial(_disturbed_tail, bench)}
    return in_turn(bench, jobs, bench.effort.rounds)


def _undisturbed_tail(bench: Bench) -> Figures:
    # Started for each round, so that nothing runs beside it.
    with started(thg_proxy(UNDISTURBED), bench.upstream, bench.cores) as target:
        return _one_tail(target, bench.effort)


def _disturbed_tail(bench: Bench) -> Figures:
    with started(thg_proxy(THG_PROXY, *_EVERY_SECOND), bench.upstream, bench.cores) as target:
        with _scraped(target.metrics) as tokens:
            figures = _one_tail(target, bench.effort)
        refreshed = tokens[-1] - tokens[0]
        if not refreshed:
            raise BenchError(f"the token was not refreshed in {len(tokens)} scrapes")
        return figures | {"scrapes": len(tokens), "tokens": refreshed}


def _one_tail(target: Target, effort: Effort) -> Figures:
    load_on(target, effort.warm_up)
    load = load_on(target, effort.long)
    return {"rate": load.rate, "p99": load.p99 / MILLI, "p999": load.p999 / MILLI}


@contextmanager
def _scraped(metrics: str) -> Iterator[list[float]]:
    """Every second; the list grows by the number of tokens obtained so far."""
    tokens: list[float] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(_SCRAPE_INTERVAL if tokens else 0):
            tokens.append(tokens_obtained(fetch(metrics)))

    with ThreadPoolExecutor(1) as pool:
        scraping = pool.submit(scrape)
        try:
            yield tokens
        finally:
            over.set()
        try:
            scraping.result()
        except OSError as exc:
            raise BenchError(f"a scrape failed: {exc}") from exc


def tokens_obtained(metrics: str) -> float:
    match = re.search(_TOKENS, metrics, re.MULTILINE)
    return float(match[1]) if match else 0.0
