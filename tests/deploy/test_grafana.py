"""The dashboard: read by Grafana's own SDK, and each of its queries answered by a real Prometheus."""

import json
import math
import re
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from proxy.demo.idp import DemoProvider
from tests.behaviour.prometheus import Prometheus, scraping
from tests.behaviour.running import Launcher, until
from tests.behaviour.test_metrics import launch_for_traffic, make_busy
from tests.deploy.page import ROOT, broken_links
from tests.peers import Upstream
from tests.test_metrics import CONTRACT

HERE = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((HERE / "thg-proxy.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {f"{panel['title']}/{target['refId']}": target for panel in PANELS for target in panel["targets"]}

# Metrics that the dashboard does not show, and why.
NOT_SHOWN = {
    "thg_proxy_token_generation": "the life that is left goes up with each new token",
    "thg_proxy_token_issued_timestamp_seconds": "as above",
}
# Keys that Grafana writes and its SDK does not read.
UNKNOWN_TO_THE_SDK = {"/annotations/list/0/builtIn"}


def lost(before: object, after: object, path: str = "") -> Iterator[str]:
    """Where the values of `before` are not in `after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after.get(key), f"{path}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, value in enumerate(before):
            yield from lost(value, after[index], f"{path}/{index}")
    elif before != after:
        yield path


def test_sdk() -> None:
    """Grafana's SDK knows every key of the dashboard, and reads its value: nothing is misspelt or in a wrong place."""
    register_default_plugins()
    read = Dashboard.from_json(json.loads(json.dumps(DASHBOARD)))
    written = json.loads(JSONEncoder(sort_keys=True).encode(read))

    assert set(lost(DASHBOARD, written)) == UNKNOWN_TO_THE_SDK


def test_panels() -> None:
    """Panels have numbers of their own, a title and an explanation, and lie side by side on the grid."""
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]

    assert len(set(numbers)) == len(numbers)
    assert len(set(titles)) == len(titles)
    assert [panel["title"] for panel in PANELS if not panel["description"]] == []
    assert [place for place in places if place["x"] + place["w"] > 24] == []
    assert [pair for pair in combinations(places, 2) if overlap(*pair)] == []


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size] for at, size in (("x", "w"), ("y", "h"))
    )


def test_variables() -> None:
    """Everything comes from the Prometheus that was chosen, and from the instances that were chosen."""
    instance = next(variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "instance")
    sources = [one["datasource"] for one in (instance, *PANELS, *QUERIES.values())]
    selectors = [
        (name, selector) for name, target in QUERIES.items() for selector in re.findall(r"\{.*?\}", target["expr"])
    ]

    assert {json.dumps(source) for source in sources} == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert [name for name, selector in selectors if 'instance=~"$instance"' not in selector] == []
    assert {name for name, _ in selectors} == set(QUERIES)
    assert DASHBOARD["schemaVersion"] == 42


def test_every_metric_is_shown() -> None:
    """What the proxy publishes can be seen, but for what is listed with a reason; nothing else is asked for."""
    asked = {name for target in QUERIES.values() for name in re.findall(r"thg_proxy_\w+", target["expr"])}
    histograms = {name for name in CONTRACT if name.endswith(("_count", "_sum"))}

    assert asked == CONTRACT.keys() - histograms - NOT_SHOWN.keys()


@pytest.mark.timeout(300)
def test_queries(launch: Launcher, upstream: Upstream, provider: DemoProvider, tmp_path: Path) -> None:
    """Each query of the dashboard returns data, of a proxy with traffic, errors, a new token and a reload."""
    proxy = launch_for_traffic(launch, upstream, provider)
    instance = f"127.0.0.1:{proxy.admin_port}"
    with scraping(tmp_path, proxy.admin_port) as server:
        server.query("up == 1")
        make_busy(proxy)

        def is_answered(target: dict[str, Any], chosen: str) -> bool:
            """A rate needs traffic between two scrapes."""
            with proxy.connect() as client:
                client.get(b"/broken")
            return has_data(server, target, chosen)

        for chosen in (".+", re.escape(instance).replace("\\", "\\\\")):
            for name, target in QUERIES.items():
                until(lambda target=target, chosen=chosen: is_answered(target, chosen), name)  # type: ignore[misc]
        (variable,) = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "instance"]
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
        series = server.ask("series", **{"match[]": metric})

    assert [one[label] for one in series] == [instance]


def has_data(server: Prometheus, target: dict[str, Any], chosen: str) -> bool:
    """As Grafana asks: a panel of one number for now, a graph for a range."""
    query = target["expr"].replace("$instance", chosen).replace("$__rate_interval", "1m")
    assert "$" not in query
    if target.get("instant"):
        answer = server.ask("query", query=query)
        values = [one["value"][1] for one in answer["result"]]
    else:
        now = time.time()
        answer = server.ask("query_range", query=query, start=str(now - 60), end=str(now), step="1")
        values = [value for one in answer["result"] for _, value in one["values"]]
    return any(not math.isnan(float(value)) for value in values)


def test_provisioning() -> None:
    """The files that Grafana reads at its start: one Prometheus, and the directory that the dashboard goes to."""
    (source,) = yaml.safe_load((HERE / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((HERE / "provisioning/dashboards/thg-proxy.yaml").read_text())["providers"]

    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "$PROMETHEUS_URL", True)
    assert provider == {"name": "thg-proxy", "type": "file", "options": {"path": "/etc/dashboards"}}
    assert provider["options"]["path"] in (HERE / "README.md").read_text()


def test_page() -> None:
    """No link of the page leads nowhere."""
    assert broken_links(HERE / "README.md") == []
