"""The README is true: each of its commands is run, in a copy of the project that nothing was installed for."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy import __version__
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Backstage, clean_environment, until
from tests.cli.terminals import Terminal
from tests.deploy.page import ROOT, commands
from tests.peers import TIMEOUT, Upstream, free_port

README = ROOT / "README.md"
TOKEN_URL = "https://hydra.nxtlabs.online/oauth2/token"

# Commands that are run elsewhere, or can't be run by a test, and why.
ELSEWHERE = {
    "make test": "is this suite",
    "make lint": "is a step of CI",
    "make coverage": "is this suite, counted",
    "make soak": "takes ten minutes; tests/soak/test_soak.py runs ten seconds of it",
    "make bench": "takes minutes, and needs nginx, wrk and Envoy",
    "make image": "needs a container engine and a registry",
    "docker run": "is what tests/deploy/test_image.py runs for its page",
    "cd deploy/compose": "is where tests/deploy/test_compose.py has its page's commands run",
    "docker compose": "the same",
    "kubectl": "is what tests/deploy/test_overlays.py runs for its page, as far as that goes without a cluster",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files in an empty directory, as a clone has them."""
    clone = tmp_path_factory.mktemp("clone") / "thg-proxy"
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", ".coverage*")
    shutil.copytree(ROOT, clone, ignore=ignored)
    return clone


@contextmanager
def running(command: str, directory: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A shell command in the background, as Ctrl-C would end it; gives the file that it prints to."""
    output = directory / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=directory,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield output
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(TIMEOUT)


def shell(command: str, directory: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, shell=True, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_command_is_known() -> None:
    """A command that is added to the README is added here."""
    known = {*ELSEWHERE, "make demo", "curl", "pipx install", "export", "thg-proxy"}
    unknown = [line for line in commands(README) if not line.startswith(tuple(known))]

    assert unknown == []
    assert commands(README)


@pytest.mark.timeout(300)
def test_demo(clone: Path) -> None:
    """`make demo` on a fresh clone, then the curl lines of the README and those that it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THG_")}
    environment |= {"PYTHON": sys.executable, "MAKEFLAGS": ""}
    shell("make .venv/run", clone, environment)
    with running("make demo", clone, environment) as output:
        until(lambda: "stop it" in output.read_text())
        lines = [line for line in commands(README) if line.startswith("curl")]
        lines += re.findall(r"curl .*", output.read_text())
        answers = {line: shell(line.replace("curl ", "curl -sS ", 1), clone, environment) for line in lines}

    assert len(lines) > 5
    assert "vehicles" in answers["curl http://127.0.0.1:8080/v1/vehicles"]
    assert any("/echo" in line for line in lines)
    assert "Traceback" not in output.read_text()


@pytest.mark.timeout(300)
def test_environment(clone: Path, backstage: Backstage, provider: DemoProvider, upstream: Upstream) -> None:
    """On the path of what `make demo` installed, configured by the environment, checked, run, waited for and asked."""
    (client,) = provider.clients.values()
    secret = clone / ".thg-secret"
    secret.write_text(client.client_secret + "\n")
    secret.chmod(0o600)
    port, admin_port = free_port(), free_port()
    environment = clean_environment(provider) | {
        "HOME": str(clone),
        "PYTHON": sys.executable,
        "MAKEFLAGS": "",
        "PYTHONPATH": "",
        "THG_PROXY__LISTEN__ADDRESS": f"127.0.0.1:{port}",
        "THG_PROXY__ADMIN__ADDRESS": f"127.0.0.1:{admin_port}",
        "THG_PROXY__UPSTREAM__URL": upstream.url,
    }
    del environment["THG_CLIENT_ID"], environment["THG_CLIENT_SECRET"]
    lines = [line for line in commands(README) if line.startswith(("export", "thg-proxy"))]
    exports = "\n".join(line for line in lines if line.startswith("export"))
    exports = exports.replace(TOKEN_URL, provider.token_url).replace("my-client", client.client_id)

    shell("make .venv/run", clone, environment)
    assert str(clone) in shell(f"{exports}\ncommand -v thg-proxy", clone, environment)
    assert "OK" in shell(f"{exports}\nthg-proxy check", clone, environment)
    printed = shell(f"{exports}\nthg-proxy check --print", clone, environment)
    assert upstream.url in printed
    assert client.client_secret not in printed
    with running(f"{exports}\nexec thg-proxy run", clone, environment):
        shell(f"{exports}\nthg-proxy wait --timeout 30s", clone, environment)
        assert shell(f"curl -sS http://127.0.0.1:{port}/v1/vehicles", clone, environment) == "ok"
        assert "failed" not in shell(f"{exports}\nthg-proxy doctor", clone, environment)

    assert {line for line in lines if line.startswith("thg-proxy")} == {
        "thg-proxy check",
        "thg-proxy check --print",
        "thg-proxy doctor",
        "thg-proxy init",
        "thg-proxy run",
        "thg-proxy wait --timeout 30s",
    }
    assert upstream.requests[0].head.startswith(b"GET /v1/vehicles ")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("install", ["pipx install '.[keyring]'", "uv tool install '.[keyring]'"])
def test_laptop(install: str, clone: Path, tmp_path: Path, provider: DemoProvider, upstream: Upstream) -> None:
    """Installed for the user, configured by questions, run, waited for and asked."""
    assert install in README.read_text()
    (client,) = provider.clients.values()
    port, admin_port = free_port(), free_port()
    environment = clean_environment(provider) | {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/.local/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": "",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        "THG_PROXY__LISTEN__ADDRESS": f"127.0.0.1:{port}",
        "THG_PROXY__ADMIN__ADDRESS": f"127.0.0.1:{admin_port}",
    }
    del environment["THG_CLIENT_ID"], environment["THG_CLIENT_SECRET"], environment["XDG_CONFIG_HOME"]

    shell(install, clone, environment)
    assert str(tmp_path) in shell("command -v thg-proxy", clone, environment)
    assert shell("thg-proxy --version", tmp_path, environment) == f"thg-proxy, version {__version__}\n"
    with Terminal(["thg-proxy", "init"], tmp_path, environment) as terminal:
        terminal.answer("URL of the API", upstream.url)
        terminal.answer("URL of the token endpoint", provider.token_url)
        terminal.answer("Client id", client.client_id)
        terminal.answer("Client secret", client.client_secret)
        terminal.answer("Scope", "")
        assert terminal.end() == 0
    assert "Go on with:\r\n  thg-proxy run\r\n" in terminal.shown
    with running("exec thg-proxy run", tmp_path, environment):
        shell("thg-proxy wait --timeout 30s", tmp_path, environment)
        assert shell(f"curl -sS http://127.0.0.1:{port}/v1/vehicles", tmp_path, environment) == "ok"
        assert "<html" in shell(f"curl -sS http://127.0.0.1:{admin_port}/", tmp_path, environment)
