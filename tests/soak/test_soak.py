"""The soak itself: a short one goes well, and one of a proxy whose clients get what is wrong does not."""

import sys
from pathlib import Path

import pytest

from tests.soak.api import Api
from tests.soak.report import is_sound, report, table
from tests.soak.soak import soak

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the soak reads /proc"),
    # A connection that the API takes in the moment in which it stops ends with the event loop.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_short(tmp_path: Path) -> None:
    """In a few seconds everything happens that happens in ten minutes, and all of it is as expected."""
    lines = report(soak(tmp_path, seconds=10))
    assert is_sound(lines), table(lines)


class Lying(Api):
    """Gives the same text to everybody."""

    def text(self, name: str) -> bytes:
        return super().text(name[:1])


def test_a_wrong_body(tmp_path: Path) -> None:
    """An answer that is another one's is a failure, with its kind, and makes the soak fail."""
    lines = report(soak(tmp_path, seconds=3, api_of=Lying))
    assert not is_sound(lines)
    assert "wrong body (GET)" in table(lines)
    (line,) = [line for line in lines if line.what == "failures outside API restarts"]
    assert not line.is_met
