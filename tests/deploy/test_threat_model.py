"""deploy/THREAT_MODEL.md claims nothing that no test holds, and names nothing that is not there."""

import re
from pathlib import Path

import pytest

from proxy.settings import Settings, leaves

TESTS = Path(__file__).parents[1]
MODEL = (TESTS.parent / "deploy" / "THREAT_MODEL.md").read_text()
# Of the tables of threats: what is tried, what stops it, held by.
THREATS = [line for line in MODEL.splitlines() if line.startswith("|") and line.count("|") == 4]
CLAIMS = [line for line in THREATS if not re.match(r"\| what |\|-", line)]
# `a.py`, `b.py` (R1, R2): these two hold these requirements.
_GROUP = re.compile(r"((?:`[^`]+`(?:, )?)+)(?: \(([^)]+)\))?")
_FILE = re.compile(r"`([^`]+)`")
_REQUIREMENT = re.compile(r"\b[RF]\d+\b")


def requirements(text: str) -> set[str]:
    """Those that a file of tests names; `R1-R17` is all between."""
    found = set(_REQUIREMENT.findall(text))
    for kind, first, last in re.findall(r"\b([RF])(\d+)-[RF]?(\d+)\b", text):
        found |= {f"{kind}{number}" for number in range(int(first), int(last) + 1)}
    return found


def of_the_claim(claim: str) -> str:
    return claim.split("|")[1].strip()


@pytest.mark.parametrize("claim", CLAIMS, ids=of_the_claim)
def test_claims_are_held(claim: str) -> None:
    """Each claim names tests that exist; the requirements behind them are theirs, and each of them has one."""
    groups = _GROUP.findall(claim.split("|")[3])
    assert groups
    for files, numbers in groups:
        wanted = set(_REQUIREMENT.findall(numbers))
        named = [requirements((TESTS / name).read_text()) for name in _FILE.findall(files)]
        assert wanted <= set[str]().union(*named)
        assert not wanted or all(wanted & one for one in named)


def test_each_attacker_has_claims() -> None:
    """No section of an attacker is without a table, and the tables are read."""
    sections = MODEL.partition("## Who may attack")[2].partition("\n## ")[0].split("\n### ")[1:]
    assert len(sections) == 11
    assert all(any(claim in section for claim in CLAIMS) for section in sections)


def test_keys_exist() -> None:
    """A key of the configuration that is advised is one that there is."""
    keys = {key for key, _ in leaves(Settings())}
    sections = {key.partition(".")[0] for key in keys}
    named = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)\b", MODEL)
    missing = [key for key in named if key.partition(".")[0] in sections and key not in keys]
    assert missing == []
