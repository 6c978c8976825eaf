"""What is measured: CPU and memory of a process tree from /proc, and what `wrk` reports."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_SCRIPT = Path(__file__).parent / "conf" / "load.lua"
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class BenchError(Exception):
    """A peer could not be started or did not do its work; the message says which and why."""


@dataclass(frozen=True)
class Stat:
    """One process (proc_pid_stat(5)); `cpu` is utime + stime in clock ticks, `rss` is in pages."""

    pid: int
    parent: int
    cpu: int
    rss: int

    @classmethod
    def parse(cls, line: str) -> Self:
        # The second field is the name in brackets; it may itself hold blanks and brackets.
        before, _, after = line.rpartition(")")
        fields = after.split()
        return cls(int(before.split()[0]), int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[21]))


@dataclass(frozen=True)
class Usage:
    """A process and its descendants: CPU used since their start in seconds, resident memory in bytes."""

    cpu: float
    rss: int


def usage(pid: int) -> Usage:
    tree = list(process_tree(pid, {stat.pid: stat for stat in _processes()}))
    return Usage(
        sum(stat.cpu for stat in tree) / os.sysconf("SC_CLK_TCK"),
        sum(stat.rss for stat in tree) * os.sysconf("SC_PAGE_SIZE"),
    )


def children(pid: int) -> dict[int, int]:
    """The CPU that each child of a process has used, in clock ticks, by their ids."""
    return {stat.pid: stat.cpu for stat in _processes() if stat.parent == pid}


def process_tree(pid: int, processes: Mapping[int, Stat]) -> Iterator[Stat]:
    if pid in processes:
        yield processes[pid]
    for child in processes.values():
        if child.parent == pid:
            yield from process_tree(child.pid, processes)


def _processes() -> Iterator[Stat]:
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield Stat.parse(file.read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended in the meantime


@dataclass(frozen=True)
class Load:
    """One run of `wrk --latency` with conf/load.lua: `rate` in requests per second, latencies in seconds."""

    requests: int
    rate: float
    p50: float
    p99: float
    p999: float

    @classmethod
    def parse(cls, report: str) -> Self:
        """Raises `BenchError` where a request failed: the cost of failing is not the cost of proxying."""
        errors = re.findall(r"Socket errors: .+|Non-2xx or 3xx responses: \d+", report)
        requests = int(_found(r"(\d+) requests in ", report)[1])
        if errors or not requests:
            raise BenchError(f"wrk: {'; '.join(errors) or 'no request was answered'}")
        rate = float(_found(r"Requests/sec:\s+([\d.]+)", report)[1])
        return cls(requests, rate, *(_latency(percentile, report) for percentile in ("50", "99", "99.9")))

    @property
    def seconds(self) -> float:
        return self.requests / self.rate


def _found(pattern: str, report: str) -> re.Match[str]:
    match = re.search(pattern, report, re.MULTILINE)
    if match is None:
        raise BenchError(f"wrk did not report {pattern!r}:\n{report}")
    return match


def _latency(percentile: str, report: str) -> float:
    match = _found(rf"^\s*{re.escape(percentile)}%\s+([\d.]+)(us|ms|s|m|h)$", report)
    return float(match[1]) * _SECONDS[match[2]]


def wrk(url: str, *, seconds: int, connections: int, body: int, headers: tuple[str, ...], threads: int = 1) -> Load:
    """Runs `wrk`: GET, or POST of so many bytes."""
    command = ["wrk", "--latency", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "-s", str(_SCRIPT)]
    command += [argument for header in headers for argument in ("-H", header)]
    done = subprocess.run([*command, url, *([str(body)] if body else [])], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"wrk: {done.stderr.strip()}")
    return Load.parse(done.stdout)
