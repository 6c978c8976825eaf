"""The rules of the published table, on smaller fleets."""

import pytest

from .fleet import Scenario, most, simulate

SIZE = 200
# What the first request of each takes, in seconds.
FIRST = 0.1


def test_shared_store_asks_for_all() -> None:
    """Instances that share a store need at most two tokens in the lifetime of one, however many they are (F52)."""
    outcome = simulate(Scenario("", shares_store=True), size=SIZE, days=3)

    assert outcome.per_lifetime <= 2
    assert outcome.refused == 0
    assert outcome.tokenless == pytest.approx(FIRST)


def test_refreshes_do_not_come_together() -> None:
    """Instances that start together replace their first tokens evenly over the jitter, a tenth of a day (R88)."""
    outcome = simulate(Scenario(""), size=SIZE, days=0.76)
    minutes = (max(outcome.later) - min(outcome.later)) / 60

    assert len(outcome.later) == SIZE
    assert minutes == pytest.approx(0.1 * 24 * 60, rel=0.1)
    assert most(outcome.later, 600) <= 2 * SIZE / (minutes / 10)


def test_wide_jitter_spreads_a_fleet_from_the_first_day() -> None:
    """With `refresh.jitter: 0.375` the busiest hour of a week has at most twice the requests of a mean one (R88)."""
    outcome = simulate(Scenario("", jitter=0.375), size=500)

    assert outcome.busiest_hour <= 2 * outcome.mean_hour


def test_outage_is_invisible() -> None:
    """An outage while the tokens are due to be replaced leaves no instance without one (R89)."""
    outcome = simulate(Scenario("", outage=True), size=SIZE, days=0.75)

    assert outcome.refused > SIZE
    assert outcome.tokenless == pytest.approx(SIZE * FIRST)


def test_recovery_is_no_stampede() -> None:
    """A fleet that has no tokens at the end of an outage gets them by one request each, spread over a minute (R84)."""
    outcome = simulate(Scenario("", outage=True, restarts=True), size=SIZE, days=0.75)

    assert outcome.granted == 2 * SIZE
    assert len(outcome.in_recovery) <= SIZE
    assert most(outcome.in_recovery, 1) <= 2 * SIZE / 30


def test_restart_in_an_outage_finds_the_token_of_the_others() -> None:
    """With a shared store nobody is without a token but the first one, for as long as its first request takes (R89)."""
    outcome = simulate(Scenario("", shares_store=True, outage=True, restarts=True), size=SIZE, days=0.75)

    assert outcome.tokenless == pytest.approx(FIRST)
