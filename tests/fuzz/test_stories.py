"""Clients and an upstream in any order of events: aborts, pauses, half-written bodies, pipelining, slow sides."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.profile import tries
from tests.fuzz.stage import Stage
from tests.fuzz.story import CLIENTS, Story

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # see Stage._left
CORPUS = sorted((Path(__file__).parent / "corpus" / "stories").iterdir())

# What happens often in the world happens often here.
_CLIENT_DOES = [
    *["get"] * 4,
    *["upload", "more", "finish"] * 3,
    *["post", "rest", "hear"] * 2,
    *["head", "old", "expect", "half", "flood", "nonsense", "reset", "leave", "be deaf"],
]
_UPSTREAM_DOES = [
    *["answer", "piece", "end"] * 4,
    *["chunked"] * 3,
    *["length", "flood", "hear"] * 2,
    *["until close", "last", "refuse", "twice", "continue", "nonsense", "close", "reset", "be deaf"],
]
_waits = st.sampled_from(["", "", " &"])
_steps = st.one_of(
    st.just(""),
    st.builds("{}: {}{}".format, st.sampled_from(CLIENTS), st.sampled_from(_CLIENT_DOES), _waits),
    *[st.builds("to {}: {}{}".format, st.sampled_from(CLIENTS), st.sampled_from(_UPSTREAM_DOES), _waits)] * 2,
    st.sampled_from(["idle: close", "idle: reset", "idle: speak"]),
)


async def told(stage: Stage, steps: Iterable[str]) -> None:
    story = Story(stage)
    await story.begin()
    try:
        for step in steps:
            await story.do(step)
        await story.end()
    except AssertionError as exc:
        exc.add_note("The story:\n" + "\n".join(story.steps))
        raise


@tries(500)
@given(st.lists(_steps, min_size=40, max_size=80))
def test_any_story(stage: Stage, steps: list[str]) -> None:
    """Whatever happens in whatever order: no byte is in another's message, no request is sent again that might have
    been served, no connection is used again after something odd, everybody who stays is answered, and nothing is left
    behind (R85, R94, R95, R115, R118, R125, R126, F29-F33, F41).
    """
    stage.run(told(stage, steps))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_known_story(stage: Stage, path: Path) -> None:
    """A story that once went wrong, or that is worth telling by itself (R115, R118, R125, R126, F29-F33, F41)."""
    stage.run(told(stage, path.read_text().splitlines()))
