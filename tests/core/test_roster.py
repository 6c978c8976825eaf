"""Who asks for a token, without a clock."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.roster import Roster, Trial

WEEK, RETRY = 7 * 86400.0, 300.0


def roster(count: int = 3) -> Roster:
    return Roster(count, exercise=WEEK, retry=RETRY)


def test_first_client_is_asked_alone() -> None:
    """As long as it is accepted, nobody needs to ask the others."""
    assert roster().turns()[0] == 0


def test_refused_client_is_passed_over() -> None:
    """The next in rank stands in for a client that was refused; where all were, all are asked again."""
    clients = roster()
    clients.refused(0, 0)
    assert clients.turns() == [1, 2]
    clients.refused(2, 0)
    assert clients.turns() == [1]
    clients.refused(1, 0)
    assert clients.turns() == [0, 1, 2]
    clients.worked(2, 10)
    assert clients.turns() == [2]
    assert [clients.is_refused(index) for index in range(3)] == [True, True, False]


def test_single_client_has_no_trials() -> None:
    """There is nobody to keep in use beside it."""
    clients = roster(1)
    clients.refused(0, 0)
    assert clients.trial(inf) is None


def test_standby_clients_are_exercised() -> None:
    """Those that have never been used come first, and each again after `exercise`."""
    clients = roster()
    assert clients.trial(0) == Trial(1, 0)
    clients.worked(1, 0)
    assert clients.trial(5) == Trial(2, 0)
    clients.worked(2, 5)
    assert clients.trial(10) == Trial(1, WEEK - 10)
    assert clients.trial(WEEK + 60) == Trial(1, 0)


@pytest.mark.parametrize("told", [Roster.refused, Roster.untold])
def test_failed_trial_is_made_again_later(told: object) -> None:
    """A client that is refused, or that nobody can say anything about, is tried on the slow schedule (R82)."""
    clients = roster(2)
    told(clients, 1, 100)  # type: ignore[operator]
    assert clients.trial(100) == Trial(1, RETRY)


def test_outage_says_nothing_about_a_client() -> None:
    """A request that the provider did not answer leaves who was refused, and who was not, as it was."""
    clients = roster(2)
    clients.refused(0, 0)
    clients.untold(0, 10)
    clients.untold(1, 10)
    assert [clients.is_refused(index) for index in range(2)] == [True, False]


def test_refused_client_is_taken_back() -> None:
    """One that ranks higher than the active client is tried, to take over again."""
    clients = roster(2)
    clients.refused(0, 0)
    clients.worked(1, 0)
    clients.active = 1
    assert clients.trial(0) == Trial(0, RETRY)
    assert clients.outranks_active(0)
    assert not clients.outranks_active(1)
    clients.worked(0, RETRY)
    clients.active = 0
    assert clients.turns() == [0, 1]
    assert not clients.outranks_active(1)


def test_exercised_elsewhere() -> None:
    """Another process's use of a client counts, unless it is long ago or the client was refused here."""
    clients = roster(2)
    assert clients.exercised(1, at=-100, now=0)
    assert clients.trial(0) == Trial(1, WEEK - 100)
    assert not clients.exercised(1, at=-WEEK, now=0)
    clients.refused(1, 0)
    assert not clients.exercised(1, at=-100, now=0)


def test_changed_secret_is_tried_at_once() -> None:
    """A client with another secret is not made to wait for its turn (R100)."""
    clients = roster(2)
    clients.refused(1, 0)
    clients.changed(1)
    assert clients.trial(1) == Trial(1, 0)
    assert clients.is_refused(1), "it is proved first"


@given(
    st.integers(2, 4),
    st.lists(
        st.tuples(st.sampled_from([Roster.worked, Roster.refused, Roster.untold]), st.integers(0, 3), st.floats(0, 1e6))
    ),
)
def test_somebody_is_always_asked(count: int, events: list[tuple[object, int, float]]) -> None:
    """Whatever happened, there is a client for the next token, and one to be tried that is not the active one."""
    clients, now = roster(count), 0.0
    for event, index, passed in events:
        now += passed
        event(clients, index % count, now)  # type: ignore[operator]
    turns = clients.turns()
    assert turns
    assert turns == sorted(set(turns))
    trial = clients.trial(now)
    assert trial is not None
    assert trial.client != clients.active
    assert 0 <= trial.wait <= WEEK + 1
