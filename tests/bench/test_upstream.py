"""The configurations of the peers."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from proxy.demo.certificates import Certificate

from .upstream import Upstream

PORTS = {"port": 1001, "admin_port": 1002}


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(
        folder=tmp_path,
        port=8443,
        plain_port=8080,
        token_port=8081,
        certificate=Certificate(tmp_path / "1.pem", tmp_path / "1.key"),
        ca=tmp_path / "ca.pem",
        sparse=tmp_path / "sparse",
        token="opaque",
    )


@pytest.mark.parametrize("template", ["nginx.conf", "envoy.yaml", "haproxy.cfg", "thg-proxy.yaml"])
def test_all_peers_do_what_a_case_wants(upstream: Upstream, template: str) -> None:
    """Each one goes to the API with or without TLS, and writes an access log or none."""

    def lines(wanted: Upstream) -> list[str]:
        rendered = wanted.render(template, **PORTS).read_text().splitlines()
        return [line for line in rendered if not line.lstrip().startswith("#")]

    quiet, logged, plain = lines(upstream), lines(replace(upstream, access_log=True)), lines(upstream.plain())

    assert any("8443" in line for line in quiet)
    assert any("8080" in line for line in plain)
    assert len(logged) > len(quiet) or template == "thg-proxy.yaml"
    assert logged != quiet


@pytest.mark.parametrize("access_log", [False, True])
@pytest.mark.parametrize("template", ["envoy.yaml", "thg-proxy.yaml"])
def test_what_is_left_is_well_formed(upstream: Upstream, template: str, access_log: bool) -> None:
    """Lines that a case does not want become comments."""
    rendered = replace(upstream, access_log=access_log).render(template, **PORTS)

    assert yaml.safe_load(rendered.read_text())
