"""What other processes of the same user learn about this one."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.behaviour.running import Launcher
from tests.peers import Upstream

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="it is prctl(2) and /proc that it is about")

# Prints what another process of the same user, who is not root, can open, before and after; and some of the metrics.
PEER = """
import os, subprocess, sys
from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector
from proxy.hardening import harden
from proxy.metrics import samples

def open_to_others():
    if os.fork() == 0:
        for name in ("environ", "mem", "maps", "stat"):
            try:
                open(f"/proc/{os.getppid()}/{name}", "rb").close()
            except PermissionError:
                continue
            print(name, end=" ", flush=True)
        os._exit(0)
    os.wait()
    print(flush=True)

if os.geteuid() == 0:
    os.setuid(65534)
    import ctypes
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # a change of the user has closed it already
open_to_others()
harden()
open_to_others()
known = samples(ProcessCollector(registry=CollectorRegistry()))
print(*sorted(name for name, value in known.items() if value > 0))
"""


@linux_only
def test_memory_and_environment_are_closed() -> None:
    """Another process of the same user reads neither the memory nor the environment, in which the secret may be; the
    process itself still reads its own figures (R147, R149).
    """
    done = subprocess.run([sys.executable, "-c", PEER], capture_output=True, text=True, check=True)
    before, after, metrics = done.stdout.splitlines()

    assert before.split() == ["environ", "mem", "maps", "stat"]
    assert after.split() == ["stat"]
    assert {"process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes"} <= set(metrics.split())


@linux_only
def test_no_core_dump(launch: Launcher, upstream: Upstream, tmp_path: Path) -> None:
    """A crash leaves no image of the memory behind, whatever limit the process was started with (R149)."""
    launch.working_directory = tmp_path / "place"
    launch.working_directory.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        proxy = launch(upstream)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    proxy.expected_exit = -signal.SIGABRT
    proxy.process.send_signal(signal.SIGABRT)
    ended = os.waitid(os.P_PID, proxy.process.pid, os.WEXITED | os.WNOWAIT)

    assert ended is not None
    assert ended.si_code == os.CLD_KILLED  # CLD_DUMPED where there is a dump
    assert list(launch.working_directory.iterdir()) == []
