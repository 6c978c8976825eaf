"""`python -m tests.bench`: what thg-proxy costs, beside other proxies, in one run on one machine."""

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from .cases import CASES
from .goals import verdicts
from .machine import facts
from .measure import BenchError
from .peers import PEERS, Peer, program
from .profile import profile
from .report import Progress, Row, as_json, table
from .results import RESULTS, record
from .stage import FULL, QUICK, Bench, Case, Effort
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
    known = facts(peers)
    print("\n".join(f"{name}: {fact}" for name, fact in known.items()), flush=True)
    with _bench(nginx, peers, _effort(arguments), progress) as bench:
        if arguments.profile:
            return _profiled(bench)
        cases = {name: CASES[name] for name in (CASES if arguments.all else arguments.case or ["json"])}
        results = {name: _run(name, case, bench) for name, case in cases.items() if _possible(name, case, progress)}
    print("\n" + "\n".join(verdicts(results)))
    if arguments.json:
        figures = {"machine": known, "cases": {name: as_json(rows) for name, rows in results.items()}}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    if arguments.record:
        record(shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]]), known, results)
    return int(any(row.failure for rows in results.values() for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    cases = "; ".join(f"{name}: {case.what}" for name, case in CASES.items())
    parser.add_argument("--case", action="append", choices=CASES, help=f"may be repeated, json if not given. {cases}")
    parser.add_argument("--all", action="store_true", help="every case, which takes about 14 minutes")
    parser.add_argument("--quick", action="store_true", help="short rounds: shows that it works, not what it costs")
    parser.add_argument("--requests", type=int, metavar="N", help="of the memory case; 1,000,000, or 50,000 if quick")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of the workers case; 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round")
    parser.add_argument("--record", action="store_true", help=f"append the tables to {RESULTS.name}")
    parser.add_argument("--profile", action="store_true", help="instead: where the CPU of a request to thg-proxy goes")
    arguments = parser.parse_args()
    if arguments.record and arguments.quick:
        parser.error("--record: figures of --quick are not worth keeping")
    return arguments


def _effort(arguments: argparse.Namespace) -> Effort:
    effort = QUICK if arguments.quick else FULL
    return replace(effort, requests=arguments.requests or effort.requests, workers=arguments.workers)


def _installed(progress: Progress) -> tuple[Peer, ...]:
    for peer in PEERS:
        if not peer.program:
            progress.say(f"{peer.name}: skipped, not installed ({peer.install})")
    return tuple(peer for peer in PEERS if peer.program)


@contextmanager
def _bench(nginx: str, peers: tuple[Peer, ...], effort: Effort, progress: Progress) -> Iterator[Bench]:
    """The peers get one core, and the upstream and the load generators another, where there are two."""
    cores = os.sched_getaffinity(0)
    peer_core, load_core = frozenset({min(cores)}), frozenset({max(cores)})
    if peer_core == load_core:
        progress.say("one core only: rates and latencies are those of all processes together")
    os.sched_setaffinity(0, load_core)
    with serving(nginx, load_core, effort.bulk) as (upstream, pid):
        yield Bench(upstream, pid, peers, peer_core, frozenset(cores), effort, progress)


def _possible(name: str, case: Case, progress: Progress) -> bool:
    if case.tool and not program(case.tool):
        progress.say(f"{name}: skipped, {case.tool} is not installed (apt-get install {case.tool})")
        return False
    return True


def _profiled(bench: Bench) -> int:
    try:
        profile(bench)
    except BenchError as exc:
        bench.progress.say(str(exc))
        return 1
    return 0


def _run(name: str, case: Case, bench: Bench) -> list[Row]:
    print(f"\n{name}: {case.what}", flush=True)
    begin = time.monotonic()
    rows = case.run(replace(bench, peers=tuple(peer for peer in bench.peers if name not in peer.skips)))
    bench.progress.say(f"in {time.monotonic() - begin:.0f} s")
    print(table(case.columns, rows), flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
