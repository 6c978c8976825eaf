"""The Compose stacks: read by Docker Compose, and what their containers run is run without containers."""

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.settings import Duration
from tests.behaviour.running import Proxy, until
from tests.deploy.tools import COMPOSE, ROOT, commands, docker_compose, run
from tests.peers import TIMEOUT, free_port
from tests.real_parts import real_part

STACKS = ("compose.yaml", "demo.yaml")
PROXY = "thg-proxy"
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"

Services = dict[str, dict[str, Any]]


def environment(**more: str) -> dict[str, str]:
    """Nothing of this machine's own configuration."""
    return {name: value for name, value in os.environ.items() if not name.startswith("THG_")} | more


def read(stack: str, directory: Path = COMPOSE, **variables: str) -> dict[str, Any]:
    """A stack as Docker Compose understands it."""
    text = docker_compose(f"--file {stack} config --format json", directory, environment(**variables))
    document: dict[str, Any] = json.loads(text)
    return document


@pytest.fixture(params=STACKS)
def services(request: pytest.FixtureRequest) -> Services:
    found: Services = read(request.param, THG_CLIENT_ID="my-client")["services"]
    return found


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return read("compose.yaml", THG_CLIENT_ID="my-client")


def check(stack: dict[str, Any], secret: Path, *arguments: str) -> str:
    """`thg-proxy check` with the environment of the proxy's service, and the secret at another place."""
    variables = stack["services"][PROXY]["environment"]
    assert variables["THG_CLIENT_SECRET_FILE"] == f"/run/secrets/{stack['services'][PROXY]['secrets'][0]['source']}"
    variables = environment(**{**variables, "THG_CLIENT_SECRET_FILE": str(secret)})
    return run([sys.executable, "-m", "proxy", "check", *arguments], ROOT, environment=variables)


def test_configuration(stack: dict[str, Any], tmp_path: Path) -> None:
    """`thg-proxy check` accepts it; the app's port is loopback, and the container is given time to drain."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    shown = check(stack, secret, "--print")
    assert "listen.address: 127.0.0.1:8080 " in shown
    assert "admin.address: 0.0.0.0:9090 " in shown
    needed = sum(Duration.parse(text) for text in re.findall(r"^shutdown\.(?:delay|grace): (\S+)", shown, re.MULTILINE))
    assert needed < Duration.parse(stack["services"][PROXY]["stop_grace_period"])


def test_without_a_client(tmp_path: Path) -> None:
    """Compose says what is missing, and where it goes."""
    shutil.copy(COMPOSE / "compose.yaml", tmp_path)
    with pytest.raises(AssertionError, match=r"THG_CLIENT_ID .* \.env"):
        read("compose.yaml", tmp_path)


def test_the_app_shares_loopback_with_the_proxy(services: Services) -> None:
    """It starts when there is a token, and finds the proxy's loopback again when it is started anew."""
    app = services["app"]
    assert app["network_mode"] == f"service:{PROXY}"
    assert app["depends_on"][PROXY] == {"condition": "service_healthy", "restart": True, "required": True}
    assert "secrets" not in app


def test_hardened(services: Services) -> None:
    """No capability, no new privilege, no port on another address than loopback, no image that changes by itself."""
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        assert re.fullmatch(r"\S+:(dev|v?\d+\.\d+\S*)", service["image"]), name
        assert all(mount["read_only"] for mount in service.get("volumes", []) if mount["type"] == "bind"), name
    assert services[PROXY]["read_only"]
    assert services["app"]["read_only"]


def test_what_is_mounted_exists(services: Services) -> None:
    """Docker would make a directory of what does not."""
    sources = {
        mount["source"]
        for service in services.values()
        for mount in service.get("volumes", [])
        if mount["type"] == "bind"
    }
    assert len(sources) == 5
    assert {source for source in sources if not Path(source).exists()} == set()


def test_the_app(proxy: Proxy) -> None:
    """What it prints is the API's answer, got through the proxy."""
    app = subprocess.Popen(
        [sys.executable, "-u", COMPOSE / "app.py"],
        env=environment(API=f"http://127.0.0.1:{proxy.port}"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert app.stdout is not None
    try:
        assert app.stdout.readline() == "200 ok\n"
    finally:
        app.terminate()
        app.communicate(timeout=TIMEOUT)


def test_prometheus(tmp_path: Path, services: Services, proxy: Proxy) -> None:
    """Prometheus, with the arguments and the configuration of its service, scrapes the proxy."""
    text = (COMPOSE / "prometheus.yaml").read_text()
    assert f'"{PROXY}:9090"' in text
    # Sooner than the first of the intervals would be over.
    text = text.replace("15s", "1s").replace(f"{PROXY}:9090", f"127.0.0.1:{proxy.admin_port}")
    (tmp_path / "prometheus.yaml").write_text(text)
    port = free_port()
    options = [option for option in services["prometheus"]["command"] if "listen-address" not in option]
    options = [
        option.replace("/etc/prometheus", str(tmp_path)).replace("=/prometheus", f"={tmp_path}/data")
        for option in options
    ]
    log = tmp_path / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [real_part("prometheus", "prometheus"), *options, f"--web.listen-address=127.0.0.1:{port}"],
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: up(port), f"scraped: {log}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT)


def up(port: int) -> bool:
    """Has this Prometheus scraped the proxy?"""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/api/v1/query?query=up%7Bjob%3D%22thg-proxy%22%7D")
        answer = json.loads(connection.getresponse().read())
    except (OSError, ValueError):
        return False
    finally:
        connection.close()
    return [sample["value"][1] for sample in answer["data"]["result"]] == ["1"]


def test_prometheus_is_where_grafana_looks(services: Services) -> None:
    """The data source's URL is that of the service, or of loopback where they share it."""
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "$PROMETHEUS_URL"
    url = services["grafana"]["environment"]["PROMETHEUS_URL"]
    shared = services["prometheus"].get("network_mode") == services["grafana"].get("network_mode") == f"service:{PROXY}"
    assert url == ("http://127.0.0.1:9091" if shared else "http://prometheus:9090")
    assert ("--web.listen-address=:9091" in services["prometheus"]["command"]) == shared


def test_the_dashboard_is_where_grafana_looks(services: Services) -> None:
    """The provider's folder is the one that the dashboard is mounted into."""
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "thg-proxy.yaml").read_text())["providers"]
    targets = {Path(mount["target"]) for mount in services["grafana"]["volumes"]}
    assert Path(provider["options"]["path"], "thg-proxy.json") in targets


def test_the_demo_needs_no_more_than_the_stack_gives(tmp_path: Path) -> None:
    """`thg-proxy demo` runs as the service does, and what shares its loopback is answered."""
    service = read("demo.yaml")["services"][PROXY]
    assert service["command"] == ["demo"]
    assert service["tmpfs"] == ["/tmp"]
    output = tmp_path / "demo.out"
    with output.open("wb") as file:
        demo = subprocess.Popen(
            [sys.executable, "-m", "proxy", *service["command"], "--port", "0", "--admin-port", "0"],
            cwd=ROOT,
            env=environment(TMPDIR=str(tmp_path)),
            stdout=file,
            stderr=subprocess.DEVNULL,
        )
    try:
        (url,) = until(lambda: re.findall(r"try it +curl (http://127\.0\.0\.1:\d+)/", output.read_text()))
        app = subprocess.Popen(
            [sys.executable, "-u", COMPOSE / "app.py"], env=environment(API=url), stdout=subprocess.PIPE, text=True
        )
        assert app.stdout is not None
        assert app.stdout.readline().startswith("200 ")
        app.terminate()
        app.communicate(timeout=TIMEOUT)
    finally:
        demo.terminate()
        assert demo.wait(TIMEOUT) == 0


def test_commands_of_the_page(tmp_path: Path) -> None:
    """Every command of the page is run, but for what needs an engine: of these, Compose reads the stack."""
    directory = tmp_path / "compose"
    shutil.copytree(COMPOSE, directory, ignore=shutil.ignore_patterns("secrets", ".env"))
    (tmp_path / ".thg-secret").write_text("s3cret\n")
    stacks = []
    for line in commands(COMPOSE / "README.md"):
        words = shlex.split(line)
        if words[:2] == ["docker", "compose"]:
            stack = words[3] if words[2] == "--file" else "compose.yaml"
            assert set(words[2:]) - {"--file", stack} <= {"up", "--detach", "logs", "app", "down"}
            stacks.append(read(stack, directory))
        elif words[0] in ("make", "cd"):
            assert line in ("make image", "cd deploy/compose")
        else:
            run(["sh", "-c", line], directory, environment=environment(HOME=str(tmp_path)))
    assert [stack["name"] for stack in stacks] == ["thg-proxy-demo"] * 3 + ["thg-proxy"] * 3
    assert stacks[-1]["services"][PROXY]["environment"]["THG_CLIENT_ID"] == "my-client"
    secret = Path(stacks[-1]["secrets"]["client-secret"]["file"])
    assert [stat.S_IMODE(path.stat().st_mode) for path in (secret.parent, secret)] == [0o700, 0o644]
    assert "OK: " in check(stacks[-1], secret)
