"""The image, built as `make image` does and run as its page says."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from proxy import __version__
from proxy.demo import faults
from proxy.demo.idp import DemoProvider
from tests.behaviour.canaries import leaks
from tests.behaviour.running import until
from tests.deploy.image_engine import BASE, ROOT, Engine
from tests.peers import TIMEOUT, Client, Upstream, free_ports

# Whichever test comes first waits for the image.
pytestmark = pytest.mark.timeout(900)

TAG = "thg-proxy:dev"
PAGE = ROOT / "deploy/docker/README.md"
# As the page says it, and without a shell.
STRICT = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--volume", "/dev/null:/bin/sh:ro")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("engine"))
    try:
        engine.build()
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def sbom(engine: Engine) -> str:
    return engine.docker("run", "--rm", "--entrypoint", "cat", TAG, "/opt/thg-proxy/sbom.cdx.json")


def inside(engine: Engine, script: str) -> Any:
    """What Python prints as JSON in a container of the image."""
    return json.loads(engine.docker("run", "--rm", "--entrypoint", "python", TAG, "-c", script))


@dataclass
class Container:
    """A proxy in the network namespace of this machine."""

    engine: Engine
    name: str
    port: int
    admin_port: int

    def ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.admin_port, timeout=TIMEOUT)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            assert self.inspect()["State"]["Running"], self.log
            return False
        finally:
            connection.close()

    @property
    def log(self) -> str:
        return self.engine.shell(f"docker logs {self.name}").said

    def inspect(self) -> dict[str, Any]:
        (found,) = json.loads(self.engine.docker("inspect", self.name))
        return dict(found)

    def health(self) -> int:
        """The exit code of the image's own check."""
        return self.engine.shell(f"docker healthcheck run {self.name}").code

    def processes(self) -> set[str]:
        """The number of each process in it, ended ones too, but for the one that looks."""
        script = "import os; print(*(path for path in os.listdir('/proc') if path.isdigit()), os.getpid())"
        *running, own = self.engine.docker("exec", self.name, "python", "-c", script).split()
        return {*running} - {own}


@pytest.fixture
def settings(provider: DemoProvider, upstream: Upstream) -> dict[str, str]:
    """The environment of a container on ports that are free."""
    (client,) = provider.clients.values()
    port, admin_port = free_ports(2)
    return {
        "THG_PROXY__LISTEN__ADDRESS": f"127.0.0.1:{port}",
        "THG_PROXY__ADMIN__ADDRESS": f"127.0.0.1:{admin_port}",
        "THG_PROXY__UPSTREAM__URL": upstream.url,
        "THG_PROXY__OAUTH__TOKEN_URL": provider.token_url,
        "THG_CLIENT_ID": client.client_id,
        "THG_CLIENT_SECRET_FILE": "/run/secrets/client-secret",
    }


@pytest.fixture
def secrets(engine: Engine, tmp_path: Path, provider: DemoProvider) -> Path:
    """A directory with the secret in it, for the uid of the image only."""
    (client,) = provider.clients.values()
    directory = tmp_path / "secrets"
    directory.mkdir()
    write_secret(directory, client.client_secret)
    return directory


def write_secret(directory: Path, secret: str) -> None:
    """In another file that takes the place of the old one."""
    written = directory / "new"
    written.write_text(secret)
    written.chmod(0o400)
    os.chown(written, 65532, 65532)
    written.rename(directory / "client-secret")


@pytest.fixture
def start(engine: Engine, settings: dict[str, str], secrets: Path) -> Iterator[Callable[[], Container]]:
    """Starts a proxy; does not wait for it."""
    variables = [part for item in settings.items() for part in ("--env", "=".join(item))]
    mounts = ("--volume", f"{secrets}:/run/secrets:ro")
    ports = (int(settings[f"THG_PROXY__{part}__ADDRESS"].rpartition(":")[2]) for part in ("LISTEN", "ADMIN"))
    container = Container(engine, "proxy", *ports)

    def start() -> Container:
        engine.docker("run", "--detach", "--name", "proxy", "--network", "host", *STRICT, *variables, *mounts, TAG)
        return container

    yield start
    engine.docker("rm", "--force", "--time", "0", "--ignore", "proxy")


def test_dockerfile_has_no_findings() -> None:
    """hadolint knows the usual mistakes."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_make_image_takes_what_works(tmp_path: Path, name: str) -> None:
    """`make image` builds with the program that is there, or works: a docker without its daemon is passed over."""
    for program in ("docker", name):
        works = "" if program == name else "exit 1"
        (tmp_path / program).write_text(f'#!/bin/sh\n{works}\necho "$(basename "$0")" "$@"\n')
        (tmp_path / program).chmod(0o755)
    for program in ("sh", "basename"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    command = [str(shutil.which("make")), "--silent", "image", f"PYTHON={sys.executable}"]
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)

    words = done.stdout.split()
    assert words[:2] == [name, "build"]
    assert words[-3:] == ["--tag", TAG, str(ROOT)]
    assert f"VERSION={__version__}" in words


def test_make_image_says_what_is_missing(tmp_path: Path) -> None:
    """Without any of them there is one sentence."""
    script = ROOT / "deploy/docker/build.py"
    done = subprocess.run(
        [sys.executable, script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr == "none of these works here: docker, podman, buildah\n"


def test_image_says_how_to_run_it(engine: Engine) -> None:
    """What an engine reads: a numeric user, the command, the signal, the check, and who made it."""
    (found,) = json.loads(engine.docker("image", "inspect", TAG))
    config = found["Config"]
    environment = dict(item.split("=", 1) for item in config["Env"])

    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["thg-proxy"]
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] == "SIGTERM"
    assert found["Healthcheck"]["Test"] == ["CMD", "thg-proxy", "wait", "--timeout", "5s"]
    assert config["Labels"]["org.opencontainers.image.title"] == "thg-proxy"
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert not [name for name in environment if name.startswith(("PIP_", "THG_", "SSL_"))]
    assert environment["PATH"].startswith("/opt/thg-proxy/bin:")


def test_image_holds_what_runs(engine: Engine) -> None:
    """No installer, no tests, nothing that the user of the container may change; bytecode for every module."""
    found = inside(
        engine,
        "import json, os, sys, importlib.util as u\n"
        "files = [os.path.join(top, name) for top, _, names in os.walk('/opt/thg-proxy') for name in names]\n"
        "code = [name for name in files if name.endswith('.py')]\n"
        "print(json.dumps({\n"
        "  'python': '.'.join(map(str, sys.version_info[:2])),\n"
        "  'files': files,\n"
        "  'writable': [name for name in files if os.access(name, os.W_OK)],\n"
        "  'uncompiled': [name for name in code if not os.path.exists(u.cache_from_source(name))],\n"
        "  'source': os.path.exists('/src'),\n"
        "}))",
    )
    packages = {name.split("/site-packages/")[1].split("/")[0] for name in found["files"] if "site-packages" in name}

    assert f"python:{found['python']}-slim" in BASE
    assert {"proxy", "aiohttp", "redis"} <= packages
    assert not packages & {"pip", "setuptools", "wheel", "hatchling", "cyclonedx_py", "opentelemetry", "_pytest"}
    assert not [name for name in found["files"] if re.search(r"/tests?/", name)]
    assert not found["writable"]
    assert not found["uncompiled"]
    assert not found["source"]


def test_bytecode_is_used(engine: Engine) -> None:
    """Whatever the copy from stage to stage did to the times of files: nothing is compiled at the start."""
    script = "import proxy.run"
    said = engine.shell(f'docker run --rm --entrypoint python {TAG} -v -c "{script}"').errors

    assert "/proxy/__pycache__/" in said
    assert not re.findall(r"# code object from '/opt/thg-proxy/.*\.py'", said)


def test_sbom_lists_what_is_installed(engine: Engine, sbom: str) -> None:
    """R167: the SBOM is valid CycloneDX, and has each package of the image in its locked version."""
    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom)
    listed = {(part["name"], part["version"]) for part in json.loads(sbom)["components"]}
    installed = inside(
        engine,
        "import importlib.metadata as m, json\n"
        "print(json.dumps([(d.name, d.version) for d in m.distributions(path=[p for p in __import__('sys').path"
        " if p.startswith('/opt')])]))",
    )
    locked = set(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))

    assert errors is None
    assert listed == {tuple(item) for item in installed}
    ours = {(name.lower().replace("_", "-"), version) for name, version in listed}
    assert ours - locked == {("thg-proxy", __version__)}


def test_licences(sbom: str) -> None:
    """The list of licences is what the packages declare."""
    done = subprocess.run(
        [sys.executable, ROOT / "deploy/dependencies/licences.py"],
        input=sbom,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == (ROOT / "deploy/dependencies/licences.md").read_text()


def test_runs_as_process_1(start: Callable[[], Container], upstream: Upstream, provider: DemoProvider) -> None:
    """Not root, on a read-only root without capabilities, a shell or a writable place: it serves, and ends with 0."""
    container = start()
    until(container.ready, "ready")
    with Client(container.port) as client:
        answer = client.get(b"/v1/vehicles")

    assert answer.status == 200
    assert upstream.requests[0].values(b"Authorization") == [b"Bearer " + provider.tokens[-1].encode()]
    assert container.health() == 0
    assert container.inspect()["State"]["Health"]["Status"] == "healthy"
    assert container.processes() == {"1"}
    assert not container.engine.shell(f"docker exec {container.name} sh -c true").ok

    container.engine.docker("stop", container.name)
    assert container.inspect()["State"]["ExitCode"] == 0
    assert '"event":"stopped"' in container.log
    assert "Traceback" not in container.log
    assert not leaks(container.log, provider)


def test_unhealthy_without_a_token(start: Callable[[], Container], provider: DemoProvider) -> None:
    """The check tells that requests can't be sent; the container goes on."""
    json_type = {"Content-Type": "application/json"}
    provider.faults.token = faults.answer(401, b'{"error":"invalid_client"}', json_type)
    container = start()
    until(lambda: '"event":"token_unavailable"' in container.log, "refused")

    assert container.health() == 1
    assert container.inspect()["State"]["Running"]


def test_secret_is_replaced(start: Callable[[], Container], secrets: Path) -> None:
    """R100: another file in the place of the old one is seen through the mount of its directory."""
    container = start()
    until(container.ready, "ready")
    write_secret(secrets, "another")

    until(lambda: '"event":"secret_refused"' in container.log, "the new secret tried")
    assert container.ready()


# What the page says to build it with is what made the image of these tests.
BUILD = ("make image", "python3 deploy/docker/build.py")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def commands() -> list[str]:
    """Every command of the page, continued lines joined."""
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", "").splitlines()]
    return [line for line in lines if not line.startswith(BUILD)]


def test_page(
    engine: Engine, settings: dict[str, str], provider: DemoProvider, upstream: Upstream, tmp_path: Path
) -> None:
    """Each command of the page, in its order, with a provider and an API of this machine."""
    (client,) = provider.clients.values()
    (environment,) = blocks("ini")
    assert {line.partition("=")[0] for line in environment.splitlines()} <= settings.keys()
    (tmp_path / "thg-proxy.env").write_text("\n".join(map("=".join, settings.items())))
    (tmp_path / "my-secret.txt").write_text(client.client_secret)
    engine.docker("run", "--detach", "--name", "my-app", "--network", "host", BASE, "sleep", "600")
    said = {}
    for command in commands():
        if "Health.Status" in command:
            engine.docker("healthcheck", "run", "thg-proxy")
        said[command] = engine.shell(command.replace("sudo ", ""), tmp_path).expect()

    (app,) = (text for command, text in said.items() if "urlopen" in command)
    assert json.loads(app)["vehicles"]
    assert "OK" in next(text for command, text in said.items() if command.endswith("check"))
    assert "succeeded" in next(text for command, text in said.items() if "doctor" in command)
    assert "healthy\n" in said.values()
    assert [request.target for request in upstream.requests] == [b"/v1/vehicles"]
    assert not leaks("".join(said.values()), provider)


def test_any_user(engine: Engine, settings: dict[str, str], secrets: Path) -> None:
    """With `--user` it runs as who owns the secret; who doesn't is told."""
    mounts = f"--volume {secrets}:/run/secrets:ro"
    variables = " ".join(f"--env {name}={value}" for name, value in settings.items())
    check = f"docker run --rm --read-only --user %d {variables} {mounts} {TAG} check"
    os.chown(secrets / "client-secret", 1234, 1234)

    assert engine.shell(check % 1234).ok
    refused = engine.shell(check % 65532)
    assert refused.code == 2
    assert "/run/secrets/client-secret can't be read: Permission denied" in refused.errors
