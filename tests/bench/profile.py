"""Where the CPU of a request goes in thg-proxy: by shared object, as perf sees it, and which system calls it makes."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

from .loads import load_on
from .measure import BenchError, usage
from .peers import Target, program, started, thg_proxy
from .report import Column, Row, table
from .stage import MICRO, Bench

_PERF = ("perf", "apt-get install linux-perf")
_STRACE = ("strace", "apt-get install strace")
_CPU = (Column("cpu", "CPU us/request", "{:.1f}"), Column("share", "share", "{:.0%}"))
_CALLS = (Column("calls", "calls/request", "{:.2f}"),)
_LEAST = 0.005  # shares and calls below it are not shown
_POLL = 0.01
# Told to end by SIGINT, perf and strace end by it.
_INTERRUPTED = (0, 128 + signal.SIGINT, -signal.SIGINT)


def profile(bench: Bench) -> None:
    """Prints what perf and strace, where they are installed, see of the json case."""
    with started(thg_proxy(), bench.upstream, bench.cores) as target:
        load_on(target, bench.effort.warm_up)
        for (tool, install), look, columns in ((_PERF, _cpu, _CPU), (_STRACE, _calls, _CALLS)):
            if not program(tool):
                bench.progress.say(f"{tool}: skipped, not installed ({install})")
                continue
            bench.progress.step(tool)
            rows = look(target, bench)
            bench.progress.clear()
            print("\n" + table(columns, rows), flush=True)


def _cpu(target: Target, bench: Bench) -> list[Row]:
    data = str(bench.upstream.folder / "perf.data")
    before = usage(target.pid).cpu
    with _watched(target, "perf", "record", "-e", "cpu-clock", "-F", "999", "-o", data):
        load = load_on(target, bench.effort.long)
    cpu = (usage(target.pid).cpu - before) / load.requests / MICRO
    report = ["perf", "report", "-i", data, "--stdio", "--quiet", "--sort", "dso"]
    done = subprocess.run(report, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"perf: {done.stderr.strip()}")
    shares = shares_by_object(done.stdout)
    return [Row(name, [{"cpu": share * cpu, "share": share}]) for name, share in shares.items() if share > _LEAST]


def shares_by_object(report: str) -> dict[str, float]:
    """Of `perf report --sort dso`, as fractions."""
    lines = re.findall(r"^\s*([\d.]+)%\s+(\S.*?)\s*$", report, re.MULTILINE)
    return {name: float(percent) / 100 for percent, name in lines}


def _calls(target: Target, bench: Bench) -> list[Row]:
    counts = bench.upstream.folder / "strace.txt"
    with _watched(target, "strace", "-f", "-c", "-U", "name,calls", "-o", str(counts)):
        load = load_on(target, bench.effort.long)
    calls = {name: count / load.requests for name, count in calls_by_name(counts.read_text()).items()}
    return [Row(name, [{"calls": each}]) for name, each in calls.items() if each > _LEAST]


def calls_by_name(report: str) -> dict[str, int]:
    """Of `strace -c -U name,calls`."""
    return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", report, re.MULTILINE)}


@contextmanager
def _watched(target: Target, *command: str) -> Iterator[None]:
    """The tool watches until the end of the block; one that traces has begun with that when the block does."""
    process = subprocess.Popen([*command, "-p", str(target.pid)], stdout=PIPE, stderr=PIPE, text=True)
    try:
        while command[0] == "strace" and not _is_traced(target.pid) and process.poll() is None:
            time.sleep(_POLL)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    if process.returncode not in _INTERRUPTED:
        raise BenchError(f"{command[0]} ended with {process.returncode}. {said.strip()}")


def _is_traced(pid: int) -> bool:
    """proc_pid_status(5)"""
    return "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
