"""Images built and run by podman, in a storage of their own: no daemon, no registry, no systemd, no cgroups.

What is real: the Dockerfile, process 1, the uid, the read-only root, capabilities, seccomp, signals, exit codes and the
namespaces of the network that containers share. What is not: limits of memory and CPU, networks between containers, and
health checks by themselves (a test asks for each).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.real_parts import absent, real_part

ROOT = Path(__file__).parents[2]
(BASE,) = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
# The release of Debian that the base stands on and whose python3 is of the same version.
SUITE = "trixie"

# crun refuses a machine that has cgroups of both versions, and raising limits can be forbidden.
NAMESPACE = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
DOCKER = f"""#!/bin/sh
# podman with the manners of docker.
verb=$1
shift
if [ "$verb" = run ]; then
    case " $* " in *" --network "*) ;; *) set -- --network none "$@" ;; esac
    set -- --cgroups disabled --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --log-driver k8s-file \\
        --read-only-tmpfs=false "$@"
fi
exec unshare --mount --propagation private sh -c '{NAMESPACE}' _ \\
    podman --runtime crun --cgroup-manager cgroupfs --events-backend file "$verb" "$@"
"""


class Engine:
    """Everything of it is below `directory`."""

    def __init__(self, directory: Path) -> None:
        if os.geteuid() != 0:
            absent("building and running images without a daemon needs root")
        for program in ("podman", "crun"):
            real_part(program, program)
        self._directory = directory
        (directory / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{directory}/images"\nrunroot = "{directory}/run"\n'
        )
        docker = directory / "bin" / "docker"
        docker.parent.mkdir()
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("THG_", "PIP_"))},
            "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
            "BUILDAH_ISOLATION": "chroot",
            "BUILDAH_LAYERS": "false",
            # A docker of this machine keeps its images elsewhere.
            "DOCKER_HOST": "unix:///nonexistent",
        }
        if not (info := self._run("podman", "info")).ok:
            absent(f"podman can't work here: {info.said}")

    def build(self) -> None:
        """`make image`, on the base that this machine can have."""
        if not self._run("podman", "pull", "--quiet", BASE).ok:
            self._make_base()
        self._run(sys.executable, str(ROOT / "deploy/docker/build.py")).expect()

    def _make_base(self) -> None:
        """A stand-in where no registry can be reached: the same Debian, with its own Python of the same version."""
        tree = str(self._directory / "base.tar")
        link_python = '--customize-hook=ln -s /usr/bin/python3 "$1/usr/local/bin/python"'
        # The index can be behind an authority that only this machine knows.
        trust = "--customize-hook=copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs"
        what = ["--variant=essential", "--include=ca-certificates,python3,python3-venv", link_python, trust]
        self._run(real_part("mmdebstrap", "mmdebstrap"), "--quiet", *what, SUITE, tree).expect()
        settings = ["--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin", "--change", "ENV LANG=C.UTF-8"]
        self._run("podman", "import", "--quiet", *settings, tree, BASE).expect()

    def docker(self, *arguments: str) -> str:
        """What a command that succeeds prints on stdout."""
        return self.shell(shlex.join(["docker", *arguments])).expect()

    def shell(self, command: str, directory: Path = ROOT) -> "Done":
        """A command as a page has it."""
        path = f"{self._directory / 'bin'}:{self._environment['PATH']}"
        return self._finished(["sh", "-c", command], self._environment | {"PATH": path}, directory)

    def _run(self, *command: str) -> "Done":
        namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-c", NAMESPACE, "_"]
        return self._finished([*namespace, *command], self._environment, self._directory)

    def _finished(self, command: list[str], environment: dict[str, str], directory: Path) -> "Done":
        done = subprocess.run(
            command, env=environment, cwd=directory, capture_output=True, text=True, timeout=600, check=False
        )
        return Done(shlex.join(command), done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        self.docker("rm", "--all", "--force", "--time", "0")
        shutil.rmtree(self._directory)


@dataclass(frozen=True)
class Done:
    command: str
    code: int
    output: str
    errors: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def said(self) -> str:
        return self.output + self.errors

    def expect(self) -> str:
        """What it printed on stdout, if it succeeded."""
        assert self.ok, f"{self.command}\n{self.said}"
        return self.output
