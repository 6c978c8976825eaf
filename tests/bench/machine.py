"""What a run was made on and with: figures without it mean nothing later."""

import importlib.metadata
import os
import platform
import re
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .peers import Peer, program
from .processes import ROOT

_PACKAGES = ("aiohttp", "aiofastnet", "httptools", "uvloop")
_LOADS = (("wrk", "-v", r"\d+\.\d+\.\d+\S*"), ("curl", "--version", r"(?<=^curl )\S+"))
_SIGNS = {"PGO": ("--enable-optimizations", "-fprofile-use"), "LTO": ("--with-lto", "-flto")}


def facts(peers: Sequence[Peer]) -> dict[str, str]:
    """In the order in which they are shown."""
    built = optimisation(sysconfig.get_config_vars())
    return {
        "machine": f"{os.cpu_count()} x {_cpu()}, {platform.system()} {platform.release()} {platform.machine()}",
        "thg-proxy": _commit(),
        "load average": f"{os.getloadavg()[0]:.1f} before the run",
        "python": f"{os.path.realpath(sys.executable)}, {' '.join(sys.version.split())}, {built}",
        "python's OpenSSL": ssl.OPENSSL_VERSION,
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES),
        "load": ", ".join(_loads()),
    } | {peer.name: version(peer.program, *peer.version) for peer in peers if peer.version}


def optimisation(variables: Mapping[str, Any]) -> str:
    """What sysconfig says of how the interpreter was compiled; without PGO and LTO it is about a fifth slower."""
    said = " ".join(str(variables.get(name, "")) for name in ("CONFIG_ARGS", "PY_CORE_CFLAGS", "PY_CORE_LDFLAGS"))
    found = [name for name, signs in _SIGNS.items() if any(sign in said for sign in signs)]
    return f"built with {' and '.join(found)}" if found else "no sign of PGO or LTO in its sysconfig"


def version(program: str, argument: str, form: str) -> str:
    """All that matches `form` in what the program prints, each once."""
    done = subprocess.run([program, argument], capture_output=True, text=True, check=False)
    return ", ".join(dict.fromkeys(re.findall(form, done.stdout + done.stderr, re.MULTILINE)))


def _loads() -> Iterator[str]:
    for name, argument, form in _LOADS:
        if path := program(name):
            yield f"{name} {version(path, argument, form)}"


def _cpu() -> str:
    """proc_cpuinfo(5); not all architectures have a name there."""
    match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else "unknown CPU"


def _commit() -> str:
    if not (git := program("git")):
        return "unknown commit"
    command = [git, "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
