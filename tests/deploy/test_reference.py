"""deploy/REFERENCE.md says what the code says now."""

import re
from pathlib import Path

from tests.deploy import reference

TESTS = Path(__file__).parents[1]


def test_page_is_up_to_date() -> None:
    """Whoever adds a metric, an error, an event or a path renews the page."""
    assert reference.PAGE.read_text() == reference.page(), f"run `{reference.COMMAND}`"


def test_nothing_is_said_of_what_is_gone() -> None:
    """Advice is for the errors and the paths that there are."""
    assert reference.ACTIONS.keys() == {kind.code for kind in reference.published()}
    assert reference.PATHS.keys() == {path.strip("`") for path, *_ in reference.paths()}


def test_no_event_is_missed() -> None:
    """Each event that a test of the real process looks for has been found in the code."""
    events = {event.strip("`") for event, *_ in reference.events()}
    wanted = {
        event
        for path in (TESTS / "behaviour").glob("*.py")
        for event in re.findall(r'log_lines\("([a-z_]+)"\)', path.read_text())
    }
    assert len(wanted) > 10
    assert wanted <= events
