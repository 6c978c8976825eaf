"""The goals fit the cases, and are judged by the figures."""

import pytest

from .goals import GOALS, Goal, verdicts
from .report import Row


def rows(thg_proxy: float, envoy: float) -> list[Row]:
    return [Row("thg-proxy", [{"cpu": thg_proxy, "rate": thg_proxy}]), Row("envoy", [{"cpu": envoy, "rate": envoy}])]


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_every_goal_is_about_a_figure_that_there_is(goal: Goal) -> None:
    """A goal whose figure is missing says so; it names a column of its case, with a reference where it is a ratio."""
    assert goal.verdict([]) == f"{goal}: not measured"
    assert (" x " in str(goal)) == goal.is_ratio


def test_goals_are_judged_in_both_directions() -> None:
    """Cost has an upper bound, speed has a lower one."""
    assert list(verdicts({"json": rows(thg_proxy=90, envoy=100)})) == [
        "json: CPU us/request at most 1 x envoy: 0.90, reached",
        "json: requests/s at least 1 x envoy: 0.90, MISSED",
    ]


def test_a_goal_can_be_a_figure_itself() -> None:
    """Memory is not compared but bounded."""
    judged = verdicts({"memory": [Row("thg-proxy", [{"rss_idle": 54.0, "growth": 6.0}])]})

    assert list(judged) == [
        "memory: RSS idle MB at most 55: 54.00, reached",
        "memory: growth MB at most 5: 6.00, MISSED",
    ]
