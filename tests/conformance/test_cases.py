"""The cases themselves: a misspelled one must not pass for one that holds."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.conformance.cases import Group, load


@pytest.mark.parametrize(
    "case",
    [
        {"id": "a", "source": ["R1"], "expect": {"status": 400}, "upstraem": "none"},
        {"id": "a", "source": ["R1"], "expect": {"status": 400, "closes": True}},
        {"id": "a", "source": ["R1"], "expect": {"status": "400"}},
        {"id": "a", "source": ["R1"]},
        {"id": "a", "source": [], "expect": {"status": 400}},
        {"id": "a", "source": ["somewhere"], "expect": {"status": 400}},
        {"id": "a", "source": ["R1"], "expect": {"status": 400}, "send": {"repeat": "x", "until": "closed"}},
    ],
    ids=str,
)
def test_mistakes_are_found(case: dict[str, object]) -> None:
    """An unknown key, a wrong type, a missing expectation or a source that nobody can look up is an error."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"about": "x", "cases": [case]}, Group)


def test_no_case_hides_another() -> None:
    """Every case of a folder has an id of its own, so that a failure names one place."""
    folders = (load("client"), load("upstream"))
    assert [
        name for folder in folders for name, count in Counter(case.id for case in folder).items() if count > 1
    ] == []


def test_all_files_are_read() -> None:
    """No file of cases lies where nobody reads it."""
    here = Path(__file__).parent
    assert {path.parent.name for path in here.rglob("*.y*ml")} == {"client", "upstream"}
    assert list(here.rglob("*.yml")) == []
