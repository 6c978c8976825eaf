"""Programs that are not Python packages: the real other side of a test, where this machine has it."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def real_part(program: str, package: str) -> str:
    """The path of `program`; without it the test ends as `absent` says.

    `package`: what to install, in Debian's words.
    """
    return shutil.which(program) or absent(f"{program} is not installed (Debian: {package})")


def absent(reason: str) -> NoReturn:
    """The test is skipped, or fails where THG_REQUIRE_REAL_PARTS=1 asks for everything that a test can use."""
    if os.environ.get("THG_REQUIRE_REAL_PARTS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def npm_ci(sources: Path, directory: Path) -> Path:
    """A copy of `sources` in `directory`, with the packages of its lock file."""
    npm = real_part("npm", "npm")
    copy = directory / sources.name
    shutil.copytree(sources, copy)
    command = [npm, "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=100, check=False)
    if result.returncode:
        absent(f"npm ci: {result.stderr[:500]}")
    return copy
