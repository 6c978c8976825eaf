"""One large body each way, moved by curl."""

import time
from functools import partial
from subprocess import PIPE, Popen

from .measure import BenchError, usage
from .peers import Target, direct
from .report import Figures, Row
from .stage import MEGA, Bench, all_started, in_turn
from .upstream import Upstream

_MIB, _GIB = 1 << 20, 1 << 30
_SAMPLE_INTERVAL = 0.05
_TIMEOUT = 300
_ROUNDS = 3


def bulk(bench: Bench) -> list[Row]:
    with all_started(bench) as (targets, failed):
        upstream = direct(bench.upstream, bench.upstream_pid)
        jobs = {target.name: partial(_both_ways, target, bench.upstream) for target in [upstream, *targets]}
        return failed + in_turn(bench, jobs, _ROUNDS)


def _both_ways(target: Target, upstream: Upstream) -> Figures:
    down = _transfer(target, upstream, "/download", "-o", "/dev/null", "-w", "%{size_download}\n%{time_total}")
    # Expect: 100-continue is answered by some peers and passed on by others; it is not what is compared.
    up = _transfer(target, upstream, "/upload", "-T", str(upstream.sparse), "-H", "Expect:", "-w", "\n%{time_total}")
    return {f"down_{key}": value for key, value in down.items()} | {f"up_{key}": value for key, value in up.items()}


def _transfer(target: Target, upstream: Upstream, path: str, *arguments: str) -> Figures:
    """One transfer by curl, which `arguments` make print how many bytes arrived at the other end, and in what time."""
    command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert", str(upstream.ca)]
    command += ["--max-time", str(_TIMEOUT), *(word for header in target.headers for word in ("-H", header))]
    before = usage(target.pid)
    with Popen([*command, *arguments, target.url + path], stdout=PIPE, stderr=PIPE, text=True) as curl:
        peak = before.rss
        while curl.poll() is None:
            peak = max(peak, usage(target.pid).rss)
            time.sleep(_SAMPLE_INTERVAL)
        printed, complaint = curl.communicate()
    arrived, _, seconds = printed.partition("\n")
    size = upstream.sparse.stat().st_size
    if curl.returncode or arrived != str(size):
        raise BenchError(f"{path}: {arrived or 0} of {size} bytes arrived. {complaint.strip()}")
    return {
        "rate": size / _MIB / float(seconds),
        "cpu": (usage(target.pid).cpu - before.cpu) / size * _GIB,
        "growth": (peak - before.rss) / MEGA,
    }
