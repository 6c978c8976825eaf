"""Manifests as data, and the proxy's container in them as it runs: its files, its environment, its ports."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]
Resources = list[Resource]

# What the overlays expect the reader to make.
SECRETS = {
    "thg-proxy": ("client-id", "client-secret"),
    "thg-proxy-redis": ("password",),
    "thg-proxy-tls": ("tls.crt", "tls.key", "ca.crt"),
}
_CONFIG = "/etc/thg-proxy"
_SECRETS = "/run/secrets"


def parsed(text: str) -> Resources:
    return [document for document in yaml.safe_load_all(text) if document]


def one(resources: Resources, kind: str, name: str | None = None) -> Resource:
    (found,) = (
        resource for resource in resources if resource["kind"] == kind and name in (None, resource["metadata"]["name"])
    )
    return found


def workloads(resources: Resources) -> Iterator[Resource]:
    """What makes pods."""
    return (resource for resource in resources if "template" in resource.get("spec", {}))


def pod_spec(workload: Resource) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: Resource) -> list[dict[str, Any]]:
    spec = pod_spec(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def ports(workload: Resource) -> dict[str, int]:
    """By name."""
    return {
        port["name"]: port["containerPort"] for container in containers(workload) for port in container.get("ports", [])
    }


def proxy_of(resources: Resources) -> tuple[Resource, dict[str, Any]]:
    """The one workload with a proxy, and the proxy's container."""
    ((workload, container),) = (
        (workload, container)
        for workload in workloads(resources)
        for container in containers(workload)
        if container["name"] == "thg-proxy"
    )
    return workload, container


@dataclass
class Pod:
    """The volumes of the proxy's container, laid out in `directory` as the kubelet does it."""

    directory: Path
    resources: Resources
    secrets: dict[str, str]  # by SECRET/KEY

    def __post_init__(self) -> None:
        workload, self.container = proxy_of(self.resources)
        volumes = {volume["name"]: volume for volume in pod_spec(workload)["volumes"]}
        for mount in self.container["volumeMounts"]:
            assert mount["readOnly"], mount
            assert "subPath" not in mount, "it would not see a change"
            self.write(mount["mountPath"], self._files(volumes[mount["name"]]))

    def write(self, mount_path: str, files: dict[str, str]) -> None:
        """As the kubelet does: a new directory, to which the link `..data` is turned; files are links through it."""
        mount = self.directory / mount_path.lstrip("/")
        mount.mkdir(parents=True, exist_ok=True)
        version = mount / f"..{len(list(mount.iterdir()))}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(self._here(text))
            if not (mount / name).is_symlink():
                (mount / name).symlink_to(Path("..data", name))
        (mount / "..new").symlink_to(version.name)
        (mount / "..new").rename(mount / "..data")

    @property
    def config_text(self) -> str:
        (volume,) = (volume for volume in pod_spec(proxy_of(self.resources)[0])["volumes"] if "configMap" in volume)
        config: str = one(self.resources, "ConfigMap", volume["configMap"]["name"])["data"]["config.yaml"]
        return config

    @property
    def environment(self) -> dict[str, str]:
        """The container's, and the place of the configuration, which would else be found in _CONFIG."""
        values: dict[str, str] = {}
        for variable in self.container.get("env", []):
            value = variable["value"] if "value" in variable else self._secret(**variable["valueFrom"]["secretKeyRef"])
            for name, earlier in values.items():
                value = value.replace(f"$({name})", earlier)
            values[variable["name"]] = self._here(value)
        return values | {"THG_PROXY_CONFIG": self._here(f"{_CONFIG}/config.yaml")}

    def check(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`thg-proxy check` with the container's files and environment."""
        command = [sys.executable, "-m", "proxy", "check", *arguments]
        others = {name: value for name, value in os.environ.items() if not name.startswith("THG_")}
        environment = others | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def effective(self, key: str) -> str:
        """The value that is in force."""
        (value,) = re.findall(rf"^{re.escape(key)}: (.*)  # ", self.check("--print").stdout, re.MULTILINE)
        return str(value)

    def _secret(self, name: str, key: str) -> str:
        return self.secrets[f"{name}/{key}"]

    def _files(self, volume: dict[str, Any]) -> dict[str, str]:
        if "configMap" in volume:
            return {"config.yaml": self.config_text}
        name = volume["secret"]["secretName"]
        return {key: self._secret(name, key) for key in SECRETS[name]}

    def _here(self, text: str) -> str:
        for path in (_CONFIG, _SECRETS):
            text = text.replace(path, f"{self.directory}{path}")
        return text
