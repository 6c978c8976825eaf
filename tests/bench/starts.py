"""What a peer takes before its first request: time and memory."""

import time
from functools import partial

from .peers import Peer, started
from .report import Figures, Row
from .stage import MILLI, SETTLE, Bench, all_started, in_turn, rss


def start(bench: Bench) -> list[Row]:
    """From the command to the first answer that says ready."""
    jobs = {peer.name: partial(_one_start, bench, peer) for peer in bench.peers}
    return in_turn(bench, jobs, bench.effort.rounds, discard=1)


def _one_start(bench: Bench, peer: Peer) -> Figures:
    with started(peer, bench.upstream, bench.cores) as target:
        return {"start": target.started_in / MILLI}


def idle(bench: Bench) -> list[Row]:
    """Memory before the first request."""
    with all_started(bench) as (targets, failed):
        bench.progress.step("settling")
        time.sleep(SETTLE)
        return failed + [Row(target.name, [{"rss_idle": rss(target)}]) for target in targets]
