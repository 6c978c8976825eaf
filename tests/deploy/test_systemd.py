"""The systemd unit, installed by the commands of its page and run by a real systemd."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from proxy.demo import faults
from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Backstage, until
from tests.deploy.machine import Machine, booted
from tests.deploy.page import ROOT, broken_links, commands
from tests.peers import TIMEOUT, Client, Upstream, free_ports
from tests.real_parts import real_part

HERE = ROOT / "deploy" / "systemd"
PAGE, UNIT = HERE / "README.md", HERE / "thg-proxy.service"
SECRET = "canary-4b81e2d7"
# What has a secret at its standard input: a person's, on the page.
TYPES_SECRET = "sudo sh -c 'umask 077; cat > /etc/thg-proxy/client-secret'"

pytestmark = pytest.mark.timeout(300)


@dataclass
class Service:
    """The installed service, and what it talks to."""

    machine: Machine
    provider: DemoProvider
    upstream: Upstream
    port: int
    admin_port: int

    def do(self, command: str) -> str:
        """A command of the page, as root, with the ports of this service."""
        if command == TYPES_SECRET:
            return self.machine.run(command.removeprefix("sudo "), read=f"{SECRET}\n")
        command = command.removeprefix("sudo ").replace(":8080/", f":{self.port}/")
        command = command.replace(":9090/", f":{self.admin_port}/")
        command = command.replace("proxy wait", f"proxy wait --admin http://127.0.0.1:{self.admin_port}")
        return self.machine.run(command, directory=ROOT)

    def configure(self) -> None:
        """What the page leaves to the reader: their own client and URLs. And ports that nobody else has."""
        (client,) = self.provider.clients.values()
        file = "/etc/thg-proxy/config.yaml"
        text = self.machine.run(f"cat {file}")
        for shown, real in {
            "https://thg.nxtlabs.online\n": f"{self.upstream.url}\n",
            "https://hydra.nxtlabs.online/oauth2/token": self.provider.token_url,
            "my-client": client.client_id,
        }.items():
            assert shown in text
            text = text.replace(shown, real)
        text += f"listen: {{address: '127.0.0.1:{self.port}'}}\nadmin: {{address: '127.0.0.1:{self.admin_port}'}}\n"
        self.machine.run(f"cat > {file}", read=text)

    def show(self, name: str) -> str:
        return self.machine.show("thg-proxy", name)

    def restart(self) -> None:
        self.machine.run("systemctl reset-failed thg-proxy; systemctl restart thg-proxy")
        until(lambda: self.is_ready)

    @property
    def is_ready(self) -> bool:
        try:
            return self.ask("/readyz")[0] == 200
        except OSError:
            return False

    def ask(self, path: str) -> tuple[int, str]:
        """The admin port."""
        connection = HTTPConnection("127.0.0.1", self.admin_port, timeout=TIMEOUT)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", self.ask("/metrics")[1], re.MULTILINE)
        return float(value)

    def events(self) -> list[str]:
        """Of the proxy's own log lines in the journal."""
        lines = self.machine.run("journalctl -u thg-proxy -o cat").splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith("{")]


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory, backstage: Backstage
) -> Iterator[tuple[Service, dict[str, str]]]:
    """The service, and what each command of the page has printed on the way to it."""
    provider = DemoProvider(RegisteredClient(client_secret=SECRET))
    backstage.run(provider.start())
    with booted(tmp_path_factory.mktemp("machine")) as machine, Upstream() as upstream:
        service = Service(machine, provider, upstream, *free_ports(2))
        printed: dict[str, str] = {}
        for command in commands(PAGE):
            if "--unix-socket" in command:  # another configuration: test_unix_socket
                continue
            if "proxy check" in command:
                service.configure()
            if "/refresh" in command:
                until(lambda: service.metric("thg_proxy_token_usable") == 1)
            printed[command] = service.do(command)
        yield service, printed
    backstage.run(provider.stop())


@pytest.fixture
def service(installed: tuple[Service, dict[str, str]]) -> Iterator[Service]:
    """Up and well; put right afterwards."""
    service, _ = installed
    service.restart()
    yield service
    service.provider.faults.token = None
    service.machine.run("rm -rf /etc/systemd/system/thg-proxy.service.d && systemctl daemon-reload")


def drop_in(service: Service, *lines: str) -> None:
    """As `systemctl edit` makes it."""
    directory = "/etc/systemd/system/thg-proxy.service.d"
    text = "\n".join(("[Service]", *lines, ""))
    service.machine.run(f"mkdir -p {directory}; cat > {directory}/override.conf; systemctl daemon-reload", read=text)


def test_page(installed: tuple[Service, dict[str, str]]) -> None:
    """Who follows the page, command by command, has a service that serves, and sees what the page says."""
    service, printed = installed
    (get,) = [answer for line, answer in printed.items() if line == "curl http://127.0.0.1:8080/v1/vehicles"]
    (check,) = [answer for line, answer in printed.items() if " check " in line]
    (doctor,) = [answer for line, answer in printed.items() if " doctor " in line]

    assert get == "ok"
    assert "OK" in check
    assert "failed" not in doctor
    assert "active (running)" in printed["systemctl status thg-proxy"]
    assert '"event":"listening"' in printed["journalctl -u thg-proxy -o cat"]
    assert service.machine.show("thg-proxy", "UnitFileState") == "enabled"
    assert SECRET not in "".join(printed.values())
    assert broken_links(PAGE) == []


def test_exposure(installed: tuple[Service, dict[str, str]]) -> None:
    """The page tells the exposure that systemd finds."""
    (printed,) = [answer for line, answer in installed[1].items() if "analyze security" in line]
    (found,) = re.findall(r"Overall exposure level for thg-proxy.service: ([\d.]+) OK", printed)

    assert f"gives an exposure of {found}," in PAGE.read_text()


def test_verify(installed: tuple[Service, dict[str, str]]) -> None:
    """systemd has nothing to say about the installed unit."""
    service, _ = installed

    assert service.machine.run("systemd-analyze verify thg-proxy.service 2>&1") == ""


def test_verify_without_a_machine(tmp_path: Path) -> None:
    """The unit as it is shipped is one that systemd can read; it names each directive right."""
    real_part("systemd-analyze", "systemd")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/thg-proxy/bin/thg-proxy", "/bin/true"))
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_sandbox(service: Service) -> None:
    """The process that serves has no privileges, an own user, and a secret that only this user can read."""
    pid = service.show("MainPID")
    status = dict(line.split(":\t", 1) for line in service.machine.run(f"cat /proc/{pid}/status").splitlines())
    secret = service.machine.run("stat --format='%a %U' /run/credentials/thg-proxy.service/client-secret")
    state = service.machine.run("stat --format='%a %U' /var/lib/private/thg-proxy")

    assert status["Uid"].split()[0] not in {"0", "65534"}
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0000000000000000"}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert secret == "400 thg-proxy\n"
    assert state == "700 thg-proxy\n"


def test_serves_in_the_sandbox(service: Service) -> None:
    """Nothing that the sandbox forbids is missed: requests, metrics of the process, the dashboard, a new token."""
    with Client(service.port) as client:
        assert [client.get(b"/a").status for _ in range(3)] == [200] * 3
    assert service.metric("process_open_fds") > 0
    assert service.metric("process_resident_memory_bytes") > 0
    assert service.metric("process_start_time_seconds") > time.time() - 3600
    assert service.ask("/")[0] == 200
    assert "unexpected_error" not in service.events()


def test_status(service: Service) -> None:
    """`systemctl status` says in words how the token is."""
    until(lambda: service.show("StatusText") == "There is a usable token.")


def test_start_without_a_provider(service: Service) -> None:
    """The service has started, though there is no token, and says why there is none."""
    service.machine.run("rm /var/lib/private/thg-proxy/token")
    service.provider.faults.token = faults.answer(503)
    service.machine.run("systemctl restart thg-proxy")

    assert service.show("ActiveState") == "active"
    until(
        lambda: service.show("StatusText") == "No token has been obtained yet. The last token request failed: http_5xx."
    )


def test_restart_keeps_the_token(service: Service) -> None:
    """The token outlives the process and its user: nobody asks the provider again."""
    asked = len(service.provider.received)
    service.restart()

    assert service.metric("thg_proxy_token_usable") == 1
    assert len(service.provider.received) == asked


def test_reload(service: Service) -> None:
    """`systemctl reload` is a reload, and the service goes on."""
    pid = service.show("MainPID")
    service.machine.run("systemctl reload thg-proxy")
    until(lambda: service.metric('thg_proxy_config_reloads_total{result="ok"}') == 1)

    until(lambda: service.show("ActiveState") == "active")
    assert service.show("MainPID") == pid


def test_stop(service: Service) -> None:
    """A stop is a clean end."""
    service.machine.run("systemctl stop thg-proxy")

    assert service.show("ActiveState") == "inactive"
    assert service.show("Result") == "success"
    assert service.events()[-1] == "stopped"


def test_stop_takes_as_long_as_it_takes(service: Service) -> None:
    """A drain that lasts longer than systemd's own patience is not cut: the process says how long it can take."""
    drop_in(service, "TimeoutStopSec=1", "Environment=THG_PROXY__SHUTDOWN__DELAY=3s")
    service.restart()
    service.machine.run("systemctl stop thg-proxy")

    assert service.show("Result") == "success"
    assert service.events()[-1] == "stopped"


def test_stuck_process_is_restarted(service: Service) -> None:
    """Who does not say for WatchdogSec that the loop runs is ended and started again."""
    drop_in(service, "WatchdogSec=2")
    service.restart()
    pid = service.show("MainPID")
    service.machine.run(f"kill -STOP {pid}")
    until(lambda: service.show("MainPID") not in {pid, "0"} and service.is_ready)

    assert service.show("NRestarts") == "1"


def test_killed_process_is_restarted(service: Service) -> None:
    """Whatever ends the process, it comes back."""
    pid = service.show("MainPID")
    service.machine.run(f"kill -KILL {pid}")
    until(lambda: service.show("MainPID") not in {pid, "0"} and service.is_ready)


def test_wrong_configuration_is_not_repeated(service: Service) -> None:
    """A start that can't succeed is not tried again, and the journal has the reason."""
    drop_in(service, "Environment=THG_PROXY__UPSTREAM__URL=nonsense")
    with pytest.raises(AssertionError):
        service.machine.run("systemctl restart thg-proxy")

    assert (service.show("ActiveState"), service.show("ExecMainStatus")) == ("failed", "2")
    assert "upstream.url: " in service.machine.run("journalctl -u thg-proxy -o cat -n 5")


def test_unix_socket(service: Service) -> None:
    """Another user of the machine reaches the socket, and is served if its uid is on the list: the page's example."""
    (example,) = re.findall(r"```yaml\n(listen:.*?)```", PAGE.read_text(), re.DOTALL)
    (command,) = [line for line in commands(PAGE) if "--unix-socket" in line]
    config = service.machine.run("cat /etc/thg-proxy/config.yaml")
    try:
        service.machine.run("cat > /etc/thg-proxy/config.yaml", read=re.sub("(?m)^listen: .*\n", example, config))
        service.restart()
        answers = {
            uid: service.machine.run(
                f"setpriv --reuid={uid} --clear-groups {command} -sS -o /dev/null -w '%{{http_code}}'"
            )
            for uid in (1000, 1001)
        }
    finally:
        service.machine.run("cat > /etc/thg-proxy/config.yaml", read=config)

    assert answers == {1000: "200", 1001: "403"}
