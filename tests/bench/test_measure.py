import os
import sys
from dataclasses import replace

import pytest

from .measure import BenchError, Load, Stat, process_tree, usage

REPORT = """\
Running 5s test @ http://127.0.0.1:8080
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.10ms    1.60ms  31.93ms   95.02%
    Req/Sec    37.30k     5.42k   44.11k    74.00%
  Latency Distribution
     50%  810.00us
     75%    1.01ms
     90%    1.52ms
     99%    8.89ms
  185521 requests in 5.01s, 60.33MB read
Requests/sec:  37034.16
Transfer/sec:     12.04MB
   99.9%  21930.00us
"""
STAT = (
    "4242 ((python) 3: x) S 17 4242 4242 0 -1 4194304 9000 0 12 0 150 50 7 3 20 0 4 0 30000 310000000 12500 "
    "18446744073709551615 1 1 0 0 0 0 0 16781312 17642 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)


def test_wrk_report_is_read() -> None:
    """Requests, rate and latencies come from wrk's report, the latencies in seconds whatever unit wrk chose."""
    load = Load.parse(REPORT)

    assert (load.requests, load.rate) == (185521, 37034.16)
    assert (load.p50, load.p99, load.p999) == pytest.approx((0.00081, 0.00889, 0.02193))
    assert load.seconds == pytest.approx(5.01, rel=0.001)


@pytest.mark.parametrize(
    "line",
    ["  Socket errors: connect 0, read 3, write 0, timeout 0", "  Non-2xx or 3xx responses: 12"],
)
def test_failed_requests_fail_the_run(line: str) -> None:
    """A run with a failed request gives no figures, but says what failed."""
    with pytest.raises(BenchError, match=line.strip()):
        Load.parse(REPORT.replace("Requests/sec", f"{line}\nRequests/sec"))


def test_no_answers_fail_the_run() -> None:
    """A peer that answers nothing has no cost per request."""
    with pytest.raises(BenchError, match="no request was answered"):
        Load.parse(REPORT.replace("185521 requests", "0 requests"))


def test_unknown_report_fails_the_run() -> None:
    """Where wrk reports something else, the whole report is shown."""
    with pytest.raises(BenchError, match="unable to connect"):
        Load.parse("unable to connect to 127.0.0.1:1")


def test_process_status_is_read() -> None:
    """CPU is utime + stime and memory is rss, even if the name of the process holds blanks and brackets."""
    assert Stat.parse(STAT) == Stat(pid=4242, parent=17, cpu=200, rss=12500)


def test_tree_is_the_process_and_its_descendants() -> None:
    """Children and their children count, siblings and parents do not."""
    one = Stat.parse(STAT)
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1}
    processes = {pid: replace(one, pid=pid, parent=parent) for pid, parent in parents.items()}

    assert [stat.pid for stat in process_tree(10, processes)] == [10, 11, 12]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_this_process_uses_something() -> None:
    """A living process has used CPU and holds memory."""
    used = usage(os.getpid())

    assert used.cpu > 0
    assert used.rss > 1 << 20
