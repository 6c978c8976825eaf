"""Many connections of clients: most of them idle, or each of them a WebSocket."""

import http.client
import resource
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

from .loads import CONNECTIONS, load_on
from .measure import BenchError, usage
from .peers import Peer, Target, direct, started
from .report import Figures, Row
from .stage import MEGA, MICRO, MILLI, SETTLE, Bench, all_started, in_turn, rss
from .websocket import Echo, echoing

_KIB = 1 << 10
_TIMEOUT = 30
_OTHER_DESCRIPTORS = 256


def clients(bench: Bench) -> list[Row]:
    """What idle clients cost: memory for each, and what they take from the active ones beside them."""
    number = _room_for(bench.effort.clients)
    bench = replace(bench, upstream=replace(bench.upstream, clients=number))
    jobs = {peer.name: partial(_one_crowd, bench, peer) for peer in bench.peers}
    return in_turn(bench, jobs, bench.effort.rounds // 2)


def _room_for(clients: int) -> int:
    """As many of them as this process and its children may have descriptors for, one for each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients + _OTHER_DESCRIPTORS
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    return allowed - _OTHER_DESCRIPTORS


def _one_crowd(bench: Bench, peer: Peer) -> Figures:
    # Started for each round: memory that idle clients have left would serve the next ones.
    with started(peer, bench.upstream, bench.cores) as target:
        load_on(target, bench.effort.warm_up)
        alone = load_on(target, bench.effort.seconds)
        before = rss(target)
        with _idle(target.url, bench.upstream.clients):
            time.sleep(SETTLE)
            growth = rss(target) - before
            beside = load_on(target, bench.effort.seconds)
    return {
        "clients": bench.upstream.clients,
        "each": growth * MEGA / bench.upstream.clients / _KIB,
        "rate_alone": alone.rate,
        "rate": beside.rate,
        "kept": beside.rate / alone.rate,
        "p99_alone": alone.p99 / MILLI,
        "p99": beside.p99 / MILLI,
    }


@contextmanager
def _idle(url: str, number: int) -> Iterator[None]:
    """Connections that have had one answer each. Raises `BenchError` if not all of them are kept open."""
    address = urlsplit(url).netloc
    polled = select.poll()
    with ExitStack() as stack:
        try:
            for _ in range(number):
                client = stack.enter_context(closing(http.client.HTTPConnection(address, timeout=_TIMEOUT)))
                client.request("GET", "/")
                client.getresponse().read()
                polled.register(client.sock, select.POLLIN)
        except (OSError, http.client.HTTPException, TypeError) as exc:
            raise BenchError(f"an idle client: {exc}") from exc
        yield
        if lost := len(polled.poll(0)):
            raise BenchError(f"{lost} of {number} idle clients were closed")


def websocket(bench: Bench) -> list[Row]:
    """Messages of 1 KiB that are echoed through tunnels."""
    upstream = bench.upstream
    with echoing(upstream.certificate, upstream.ca, upstream.token) as echo:
        bench = replace(bench, upstream=replace(upstream, port=echo.port, websocket=True))
        with all_started(bench) as (targets, failed):
            jobs = {target.name: partial(_one_exchange, target, echo, bench.effort.seconds) for target in targets}
            jobs = {"direct": partial(_direct_exchange, bench, echo), **jobs}
            return failed + in_turn(bench, jobs, bench.effort.rounds, discard=1)


def _direct_exchange(bench: Bench, echo: Echo) -> Figures:
    """The server is in the process that makes the load: there is nothing but the load to be measured."""
    figures = _one_exchange(direct(bench.upstream, bench.upstream_pid), echo, bench.effort.seconds)
    return {key: figures[key] for key in ("rate", "load")}


def _one_exchange(target: Target, echo: Echo, seconds: int) -> Figures:
    """`load` is how busy the clients and the server are: near 1, they are what limits the rate."""
    with echo.clients(target.url, target.headers, CONNECTIONS) as clients:
        before, load_before, begin = usage(target.pid).cpu, time.process_time(), time.perf_counter()
        messages = clients.exchange(seconds)
        elapsed = time.perf_counter() - begin
        load = time.process_time() - load_before
        cpu = usage(target.pid).cpu - before
    if not messages:
        raise BenchError("no message came back")
    return {"cpu": cpu / messages / MICRO, "rate": messages / elapsed, "core": cpu / elapsed, "load": load / elapsed}
