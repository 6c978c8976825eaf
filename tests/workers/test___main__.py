"""What a worker does before it does anything."""

import subprocess
import sys

import pytest

# In place of the worker: tells what the process is like by the time in which the rest of it would be loaded.
INSTEAD = """
import ctypes, resource, runpy, signal, sys, types

def run(control):
    print(control, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
    print([signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)])
    return 3

sys.modules["proxy.workers.child"] = types.SimpleNamespace(run=run)
sys.argv = ["proxy.workers", "7"]
runpy.run_module("proxy.workers", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")
def test_before_it_is_loaded() -> None:
    """Nobody of the same user can look into a worker, and no signal ends it, before there is anything in it (R149)."""
    done = subprocess.run([sys.executable, "-c", INSTEAD], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["7 0 (0, 0)", "[True, True, True]"], done.stderr
    assert done.returncode == 3
