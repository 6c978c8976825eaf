"""The alerts: judged by Prometheus' own tools, and by a real Prometheus that scrapes a real proxy."""

import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.core import remedies
from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo import faults
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.prometheus import Prometheus, prometheus, promtool
from tests.behaviour.running import Launcher, Proxy, clean_environment, until
from tests.deploy.page import ROOT, anchors, broken_links, commands, running, shell
from tests.peers import TIMEOUT, Upstream, free_port, request
from tests.real_parts import real_part
from tests.test_metrics import CONTRACT

HERE = ROOT / "deploy" / "prometheus"
RULES, EXAMPLE, PAGE = HERE / "rules.yaml", HERE / "prometheus.yaml", HERE / "README.md"
OPERATOR = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"
RULES_TEST = Path(__file__).with_name("rules_test.yaml")

# Commands of the page that a test can't run, and why.
ELSEWHERE = {"kubectl": "needs a cluster"}


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def alerts() -> dict[str, dict[str, Any]]:
    """Every rule by its name."""
    return {rule["alert"]: rule for group in load(RULES)["groups"] for rule in group["rules"]}


# The files.


def test_rules() -> None:
    """Prometheus reads the rules, and its linter has nothing to say."""
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts() -> None:
    """Each alert fires when it should, says what it should, and is silent otherwise: idle, restarting, recovered."""
    tested = promtool("test", "rules", RULES_TEST)

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested() -> None:
    """There is a moment in which each alert fires; the scenarios in which none does are for all of them."""
    moments = [moment for scenario in load(RULES_TEST)["tests"] for moment in scenario.get("alert_rule_test", ())]

    assert {moment["alertname"] for moment in moments if moment["exp_alerts"]} == alerts().keys()


def test_operator_rules() -> None:
    """Who uses the operator gets the same alerts."""
    document = load(OPERATOR)

    assert (document["apiVersion"], document["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert document["spec"] == load(RULES)


def test_rules_name_real_things() -> None:
    """Rules ask for metrics that are published, and between them know each result that a token request can have."""
    asked = {name for rule in alerts().values() for name in re.findall(r"\b(?:thg_proxy_\w+|up)\b", rule["expr"])}
    provider, client = (alerts()[f"ThgProxy{name}"]["expr"] for name in ("IdentityProviderFailing", "ClientRejected"))
    (others,) = re.findall(r'result!~"ok\|(.+)"', provider)
    (refusals,) = re.findall(r'result=~"(.+)"', client)

    assert asked <= {*CONTRACT, "up"}
    assert others == refusals
    assert all(re.fullmatch(refusals, result) for result in (*remedies._REMEDIES, "secret_unreadable"))
    assert not any(
        re.fullmatch(refusals, result)
        for result in (
            *("ok", "timeout", "network", "http_5xx", "rate_limited", "invalid_response", "rejected_token"),
            *("server_error", "temporarily_unavailable", "invalid_dpop_proof", "use_dpop_nonce"),
        )
    )


# The page.


@pytest.mark.parametrize("name", alerts())
def test_runbook(name: str) -> None:
    """Whoever is woken finds what it means, what users notice, and a command to begin with."""
    rule = alerts()[name]
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (row,) = re.findall(rf"^\| \[{name}\]\(#{name.lower()}\) \| (\w+) \|.*\| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    minutes = {"at once": None} | {f"{number} min": f"{number}m" for number in (2, 5, 10, 15)}

    assert {*rule["annotations"]} == {"summary", "description", "runbook_url"}
    assert ROOT / path == PAGE
    assert anchor in anchors(PAGE)
    assert "Users: " in section
    assert "```sh\n" in section
    assert (row[0], minutes[row[1]]) == (rule["labels"]["severity"], rule.get("for"))
    assert row[0] in {"critical", "warning"}


def test_page() -> None:
    """The page has no alert that there isn't, and no link that leads nowhere."""
    headings = re.findall(r"^## (ThgProxy\w+)", PAGE.read_text(), re.MULTILINE)

    assert headings == list(alerts())
    assert broken_links(PAGE) == []


def test_every_command_is_known() -> None:
    """A command that is added to the page is added here."""
    known = {*ELSEWHERE, "promtool check config", "prometheus ", "sed -i", "operator=", "df -h"}
    known |= {"curl -sS http://127.0.0.1:9090/", "curl -sS -X POST http://127.0.0.1:9090/refresh"}
    known |= {"thg-proxy check", "thg-proxy doctor"}

    assert [line for line in commands(PAGE) if not line.startswith(tuple(known))] == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The directory of the page, in a copy of the repository's `deploy`."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    return tmp_path / "deploy" / "prometheus"


def test_commands_for_files(copy: Path, provider: DemoProvider) -> None:
    """What the page tells to do with the files does it."""
    environment = clean_environment(provider)
    lines = commands(PAGE)
    (check,) = [line for line in lines if line.startswith("promtool")]
    operator = [line for line in lines if "operator" in line]
    address = next(line for line in lines if "git.example.com" in line)

    real_part("promtool", "prometheus")
    assert "12 rules found" in shell(check, copy, environment)

    before = OPERATOR.read_bytes()
    shell("\n".join(operator), copy, environment)
    assert (copy.parent / OPERATOR.relative_to(ROOT / "deploy")).read_bytes() == before

    shell(address, copy, environment)
    urls = re.findall(r"runbook_url: (\S+)", (copy / "rules.yaml").read_text())
    assert {url.partition("#")[0] for url in urls} == {
        "https://git.example.com/thg-proxy/blob/main/deploy/prometheus/README.md"
    }
    assert promtool("check", "rules", copy / "rules.yaml").returncode == 0


def test_commands_of_the_runbook(proxy: Proxy, copy: Path, environment: dict[str, str]) -> None:
    """The commands that somebody who was woken is told to run work."""
    lines = [line for line in commands(PAGE) if line.startswith(("curl", "thg-proxy", "df"))]
    until(lambda: proxy.token_age > MIN_INTERVAL)  # POST /refresh is one of them
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a", host=b"evil.example"))
        client.response()
    for line in dict.fromkeys(lines):
        assert shell(line.replace(":9090/", f":{proxy.admin_port}/"), copy, environment), line


def test_command_for_prometheus(proxy: Proxy, copy: Path, environment: dict[str, str]) -> None:
    """The example's configuration, with the command of the page: the proxy is scraped, and the alerts are loaded."""
    real_part("prometheus", "prometheus")
    (line,) = [line for line in commands(PAGE) if line.startswith("prometheus ")]
    port = free_port()
    example = copy / "prometheus.yaml"
    example.write_text(example.read_text().replace("127.0.0.1:9090", f"127.0.0.1:{proxy.admin_port}"))
    with running(line.replace(":9091", f":{port}"), copy, environment):
        server = Prometheus(port)
        until(lambda: server.is_up)
        server.query('up{job="thg-proxy"} == 1')
        groups = server.ask("rules")["groups"]

    assert [rule["name"] for group in groups for rule in group["rules"]] == list(alerts())


# A real Prometheus and a real proxy.


@contextmanager
def watched(directory: Path, proxy: Proxy) -> Iterator[Prometheus]:
    """The example's configuration, at the pace of a test."""
    config = load(EXAMPLE)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{proxy.admin_port}"]}]
    with prometheus(directory, config) as server:
        yield server


def test_idle_proxy(proxy: Proxy, tmp_path: Path) -> None:
    """A proxy that has just started and has no traffic is no reason for any alert; all of them can be evaluated."""
    with watched(tmp_path, proxy) as server:
        server.query("count_over_time(up[1m]) > 3")
        (group,) = until(lambda: evaluated(server))
        active = server.ask("alerts")["alerts"]

    assert {rule["name"]: rule["lastError"] for rule in group["rules"] if rule.get("lastError")} == {}
    # The machine of a test can be slow.
    assert [alert for alert in active if alert["labels"]["alertname"] != "ThgProxyEventLoopLag"] == []


def evaluated(server: Prometheus) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = server.ask("rules")["groups"]
    return groups if all(rule["health"] != "unknown" for group in groups for rule in group["rules"]) else []


def awaited(server: Prometheus, name: str, provoke: Callable[[], object]) -> dict[str, str]:
    """Provokes until the condition of the alert is true; returns the labels that it has then."""

    def found() -> Any:
        provoke()
        return server.ask("query", query=alerts()[name]["expr"])["result"]

    (row,) = until(found, name)
    labels: dict[str, str] = row["metric"]
    return labels


def test_sick_provider(launch: Launcher, upstream: Upstream, provider: DemoProvider, tmp_path: Path) -> None:
    """What a provider's refusals and failures do to the proxy is what the alerts look for."""
    provider.faults.token = faults.answer(401, b'{"error": "invalid_client"}')
    proxy = launch(upstream, ready=False)
    where = {"job": "thg-proxy", "instance": f"127.0.0.1:{proxy.admin_port}"}

    def refresh() -> None:
        proxy.admin("/refresh", "POST")

    def ask() -> None:
        with proxy.connect() as client:
            assert client.get().status == 503

    with watched(tmp_path, proxy) as server:
        server.query("up == 1")
        assert awaited(server, "ThgProxyClientRejected", refresh) == where | {"client": "primary"}
        provider.faults.token = faults.answer(503)
        assert awaited(server, "ThgProxyIdentityProviderFailing", refresh).items() >= where.items()
        assert awaited(server, "ThgProxyTokenUnavailable", refresh).items() >= where.items()
        assert awaited(server, "ThgProxyErrorRatioHigh", ask) == where


def test_sick_proxy(launch: Launcher, upstream: Upstream, tmp_path: Path, authority: CertificateAuthority) -> None:
    """A proxy that is full, is given a wrong configuration and is stopped, as the alerts see it."""
    release = threading.Event()
    upstream.answer = lambda _received, _sock: release.wait(TIMEOUT) and False
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.ca_file.read_bytes())
    proxy = launch(upstream, "limits.max_in_flight=1", f"oauth.tls.ca_file={ca_file}")
    instance = f"127.0.0.1:{proxy.admin_port}"

    def reload() -> None:
        proxy.process.send_signal(signal.SIGHUP)

    with watched(tmp_path, proxy) as server, proxy.connect() as client:
        server.query("up == 1")
        client.send(request(b"GET", b"/a"))
        assert awaited(server, "ThgProxyInFlightLimitNear", lambda: None)["instance"] == instance
        ca_file.write_text("no certificate")
        assert awaited(server, "ThgProxyReloadFailed", reload)["instance"] == instance
        release.set()
        assert proxy.stop() == 0
        assert awaited(server, "ThgProxyDown", lambda: None)["instance"] == instance
