"""What gets in from elsewhere: locked with hashes, without known faults, and good from the lowest version allowed."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from deploy.dependencies.licences import licences
from deploy.dependencies.lock import LOCKS, ROOT, lock
from proxy import __version__
from tests.behaviour.running import call, until
from tests.peers import TIMEOUT, free_ports

RUN_TIME = [Requirement(text) for text in LOCKS["requirements.txt"]]

# The first versions without what became known of the older ones (R167).
FLOORS = {
    "aiohttp": "3.14.4",  # CVE-2026-111749, PYSEC-2026-4392, and the request smuggling of CVE-2026-69243
    "authlib": "1.6.11",  # CVE-2026-27962, CVE-2026-28490, CVE-2026-28498
    "joserfc": "1.7.3",  # CVE-2026-27932, and types of claims that were not checked
}
# Licences that ask for no more than to be named.
PERMISSIVE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT-0", "PSF-2.0", "Python-2.0"}


def locked() -> dict[str, Version]:
    """Version of each package in the image's lock file, by its normal name."""
    lines = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    return {str(canonicalize_name(name)): Version(version) for name, version in lines}


@pytest.mark.parametrize("name", LOCKS)
def test_lock_is_up_to_date(tmp_path: Path, name: str) -> None:
    """R167: `make lock` would change nothing: what pyproject.toml asks for is locked, and with all that it needs."""
    copy = tmp_path / "requirements.txt"
    shutil.copy(ROOT / name, copy)
    lock(LOCKS[name], copy)

    assert copy.read_text() == (ROOT / name).read_text()


def test_lock_keeps_the_bounds() -> None:
    """R167: each direct dependency is locked in a version that pyproject.toml allows, and that has no known fault."""
    versions = locked()

    for requirement in RUN_TIME:
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier
    assert all(versions[name] >= Version(floor) for name, floor in FLOORS.items())


def test_bounds_exclude_known_faults() -> None:
    """R167: whoever installs the project from an index can't get a version with a fault that is known."""
    lowest = {
        str(canonicalize_name(requirement.name)): Version(part.version)
        for requirement in RUN_TIME
        for part in requirement.specifier
        if part.operator == ">="
    }

    assert lowest.keys() == {canonicalize_name(requirement.name) for requirement in RUN_TIME}
    assert all(lowest[name] >= Version(floor) for name, floor in FLOORS.items())


def test_wheels_for_the_other_processor(tmp_path: Path) -> None:
    """R167: for aarch64 and the Python of the image, pip finds a wheel of each package, and its hash is locked."""
    (version,) = re.findall(r"^ARG BASE=\S+python:([\d.]+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    platforms = [f"--platform=manylinux{tag}_aarch64" for tag in ("2014", "_2_17", "_2_28")]
    wheels = ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}", *platforms]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--require-hashes"]
    file = ["--target", str(tmp_path), "--requirement", str(ROOT / "requirements.txt")]
    done = subprocess.run([*command, *wheels, *file], capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 0, done.stderr


def test_page(tmp_path: Path) -> None:
    """What the page says to install with is run; its other commands are those of the tests here and of the image's."""
    text = (ROOT / "deploy/dependencies/README.md").read_text()
    commands = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    installing = [line for line in commands if line.startswith("pip ")]
    rest = {line.split(" ", 2)[0] + " " + line.split(" ", 2)[1] for line in commands if line not in installing}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=60)
    path = {"PATH": f"{tmp_path / 'venv/bin'}:{os.environ['PATH']}"}
    for line in installing:
        subprocess.run(line, shell=True, cwd=ROOT, env=os.environ | path, check=True, timeout=110)
    said = subprocess.run([tmp_path / "venv/bin/thg-proxy", "--version"], capture_output=True, text=True, check=True)

    assert len(installing) == 2
    assert __version__ in said.stdout
    assert rest == {"make lock", "make audit", "docker run", "python3 deploy/dependencies/licences.py"}


def test_no_known_vulnerability() -> None:
    """R167: nothing is known against what is locked; skipped where the database can't be asked."""
    pip_audit = Path(sys.executable).with_name("pip-audit")
    command = [
        str(pip_audit),
        "--format=json",
        "--progress-spinner=off",
        "--disable-pip",
        "--requirement=requirements.txt",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    if not done.stdout.startswith("{"):
        pytest.skip(f"pip-audit gives no answer: {done.stderr.strip()[-200:]}")
    packages = json.loads(done.stdout)["dependencies"]
    if not (audited := [package for package in packages if "vulns" in package]):
        pytest.skip("the index has no data of vulnerabilities")

    assert {package["name"]: package["vulns"] for package in audited if package["vulns"]} == {}


def test_licences_are_permissive() -> None:
    """Nothing in the image asks its user for more than to name it."""
    table = (ROOT / "deploy/dependencies/licences.md").read_text()
    rows = re.findall(r"^\| ([\w.-]+) \| (.*) \|$", table, re.MULTILINE)[1:]

    assert {name for name, _ in rows} <= locked().keys()
    assert {text for _, licence in rows for text in re.split(r", | AND | OR ", licence)} <= PERMISSIVE


def test_licence_that_is_not_known() -> None:
    """A package that declares no licence, or one in words of its own, is shown as it is."""
    parts = [
        {"name": "silent"},
        {"name": "Own_Words", "licenses": [{"license": {"name": "Ask me"}}]},
        {"name": "both", "licenses": [{"expression": "MIT OR GPL-3.0-only"}]},
        {"name": "thg-proxy"},
    ]

    assert licences({"components": parts}) == {
        "both": "MIT OR GPL-3.0-only",
        "own-words": "Ask me",
        "silent": "unknown",
    }


@contextmanager
def demo(python: Path, directory: Path) -> Iterator[tuple[int, int]]:
    """The demo, run by the packages of `python`; gives the ports of proxy and admin."""
    port, admin_port = free_ports(2)
    command = [str(python), "-m", "proxy", "demo", "--port", str(port), "--admin-port", str(admin_port)]
    log = directory / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    try:
        until(lambda: process.poll() is not None or answers(admin_port), "answers")
        assert process.poll() is None, log.read_text()
        yield port, admin_port
    finally:
        process.terminate()
        assert process.wait(TIMEOUT) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT).close()
    except OSError:
        return False
    return True


def test_lowest_versions(tmp_path: Path) -> None:
    """R167: with the lowest version of each direct dependency it starts, verifies a token, serves and refreshes."""
    python = tmp_path / "venv/bin/python"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True, timeout=60)
    install = [*uv, "pip", "install", "--quiet", "--resolution=lowest-direct", "--only-binary=:all:"]
    subprocess.run([*install, "--python", python, *LOCKS["requirements.txt"]], check=True, timeout=110)
    with demo(python, tmp_path) as (port, admin_port):
        until(lambda: call(admin_port, "/readyz")[0] == 200, "ready")
        before = json.loads(call(admin_port, "/status")[1])["token"]["generation"]
        status, body = call(port, "/v1/vehicles")

        assert status == 200
        assert json.loads(body)["vehicles"]
        until(lambda: call(admin_port, "/refresh", "POST")[0] < 300, "refreshed")
        token = json.loads(call(admin_port, "/status")[1])["token"]
        assert token["generation"] > before
        assert call(port, "/v1/vehicles")[0] == 200
