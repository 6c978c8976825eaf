"""The Helm chart: with its defaults it is the overlay `shared-gateway`, and each value does what it says."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy import __version__
from tests.deploy.manifests import Pod, Resource, Resources, one, parsed, pod_spec, proxy_of, workloads
from tests.deploy.tools import KUBERNETES, Tools

CHART = KUBERNETES / "chart"
INSTANCE = "app.kubernetes.io/instance"
VERSIONS = [f"1.{minor}" for minor in range(29, 38)]

Template = Callable[..., Resources]


@pytest.fixture(scope="session")
def template(tools: Tools) -> Template:
    def template(*values: str, release: str = "thg-proxy") -> Resources:
        arguments = " ".join(f"--set '{value}'" for value in values)
        return parsed(tools.shell(f"helm template {release} deploy/kubernetes/chart --namespace thg {arguments}"))

    return template


def without(value: Any, key: str) -> Any:
    """The same data without a key, wherever it is."""
    if isinstance(value, dict):
        return {name: without(child, key) for name, child in value.items() if name != key}
    return [without(child, key) for child in value] if isinstance(value, list) else value


def by_name(resources: Resources) -> dict[tuple[str, str], Resource]:
    """Without the ConfigMap, whose content is compared by itself."""
    return {(item["kind"], item["metadata"]["name"]): item for item in resources if item["kind"] != "ConfigMap"}


def comparable(resources: Resources) -> dict[tuple[str, str], Resource]:
    """Without what is told apart in other ways: releases by a label, contents of the ConfigMap by a sum or its name."""
    resources = without(without(copy.deepcopy(resources), INSTANCE), "annotations")
    for workload in workloads(resources):
        for volume in pod_spec(workload).get("volumes", []):
            volume.pop("configMap", None)
        for container in pod_spec(workload)["containers"]:
            container.get("volumeMounts", []).sort(key=lambda mount: mount["name"])
            container.get("ports", []).sort(key=lambda port: port["name"])
        pod_spec(workload).get("volumes", []).sort(key=lambda volume: volume["name"])
    return by_name(resources)


def config_of(resources: Resources) -> Any:
    return yaml.safe_load(one(resources, "ConfigMap")["data"]["config.yaml"])


@pytest.mark.parametrize(
    ("overlay", "values"), [("shared-gateway", ()), ("shared-gateway-mtls", ("tls.secret=thg-proxy-tls",))]
)
def test_same_as_the_overlay(
    template: Template, rendered: dict[str, Resources], overlay: str, values: tuple[str, ...]
) -> None:
    """Resource by resource, and in its configuration, but for the names that only a release knows."""
    chart = template(*values)
    assert comparable(chart) == comparable(rendered[overlay])
    ours, theirs = config_of(chart), config_of(rendered[overlay])
    names = ours["policy"].pop("allowed_hosts")
    services = ["thg-proxy.thg", "thg-proxy.thg.svc", "thg-proxy.thg.svc.cluster.local"]
    assert sorted(names) == sorted([*theirs["policy"].pop("allowed_hosts"), *services])
    assert ours == theirs


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("redis.enabled=false", "networkPolicy.enabled=false"),
        ("tls.secret=certificate", "podMonitor=true", "replicas.max=3"),
    ],
)
def test_schemas(template: Template, values: tuple[str, ...]) -> None:
    """Whatever is chosen, every resource is what Kubernetes accepts; the PodMonitor is a CRD's."""
    resources = [item for item in template(*values, release="another") if item["kind"] != "PodMonitor"]
    for version in VERSIONS:
        for resource in resources:
            assert kubernetes_validate.validate(resource, version, strict=True) == version


def test_configuration(template: Template, mounts: Path, secrets: dict[str, str]) -> None:
    """`thg-proxy check` accepts what the values make, and what is set reaches the proxy."""
    pod = Pod(mounts, template("config.upstream.response_timeout=7s", "config.policy.allowed_hosts={gate}"), secrets)
    assert pod.check().returncode == 0
    assert pod.effective("upstream.response_timeout") == "7s"
    assert pod.effective("policy.allowed_hosts") == "[gate]"


def test_a_wrong_value_is_refused(tools: Tools) -> None:
    """An unknown key is an error."""
    with pytest.raises(AssertionError, match="rediss"):
        tools.shell("helm template thg-proxy deploy/kubernetes/chart --set rediss.enabled=false")


def test_two_releases_in_one_namespace(template: Template) -> None:
    """They have nothing in common: neither names nor the pods that their selectors find."""
    first, second = template(release="testing"), template(release="production")
    assert not by_name(first).keys() & by_name(second).keys()
    for resources in (first, second):
        for resource in resources:
            for selector in selectors(resource):
                assert selector.get(INSTANCE) in ("testing", "production") or "thg-proxy-client" in selector


def selectors(value: Any) -> list[dict[str, str]]:
    """Every selector of pods in a resource."""
    if isinstance(value, list):
        return [found for child in value for found in selectors(child)]
    if not isinstance(value, dict):
        return []
    own = [
        labels
        for key, child in value.items()
        if key in ("selector", "podSelector") and isinstance(child, dict)
        for labels in [child.get("matchLabels", child)]
    ]
    return own + [found for child in value.values() for found in selectors(child)]


def test_a_new_configuration_rolls_out(template: Template) -> None:
    """The pods are replaced when it changes, and only then."""

    def annotations(*values: str) -> Any:
        workload, _ = proxy_of(template(*values))
        return workload["spec"]["template"]["metadata"]["annotations"]

    assert annotations() == annotations("replicas.max=5")
    assert annotations() != annotations("config.log.access=all")


def test_without_redis(template: Template) -> None:
    """Nothing of it is left."""
    resources = template("redis.enabled=false")
    assert "redis" not in re.sub(r"#.*", "", yaml.safe_dump_all(resources))


def test_pod_monitor(template: Template) -> None:
    """The same endpoint as in the component, for the pods of this release."""
    (endpoint,) = one(template("podMonitor=true"), "PodMonitor")["spec"]["podMetricsEndpoints"]
    component = yaml.safe_load((KUBERNETES / "components" / "monitoring" / "podmonitor.yaml").read_text())
    assert [endpoint] == component["spec"]["podMetricsEndpoints"]


def test_version() -> None:
    """The chart is of the version that the package has."""

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
