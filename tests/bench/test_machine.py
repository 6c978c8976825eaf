"""What a run says of the machine."""

import sys

import pytest

from .machine import optimisation, version


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CONFIG_ARGS": "'--enable-optimizations' '--with-lto'"}, "built with PGO and LTO"),
        ({"CONFIG_ARGS": "", "PY_CORE_CFLAGS": "-O3 -fprofile-use -flto"}, "built with PGO and LTO"),
        ({"CONFIG_ARGS": "'--enable-optimizations'"}, "built with PGO"),
        # It is in the variables of every build.
        ({"CONFIG_ARGS": "'--enable-shared'", "PGO_PROF_USE_FLAG": "-fprofile-use"}, "no sign of PGO or LTO"),
        ({}, "no sign of PGO or LTO"),
    ],
)
def test_optimised_builds_are_recognised(variables: dict[str, str], said: str) -> None:
    """By how the interpreter was configured or compiled, as sysconfig has it."""
    assert optimisation(variables).startswith(said)


def test_versions_are_found_in_what_a_program_prints() -> None:
    """Each one once, in the order in which they come."""
    printing = "-cprint('peer 1.2 built with OpenSSL 3.0.1, running with OpenSSL 3.0.1')"

    assert version(sys.executable, printing, r"(?<=^peer )\S+|OpenSSL [\d.]+") == "1.2, OpenSSL 3.0.1"
