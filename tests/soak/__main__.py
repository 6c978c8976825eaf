"""`python -m tests.soak`: mixed traffic under everything that happens in operation, and what it costs the proxy."""

import argparse
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.report import is_sound, report, table
from tests.soak.soak import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, metavar="N", help="how long it takes; 600")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes of the proxy; 1")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        print("skipped: this needs Linux (/proc)")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the proxy ends, too
    print(f"{arguments.seconds:.0f} s, {arguments.workers} workers, {os.cpu_count()} cores", flush=True)
    print(f"{platform.platform()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        outcome = soak(Path(directory), arguments.seconds, arguments.workers)
    lines = report(outcome)
    print(table(lines))
    for bug in outcome.bugs[:10]:
        print(bug)
    return 0 if is_sound(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
