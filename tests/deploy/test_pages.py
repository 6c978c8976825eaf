"""Every page of the documentation: its commands are run, its links lead somewhere, its keys exist, its YAML is read."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.core.lifecycle import MIN_INTERVAL
from tests.behaviour.running import Proxy, until
from tests.deploy.page import ROOT, broken_links, commands, prose, shell

_HIDDEN = re.compile(r"/\.(?!github/)|/node_modules/")
PAGES = sorted(path for path in ROOT.rglob("*.md") if not _HIDDEN.search(f"/{path.relative_to(ROOT)}"))

_HERE = "tests.deploy.test_pages:test_commands"
# The test that runs each command of a page, or says why it doesn't.
RUN_BY = {
    "README.md": "tests.test_readme:test_every_command_is_known",
    "config/README.md": _HERE,
    "deploy/README.md": _HERE,
    "deploy/MIGRATION.md": _HERE,
    "deploy/compose/README.md": "tests.deploy.test_compose:test_commands_of_the_page",
    "deploy/dependencies/README.md": "tests.deploy.test_supply_chain:test_page",
    "deploy/docker/README.md": "tests.deploy.test_image:test_page",
    "deploy/kubernetes/README.md": "tests.deploy.test_overlays:test_commands_of_the_page",
    "deploy/prometheus/README.md": "tests.deploy.test_prometheus:test_every_command_is_known",
    "deploy/systemd/README.md": "tests.deploy.test_systemd:test_page",
}
# Beginnings of the commands that no test runs, and why.
_SUITE = "is this suite, or a part of it"
NOT_RUN = {
    "tests/bench/README.md": {
        "make bench": "takes minutes, and needs nginx, wrk and Envoy",
        ".venv/bin/python -m tests.bench": "the same",
        "make fleet": "takes a minute; tests/bench/test_fleet.py runs smaller fleets",
    },
    "tests/conformance/README.md": {"python -m pytest": _SUITE},
    "tests/fuzz/README.md": {"THG_FUZZ": "takes an hour or so; the suite has the ordinary run"},
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def keys(section: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, dotted; those of a list are those of its first element."""
    for key, value in section.items():
        yield f"{prefix}{key}"
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            yield from keys(inner, f"{prefix}{key}.")


REFERENCE = yaml.safe_load((ROOT / "config" / "reference.yaml").read_text())
KEYS = set(keys(REFERENCE))
_KEY = re.compile(rf"(?<![\w./-])(?:{'|'.join(REFERENCE)})(?:\.[a-z_]+)+(?![\w/-]|\.\w)")


def test_every_page_with_commands_is_known() -> None:
    """A page that is added is added here, with the test that runs what it says."""
    with_commands = {name(page) for page in PAGES if commands(page)}

    assert with_commands == RUN_BY.keys() | NOT_RUN.keys()


@pytest.mark.parametrize("test", sorted(set(RUN_BY.values())))
def test_the_tests_of_the_pages_exist(test: str) -> None:
    """A test that is renamed is renamed here."""
    module, _, function = test.partition(":")

    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("page", NOT_RUN)
def test_what_is_not_run_has_a_reason(page: str) -> None:
    """A command that is added to such a page is listed, and none is listed that is gone."""
    lines = commands(ROOT / page)

    assert [line for line in lines if not line.startswith(tuple(NOT_RUN[page]))] == []
    assert all(any(line.startswith(start) for line in lines) for start in NOT_RUN[page])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """So that no command hides from the tests: not in a block without a language, nor in one of another name."""
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)

    assert set(fences[::2]) <= {"sh", "yaml", "ini", "text", "mermaid"}
    assert set(fences[1::2]) <= {""}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page: Path) -> None:
    """Each link leads to a file of the repository and to a heading that is there."""
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_is_on_one_line(page: Path) -> None:
    """So that it can be copied, and `test_keys` sees it."""
    assert [line for line in prose(page).splitlines() if line.count("`") % 2] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_keys(page: Path) -> None:
    """Each key of the configuration that a page names exists."""
    code = re.findall(r"`([^`\n]+)`", prose(page))
    named = {key for text in code for key in _KEY.findall(text)}

    assert named - KEYS == set()


def configurations() -> list[Any]:
    """The blocks of YAML that are a configuration or a part of one, by their sections."""
    return [
        pytest.param(block, id=f"{name(page)}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, "yaml"))
        if isinstance(parsed := yaml.safe_load(block), dict) and parsed.keys() <= REFERENCE.keys()
    ]


@pytest.mark.parametrize("block", configurations())
def test_configurations(block: str, tmp_path: Path, environment: dict[str, str]) -> None:
    """`thg-proxy check` takes each of them; a part of one gets a token URL."""
    for secret in re.findall(r"file: (/run/secrets/[\w-]+)", block):
        place = tmp_path / Path(secret).name
        place.write_text("s3cret")
        place.chmod(0o600)
    (tmp_path / "page.yaml").write_text(block.replace("/run/secrets", str(tmp_path)))
    del environment["THG_PROXY__UPSTREAM__URL"], environment["THG_PROXY__OAUTH__TOKEN_URL"]
    oauth = yaml.safe_load(block).get("oauth", {})
    missing = "" if {"issuer", "token_url"} & oauth.keys() else "--set oauth.token_url=https://provider.example/token"

    assert "OK" in shell(f"thg-proxy check -c page.yaml {missing}", tmp_path, environment)


@pytest.mark.parametrize("page", [page for page, test in RUN_BY.items() if test == _HERE])
def test_commands(page: str, proxy: Proxy, tmp_path: Path, environment: dict[str, str]) -> None:
    """Beside a proxy that runs, as the page is read."""
    environment["THG_PROXY__ADMIN__ADDRESS"] = f"127.0.0.1:{proxy.admin_port}"
    until(lambda: proxy.token_age > MIN_INTERVAL)  # POST /refresh is one of them
    for line in commands(ROOT / page):
        command = line.replace(":9090/", f":{proxy.admin_port}/").replace(":8080/", f":{proxy.port}/")
        assert shell(command.replace("curl ", "curl -fsS ", 1), tmp_path, environment), line
