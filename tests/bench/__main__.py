"""`python -m tests.bench`: what thg-proxy costs, beside other proxies, in one run on one machine."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cases import CASES, FULL, QUICK, Bench, Case, Effort
from .peers import ENVOY, PEERS, Peer, direct, program
from .report import Progress, Row, as_json, machine, table
from .upstream import serving


def main() -> int:
    arguments = _arguments()
    nginx = program("nginx")
    if sys.platform != "linux" or not nginx:
        print("skipped: this needs Linux (/proc) and nginx as the upstream (apt-get install nginx)")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the peers end, too
    progress = Progress(sys.stderr)
    peers = _installed(progress)
    cases = {name: CASES[name] for name in arguments.case or ["json"]}
    with _bench(nginx, peers, QUICK if arguments.quick else FULL, progress) as bench:
        results = {name: _run(name, case, bench) for name, case in cases.items() if _possible(name, case, progress)}
    if arguments.json:
        figures = {"machine": machine(), "cases": {name: as_json(rows) for name, rows in results.items()}}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(any(row.failure for rows in results.values() for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    cases = "; ".join(f"{name}: {case.what}" for name, case in CASES.items())
    parser.add_argument("--case", action="append", choices=CASES, help=f"may be repeated, json if not given. {cases}")
    parser.add_argument("--quick", action="store_true", help="short rounds: shows that it works, not what it costs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round")
    return parser.parse_args()


def _installed(progress: Progress) -> tuple[Peer, ...]:
    for peer in PEERS:
        if not peer.program:
            progress.say(f"{peer.name}: skipped, not installed ({peer.install})")
    return tuple(peer for peer in PEERS if peer.program)


@contextmanager
def _bench(nginx: str, peers: tuple[Peer, ...], effort: Effort, progress: Progress) -> Iterator[Bench]:
    """The peers get one core, and the upstream and the load generators another, where there are two."""
    cores = os.sched_getaffinity(0)
    peer_core, load_core = min(cores), max(cores)
    if peer_core == load_core:
        progress.say("one core only: rates and latencies are those of all processes together")
    os.sched_setaffinity(0, {load_core})
    with serving(nginx, load_core, effort.bulk) as (upstream, pid):
        yield Bench(upstream, direct(upstream, pid), peers, peer_core, effort, progress)


def _possible(name: str, case: Case, progress: Progress) -> bool:
    if case.tool and not program(case.tool):
        progress.say(f"{name}: skipped, {case.tool} is not installed (apt-get install {case.tool})")
        return False
    return True


def _run(name: str, case: Case, bench: Bench) -> list[Row]:
    print(f"\n{name}: {case.what}", flush=True)
    rows = case.run(bench)
    bench.progress.clear()
    print(table(case.columns, rows, ENVOY), flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
