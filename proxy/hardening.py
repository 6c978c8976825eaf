"""What the process asks of the kernel: that its memory, in which the secret and the token are, stays its own."""

import ctypes
import os
import sys

if sys.platform != "win32":
    import resource

_PR_SET_DUMPABLE = 4


def harden() -> None:
    """No core dump, and no look at its memory or environment for another process of the same user (R149)."""
    _hold_standard_descriptors()
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # A core dump that is piped to a program has no limit; a process that is not dumpable has no dump (core(5)).
        # Its files in /proc belong to root then (proc(5)): environ and mem are closed to others of the same user.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _hold_standard_descriptors() -> None:
    """Where stdin, stdout or stderr is closed, a socket would get its number: who prints there would write into a
    connection, and libuv aborts when it closes one of these.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
