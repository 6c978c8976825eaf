"""`python -m proxy.workers FD`: the process of a worker. Its parent starts it."""

import signal
import sys

# Ctrl-C, and a service manager, signal all processes of a service. It is the parent that decides what a signal means.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, signal.SIG_IGN)

from proxy.hardening import harden  # noqa: E402 - signals come at any moment

harden()

from proxy.workers.child import run  # noqa: E402 - what is loaded now is loaded by a process that nobody looks into

sys.exit(run(int(sys.argv[1])))
