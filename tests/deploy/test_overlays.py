"""The overlays as kubectl renders them: valid for each version, hardened, and consistent in themselves."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy.settings import Duration
from tests.deploy.manifests import (
    SECRETS,
    Pod,
    Resource,
    Resources,
    containers,
    one,
    parsed,
    pod_spec,
    ports,
    proxy_of,
    workloads,
)
from tests.deploy.tools import KUBERNETES, OVERLAYS, Tools, commands

# The oldest Kubernetes of each overlay, 1.N: native sidecars came with 29, the field of the disruption budget with 27.
OLDEST = {
    "native-sidecar": 29,
    "job": 29,
    "classic-sidecar": 25,
    "classic-job": 25,
    "shared-gateway": 27,
    "shared-gateway-mtls": 27,
}
NEWEST = 37

# Kubernetes waits that long if a pod says nothing.
DEFAULT_GRACE = 30
# How long it takes the process to end when nothing is in flight any more.
TIME_TO_EXIT = 5

# For a pod to be admitted where the Pod Security Standard `restricted` is enforced.
RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
HARDENED = RESTRICTED | {"runAsUser": 65532, "readOnlyRootFilesystem": True}

# The schemas of the Prometheus operator's resources.
OPERATOR = """
import * as operator from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { readFileSync } from "node:fs";
const resource = JSON.parse(readFileSync(0, "utf8"));
new operator[resource.kind](resource).validate();
"""


def matches(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def is_gateway(overlay: str) -> bool:
    return overlay.startswith("shared-gateway")


def pod_labels(workload: Resource) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.fixture
def pod(mounts: Path, resources: Resources, secrets: dict[str, str]) -> Pod:
    return Pod(mounts, resources, secrets)


def test_each_overlay_has_its_oldest_version() -> None:
    """The page names the versions that are tested here."""
    assert sorted(OLDEST) == OVERLAYS
    page = (KUBERNETES / "README.md").read_text()
    for name, oldest in OLDEST.items():
        assert re.search(rf"^\| `{name}` \|.*\| 1\.{oldest} to 1\.{NEWEST} \|$", page, re.MULTILINE)


def test_schemas(overlay: str, resources: Resources) -> None:
    """Every resource is what Kubernetes accepts, without a field that it does not know."""
    for minor in range(OLDEST[overlay], NEWEST + 1):
        for resource in resources:
            used = kubernetes_validate.validate(resource, f"1.{minor}", strict=True)
            assert used == f"1.{minor}"


def test_a_native_sidecar_is_refused_where_it_is_not_known(rendered: dict[str, Resources]) -> None:
    """Which shows that the schemas look at what they are asked to look at."""
    with pytest.raises(kubernetes_validate.ValidationError, match="restartPolicy"):
        kubernetes_validate.validate(one(rendered["native-sidecar"], "Deployment"), "1.27", strict=True)


def test_configuration(pod: Pod, overlay: str) -> None:
    """`thg-proxy check` accepts what is in the ConfigMap and the environment; of a gateway it notes what that means."""
    done = pod.check()
    assert done.returncode == 0, done.stderr
    assert re.findall("note: ([a-z.]+)", done.stderr) == ["listen.address"] * is_gateway(overlay)


def test_a_fault_in_the_configuration_is_seen(
    rendered: dict[str, Resources], mounts: Path, secrets: dict[str, str]
) -> None:
    """What is checked is the ConfigMap's text."""
    resources = copy.deepcopy(rendered["native-sidecar"])
    one(resources, "ConfigMap")["data"]["config.yaml"] += "lissen: {}\n"
    done = Pod(mounts, resources, secrets).check()
    assert (done.returncode, "lissen" in done.stderr) == (2, True)


def test_hardened(resources: Resources) -> None:
    """Every container is one that the Pod Security Standard `restricted` admits, on a root that it can't write."""
    for workload in workloads(resources):
        assert not pod_spec(workload).keys() & {"hostNetwork", "hostPID", "hostIPC", "securityContext"}
        assert pod_spec(workload)["automountServiceAccountToken"] is False
        assert {next(iter(volume.keys() - {"name"})) for volume in pod_spec(workload).get("volumes", [])} <= {
            "configMap",
            "secret",
        }
        for container in containers(workload):
            context = container["securityContext"]
            assert HARDENED.items() <= context.items(), container["name"]
            assert not context.get("privileged")
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert container["resources"]["limits"].keys() == {"memory"}


def test_only_the_proxy_sees_its_secrets(resources: Resources) -> None:
    """The client secret and the certificate's key are mounted into no other container (least privilege)."""
    for workload in workloads(resources):
        for container in containers(workload):
            if container["name"] != "thg-proxy":
                assert "volumeMounts" not in container
                assert "envFrom" not in container


def test_what_is_referred_to_exists(resources: Resources) -> None:
    """ConfigMaps are in the overlay; secrets are those that the page tells to make, with these keys."""
    page = (KUBERNETES / "README.md").read_text()
    config_maps = {resource["metadata"]["name"] for resource in resources if resource["kind"] == "ConfigMap"}
    for workload in workloads(resources):
        for volume in pod_spec(workload).get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in config_maps
            else:
                name = volume["secret"]["secretName"]
                (line,) = re.findall(rf"kubectl create secret generic {name} .*", page)
                assert all(re.search(rf"--from-(file|literal)={key}\b", line) for key in SECRETS[name])


def test_data_port_of_a_sidecar_is_loopback(pod: Pod, overlay: str) -> None:
    """Other pods can't call a sidecar (R133); a gateway says that they may."""
    host = "0.0.0.0" if is_gateway(overlay) else "127.0.0.1"
    assert pod.effective("listen.address") == f"{host}:8080"
    assert pod.effective("listen.unsafe") == str(is_gateway(overlay)).lower()


def test_probes(pod: Pod, resources: Resources) -> None:
    """Each probe asks what it is for (R163), on the port that the configuration gives to the admin port."""
    workload, container = proxy_of(resources)
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startupProbe": "/startupz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    (port,) = {ports(workload)[get["port"]] for get in asked.values()}
    assert pod.effective("admin.address") == f"0.0.0.0:{port}"


def test_the_proxy_has_time_to_end(pod: Pod, resources: Resources) -> None:
    """SIGKILL does not come before the requests in flight have had `shutdown.grace`."""
    needed = sum(Duration.parse(pod.effective(f"shutdown.{key}")) for key in ("delay", "grace"))
    workload, _ = proxy_of(resources)
    allowed = pod_spec(workload).get("terminationGracePeriodSeconds", DEFAULT_GRACE)
    assert needed + TIME_TO_EXIT <= allowed


def test_services_find_their_pods(resources: Resources) -> None:
    """Each Service selects the pods of one workload, and goes to a port that they have."""
    for service in (resource for resource in resources if resource["kind"] == "Service"):
        (workload,) = (item for item in workloads(resources) if matches(pod_labels(item), service["spec"]["selector"]))
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports(workload)


def test_policies_find_their_pods(resources: Resources) -> None:
    """Policies and budgets select pods that there are; a port in a policy has the name of a port of these pods."""
    for resource in resources:
        spec = resource.get("spec", {})
        if resource["kind"] == "PodDisruptionBudget":
            assert [item for item in workloads(resources) if matches(pod_labels(item), spec["selector"]["matchLabels"])]
        if resource["kind"] == "HorizontalPodAutoscaler":
            target = one(resources, spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
            assert "replicas" not in target["spec"], "it would be set back with each apply"
        if resource["kind"] == "NetworkPolicy":
            selector = spec["podSelector"]["matchLabels"]
            (workload,) = (item for item in workloads(resources) if matches(pod_labels(item), selector))
            named = [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
            assert named
            assert set(named) <= ports(workload).keys()


@pytest.mark.parametrize("name", ["shared-gateway", "shared-gateway-mtls"])
def test_who_may_call_a_gateway(rendered: dict[str, Resources], name: str) -> None:
    """Labelled pods of the same namespace reach its data port, the gateway alone reaches Redis, and no rule is open."""
    policies = [resource for resource in rendered[name] if resource["kind"] == "NetworkPolicy"]
    callers = {
        (policy["metadata"]["name"], port["port"]): rule["from"]
        for policy in policies
        for rule in policy["spec"]["ingress"]
        for port in rule["ports"]
    }
    assert callers == {
        ("thg-proxy", "proxy"): [{"podSelector": {"matchLabels": {"thg-proxy-client": "true"}}}],
        ("thg-proxy", "thg-proxy-admin"): [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ],
        ("thg-proxy-redis", "redis"): [{"podSelector": {"matchLabels": {"thg-proxy": "gateway"}}}],
    }
    assert all(policy["spec"]["policyTypes"] == ["Ingress", "Egress"] for policy in policies)


def test_one_container_in_two_places() -> None:
    """The native sidecar and the ordinary container are the same, but for what makes a sidecar of one."""

    def container(file: str, place: str) -> tuple[dict[str, Any], Any]:
        spec = yaml.safe_load((KUBERNETES / "components" / file).read_text())["spec"]["template"]["spec"]
        (only,) = spec[place]
        return only, spec["volumes"]

    native, native_volumes = container("native-sidecar/sidecar.yaml", "initContainers")
    ordinary, volumes = container("container/container.yaml", "containers")
    assert native.pop("restartPolicy") == "Always"
    assert (native, native_volumes) == (ordinary, volumes)


def test_a_reader_s_own_app(tools: Tools, tmp_path: Path) -> None:
    """The kustomization of the page adds the sidecar to a workload of any kind, in front of its other init containers,
    with the reader's configuration and image.
    """
    (text,) = re.findall(r"```yaml\n(resources:.*?)```", (KUBERNETES / "README.md").read_text(), re.DOTALL)
    (tmp_path / "thg-proxy").symlink_to(KUBERNETES)
    (tmp_path / "kustomization.yaml").write_text(text)
    (tmp_path / "thg-proxy.yaml").write_text("log: {access: all}\n")
    app: Resource = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "store", "labels": {"thg-proxy": "sidecar"}},
        "spec": {
            "serviceName": "store",
            "selector": {"matchLabels": {"app": "store"}},
            "template": {
                "metadata": {"labels": {"app": "store"}},
                "spec": {
                    "initContainers": [{"name": "migrate", "image": "migrate:1"}],
                    "containers": [{"name": "store", "image": "store:1"}],
                },
            },
        },
    }
    other = app | {"metadata": {"name": "other"}}
    (tmp_path / "app.yaml").write_text(yaml.safe_dump_all([app, other]))

    resources = parsed(tools.shell(f"kubectl kustomize {tmp_path}"))

    spec = pod_spec(one(resources, "StatefulSet", "store"))
    assert [container["name"] for container in spec["initContainers"]] == ["thg-proxy", "migrate"]
    assert spec["initContainers"][0]["image"] == "registry.example.com/thg-proxy:0.1.0"
    assert one(resources, "ConfigMap", "thg-proxy")["data"]["config.yaml"] == "log: {access: all}\n"
    assert one(resources, "StatefulSet", "other") == other


def test_pod_monitor(rendered: dict[str, Resources]) -> None:
    """It selects every pod, and names a port that each proxy has."""
    monitor = yaml.safe_load((KUBERNETES / "components" / "monitoring" / "podmonitor.yaml").read_text())
    assert monitor["spec"]["selector"] == {}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    for resources in rendered.values():
        workload, _ = proxy_of(resources)
        assert endpoint["port"] in ports(workload)
        assert len(endpoint["port"]) <= 15, "the longest name of a port (IANA_SVC_NAME, RFC 6335)"


def test_monitoring_can_be_added(tools: Tools, tmp_path: Path) -> None:
    """The line that an overlay has as a comment adds resources that the operator's CRDs accept."""
    kustomization = KUBERNETES / "overlays" / "native-sidecar" / "kustomization.yaml"
    text = kustomization.read_text().replace("# - ../../components/monitoring", "- ../../components/monitoring")
    place = tmp_path / "overlays" / "mine"
    place.mkdir(parents=True)
    (place / "kustomization.yaml").write_text(text)
    for name in ("base", "components", "example"):
        (tmp_path / name).symlink_to(KUBERNETES / name)
    resources = parsed(tools.shell(f"kubectl kustomize {place}"))
    monitoring = [item for item in resources if item["apiVersion"] == "monitoring.coreos.com/v1"]
    assert one(monitoring, "PodMonitor")
    for resource in monitoring:
        tools.node(OPERATOR, json.dumps(resource))


def test_a_wrong_pod_monitor_is_refused(tools: Tools) -> None:
    """Which shows that the CRDs' schemas are applied."""
    wrong = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "spec": {"selector": {}, "podMetricsEndpoints": [{"port": 9090}]},
    }
    with pytest.raises(AssertionError, match="port must be string"):
        tools.node(OPERATOR, json.dumps(wrong))


def test_commands_of_the_page(tools: Tools, tmp_path: Path) -> None:
    """Every command of the page is run, as far as that goes without a cluster."""
    for name in ("secret.txt", "tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "deploy").symlink_to(KUBERNETES.parent)
    made: dict[str, set[str]] = {}
    for line in commands(KUBERNETES / "README.md"):
        if line.startswith("kubectl create secret generic"):
            secret = yaml.safe_load(tools.shell(f"{line} --dry-run=client --output yaml", tmp_path))
            made[secret["metadata"]["name"]] = set(secret["data"])
        elif line.startswith(("kubectl kustomize", "kubectl apply -k")):
            assert parsed(tools.shell(line.replace("apply -k", "kustomize"), tmp_path))
        elif line.startswith("helm lint"):
            tools.shell(f"{line} --strict", tmp_path)
        elif line.startswith(("helm install", "helm upgrade")):
            assert parsed(tools.shell(re.sub("install|upgrade", "template", line), tmp_path))
        else:
            assert line.split()[1] in ("logs", "wait", "rollout", "port-forward"), f"what about {line}?"
    assert made == {name: set(keys) for name, keys in SECRETS.items()}
