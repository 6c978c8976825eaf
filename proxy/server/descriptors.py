"""File descriptors: how many there are, and who may have how many."""

import os
import sys
from contextlib import suppress
from math import inf

# For what must go on when clients take all the others: the token, files, the process itself.
RESERVE = 32
# Connections to the admin port: probes, scrapes and a few people.
ADMIN = 64
# Nobody needs more, and some systems allow a billion, for which the kernel and the loop would make tables.
_MOST = 1 << 16


def raise_limit() -> None:
    """To what the system allows, as far as it is needed: many start a process with 1024, as select(2) knows no more."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS allows less than it says.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def for_admin() -> float:
    """How many connections the admin port may have."""
    return min(ADMIN, limit() / 8)


def for_clients(max_upstream: int) -> float:
    """How many clients there may be: each leaves a descriptor for its upstream connection, of which `max_upstream`."""
    spare = limit() - RESERVE - for_admin()
    return max(1, spare - min(max_upstream, spare / 2))


def limit() -> float:
    """Asked each time: it can be changed from outside (prlimit(1))."""
    if sys.platform == "win32":
        return inf
    import resource  # noqa: PLC0415 - not on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return inf if soft == resource.RLIM_INFINITY else soft


def in_use() -> tuple[int, int] | None:
    """How many are open, and how many may be; None where the system does not tell."""
    most = limit()
    try:
        # Without one that is left to look with, there is no telling either.
        return None if most == inf else (len(os.listdir("/proc/self/fd")), int(most))  # noqa: PTH208 - only their number
    except OSError:
        return None
