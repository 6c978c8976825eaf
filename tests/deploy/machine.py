"""A machine in namespaces, whose first process is the systemd of this one: it starts units as a real machine does."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.behaviour.running import until
from tests.real_parts import absent, real_part

_BOOT = Path(__file__).with_name("boot.sh")
_OWN = ("--mount", "--pid", "--uts", "--ipc", "--cgroup")


@dataclass
class Machine:
    """A running one. `init`: the process id of its systemd, as it is seen from here."""

    init: int

    def run(self, command: str, *, read: str = "", directory: Path = Path("/")) -> str:
        """What the command prints, which must succeed; `read` is its standard input."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.init), *_OWN, f"--wdns={directory}", "bash", "-c", command],
            env={name: value for name, value in os.environ.items() if not name.startswith(("THG_", "PYTHON"))},
            input=read,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    @property
    def is_up(self) -> bool:
        """Has it started what it starts by itself?"""
        try:
            return self.run("systemctl is-system-running") == "running\n"
        except AssertionError:
            return False

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run(f"systemctl show --value --property={name} {unit}").strip()


@contextmanager
def booted(directory: Path) -> Iterator[Machine]:
    """A machine that keeps its files in `directory`, until it is turned off."""
    real_part("systemctl", "systemd")
    if os.geteuid() != 0 or subprocess.run(["unshare", *_OWN, "true"], check=False, capture_output=True).returncode:
        absent("only root can make namespaces, and not everywhere")
    group = _control_groups() / f"thg-proxy-test-{os.getpid()}"
    group.mkdir()
    # It ends with this process, however that ends.
    unshare = f"setpriv --pdeathsig=KILL unshare --fork --kill-child --mount-proc {' '.join(_OWN)}"
    command = f"echo $$ > {group}/cgroup.procs && exec {unshare} bash {_BOOT} {directory}"
    with subprocess.Popen(["bash", "-c", command], stderr=subprocess.PIPE) as process:
        try:
            machine = Machine(until(lambda: _child(process)))
            until(lambda: _child(process) and machine.is_up, "running")
            yield machine
        finally:
            process.kill()
    until(lambda: _is_removed(group))


def _control_groups() -> Path:
    """Where the second version of control groups is mounted."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    where = next((where for _, where, kind, *_ in mounts if kind == "cgroup2"), None)
    return Path(where or absent("systemd needs control groups, version 2"))


def _child(process: "subprocess.Popen[bytes]") -> int:
    """The child that the process has, 0 until then."""
    if process.poll() is not None:
        assert process.stderr is not None
        absent(f"systemd does not run here: {process.stderr.read().decode()}")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else 0


def _is_removed(group: Path) -> bool:
    """A group can be removed when it, and those below it, have no process any more."""
    try:
        for below in sorted(group.rglob("*/"), reverse=True):
            below.rmdir()
        group.rmdir()
    except OSError:
        return False
    return True
