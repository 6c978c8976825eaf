"""What perf and strace report."""

import pytest

from .profile import calls_by_name, shares_by_object

PERF = """
    44.12%  libpython3.11.so.1.0\x20\x20
    31.00%  [kernel.kallsyms]
     4.50%  parser.cpython-311-x86_64-linux-gnu.so

"""
STRACE = """\
syscall              calls
---------------- ---------
sendto                2010
epoll_pwait             60
---------------- ---------
total                 2070
"""


def test_shares_are_read() -> None:
    """A share of the samples for each shared object."""
    assert shares_by_object(PERF) == pytest.approx(
        {"libpython3.11.so.1.0": 0.4412, "[kernel.kallsyms]": 0.31, "parser.cpython-311-x86_64-linux-gnu.so": 0.045}
    )


def test_calls_are_read() -> None:
    """A count for each system call, and their sum."""
    assert calls_by_name(STRACE) == {"sendto": 2010, "epoll_pwait": 60, "total": 2070}
