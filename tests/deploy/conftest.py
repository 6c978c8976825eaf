import os
import sys
from pathlib import Path

import pytest

from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import clean_environment
from tests.deploy.manifests import SECRETS, Resources, parsed
from tests.deploy.tools import OVERLAYS, Tools, installed
from tests.peers import Upstream


@pytest.fixture
def environment(provider: DemoProvider, upstream: Upstream) -> dict[str, str]:
    """In which `thg-proxy` finds its configuration, and the shell finds `thg-proxy`."""
    return clean_environment(provider) | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "THG_PROXY__OAUTH__TOKEN_URL": provider.token_url,
        "THG_PROXY__UPSTREAM__URL": upstream.url,
    }


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return installed(tmp_path_factory.mktemp("tools"))


@pytest.fixture(scope="session")
def rendered(tools: Tools) -> dict[str, Resources]:
    """What `kubectl kustomize` makes of each overlay."""
    return {name: parsed(tools.shell(f"kubectl kustomize deploy/kubernetes/overlays/{name}")) for name in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def resources(rendered: dict[str, Resources], overlay: str) -> Resources:
    """Those of each overlay in turn."""
    return rendered[overlay]


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """Where the files of a pod's volumes are laid out."""
    return tmp_path / "pod"


@pytest.fixture
def secrets(authority: CertificateAuthority) -> dict[str, str]:
    """What the reader puts into the secrets, as SECRET/KEY: any text, and a certificate for the name of the service."""
    certificate = authority.issue("thg-proxy")
    return {f"{name}/{key}": f"{key}-value" for name, keys in SECRETS.items() for key in keys} | {
        "thg-proxy-tls/tls.crt": certificate.cert_file.read_text(),
        "thg-proxy-tls/tls.key": certificate.key_file.read_text(),
        "thg-proxy-tls/ca.crt": authority.ca_file.read_text(),
    }
