"""The life of a token, without a clock: what goes in, and what is to be done."""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.core.grant import Kind
from proxy.core.lifecycle import MIN_BACKOFF, MIN_INTERVAL, Lease, Lifecycle, Now, State, Timing, Todo, backoff

TIMING = Timing(
    at=0.75,
    jitter=0.1,
    margin=60,
    min_interval=5,
    backoff_initial=1,
    backoff_max=60,
    backoff_rejected=300,
)
EPOCH = 1_800_000_000.0
DAY = 86400.0

Input = Callable[[Lifecycle, Now], Todo]
Step = tuple[float, Input, tuple[State, bool, float]]


def at(seconds: float, *, wall_jump: float = 0) -> Now:
    return Now(seconds, EPOCH + seconds + wall_jump)


def demanded(life: Lifecycle, now: Now) -> Todo:
    return life.demanded(now)


def refresh_demanded(life: Lifecycle, now: Now) -> Todo:
    return life.refresh_demanded(now)


def fetched(lifetime: float, *, sent: float, wall_jump: float = 0) -> Input:
    return lambda life, now: life.fetched(life.lease_for(at(sent, wall_jump=wall_jump), lifetime), now)


def came(lifetime: float, *, sent: float) -> Input:
    return lambda life, now: life.came(life.lease_for(at(sent), lifetime), now)


def failed(kind: Kind = "transient", retry_after: float | None = None, draw: float = 0.999) -> Input:
    return lambda life, now: life.failed(kind, retry_after, draw, now)


def rejected_by_upstream(generation: int) -> Input:
    return lambda life, now: life.rejected_by_upstream(generation, now)


def key_vanished(life: Lifecycle, now: Now) -> Todo:
    return life.key_vanished(now)


def secret_changed(life: Lifecycle, now: Now) -> Todo:
    return life.secret_changed(now)


def stop(life: Lifecycle, now: Now) -> Todo:
    return life.stop(now)


def play(*steps: Step, chance: float = 0) -> Lifecycle:
    """Feeds the inputs; each step says the state afterwards, whether to fetch, and when to look again."""
    life = Lifecycle(TIMING, chance)
    for seconds, feed, expected in steps:
        now = at(seconds)
        todo = feed(life, now)
        assert (seconds, life.state(now), todo.fetch, round(todo.wake_in, 3)) == (seconds, *expected)
    return life


NONE, FRESH, DUE, STALE, REJECTED, STOPPING = State
FETCH, WAIT = True, False


def test_a_day_in_the_life_of_a_token() -> None:
    """A token is fetched, used, and replaced behind it at three quarters of its life (R88, R99)."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (0.1, demanded, (NONE, WAIT, inf)),
        (0.2, fetched(1000, sent=0), (FRESH, WAIT, 749.8)),
        (700, demanded, (FRESH, WAIT, 50)),
        (750, demanded, (DUE, FETCH, 190)),
        (751, demanded, (DUE, WAIT, 189)),
        (752, fetched(1000, sent=750), (FRESH, WAIT, 748)),
    )


def test_token_that_nobody_has_asked_for() -> None:
    """The first thing that happens may be that an operator wants a token, or that another client's comes."""
    play((0, refresh_demanded, (NONE, FETCH, inf)))
    play((1, came(1000, sent=0), (FRESH, WAIT, 749)), (750, demanded, (DUE, FETCH, 190)))


def test_outage_is_invisible_while_the_token_lives() -> None:
    """Failures keep the token up to its margin; the provider is asked again and again (R89, R90)."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, fetched(100, sent=0), (FRESH, WAIT, 74)),
        (75, demanded, (DUE, FETCH, 15)),
        (80, failed(draw=0.5), (DUE, WAIT, 0.5)),
        (80.5, demanded, (DUE, FETCH, 9.5)),
        (86, failed(draw=0.99), (DUE, WAIT, 1.98)),
        (87.98, demanded, (DUE, FETCH, 2.02)),
        (89, failed(draw=0.9), (DUE, WAIT, 1)),
        (90, demanded, (STALE, WAIT, 2.6)),
        (92.6, demanded, (STALE, FETCH, inf)),
        (93, fetched(100, sent=92.6), (FRESH, WAIT, 74.6)),
        (170, demanded, (DUE, FETCH, 12.6)),
        (171, failed(draw=0.99), (DUE, WAIT, 0.99)),  # the backoff begins anew
    )


def test_rejected_client_is_retried_slowly_or_when_its_secret_changes() -> None:
    """A permanent refusal waits five minutes; a changed secret is tried at once (R81, R82, F7, F17)."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, failed("rejected"), (REJECTED, WAIT, 300)),
        (100, demanded, (REJECTED, WAIT, 201)),
        (301, demanded, (REJECTED, FETCH, inf)),
        (302, failed("rejected"), (REJECTED, WAIT, 300)),
        (310, secret_changed, (NONE, FETCH, inf)),
        (311, fetched(1000, sent=310), (FRESH, WAIT, 749)),
    )


def test_another_secret_is_proved_by_another_token() -> None:
    """A token that came with the old secret is used until the new one brought its successor (R100)."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, fetched(1000, sent=0), (FRESH, WAIT, 749)),
        (100, secret_changed, (DUE, FETCH, 840)),
        (101, failed("rejected"), (REJECTED, WAIT, 300)),
        (102, secret_changed, (DUE, FETCH, 838)),
        (102.1, failed("rejected"), (REJECTED, WAIT, 300)),
        (102.2, secret_changed, (DUE, WAIT, 0.8)),  # not two within a second
        (103, demanded, (DUE, FETCH, 837)),
        (104, fetched(1000, sent=103), (FRESH, WAIT, 749)),
    )


def test_kind_of_the_last_failure_counts() -> None:
    """After a refusal, an answer that makes no sense is a failure like any other: the backoff goes on where it was."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, failed("rejected"), (REJECTED, WAIT, 300)),
        (301, demanded, (REJECTED, FETCH, inf)),
        (302, failed("malformed", draw=0.75), (NONE, WAIT, 1.5)),
        (303.5, demanded, (NONE, FETCH, inf)),
        (304, failed("transient", draw=0.75), (NONE, WAIT, 3)),
    )


def test_valid_token_survives_a_rejected_client() -> None:
    """`invalid_client` never drops a token that is still good (F7)."""
    life = play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, fetched(1000, sent=0), (FRESH, WAIT, 749)),
        (750, demanded, (DUE, FETCH, 190)),
        (751, failed("rejected"), (REJECTED, WAIT, 189)),
        (940, demanded, (REJECTED, WAIT, 111)),
    )

    assert [life.is_usable(at(939)), life.is_usable(at(940))] == [True, False]


def test_provider_says_when_to_come_back() -> None:
    """Retry-After is waited for, where it is longer than the backoff (R83, F6)."""
    life = play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, failed("transient", retry_after=120), (NONE, WAIT, 120)),
        (120, demanded, (NONE, WAIT, 1)),
        (121, demanded, (NONE, FETCH, inf)),
        (122, failed("transient", retry_after=0.1, draw=0.9), (NONE, WAIT, 1.8)),
    )

    assert [life.retry_in(at(seconds)) for seconds in (122.8, 123.8, 1000)] == pytest.approx([1, 0, 0])


def test_the_api_refuses_the_token() -> None:
    """401s of one generation cause one request, of an older one none; the interval breaks loops (R93, R95, F12)."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, fetched(1000, sent=0), (FRESH, WAIT, 749)),
        (100, rejected_by_upstream(1), (DUE, FETCH, 840)),
        (100, rejected_by_upstream(1), (DUE, WAIT, 840)),
        (101, fetched(1000, sent=100), (FRESH, WAIT, 749)),
        (101, rejected_by_upstream(1), (FRESH, WAIT, 749)),
        (102, rejected_by_upstream(2), (DUE, WAIT, 3)),
        (103, rejected_by_upstream(2), (DUE, WAIT, 2)),
        (103, rejected_by_upstream(1), (DUE, WAIT, 2)),
        (105, demanded, (DUE, FETCH, 935)),
    )


def test_the_signing_key_vanishes() -> None:
    """The token goes on being used while one with a published key is fetched."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, fetched(1000, sent=0), (FRESH, WAIT, 749)),
        (100, key_vanished, (DUE, FETCH, 840)),
        (101, failed(draw=0), (DUE, WAIT, 0.5)),
        (101.5, demanded, (DUE, FETCH, 838.5)),
        (102, fetched(1000, sent=101.5), (FRESH, WAIT, 749.5)),
    )


def test_operator_wants_a_new_token() -> None:
    """A demanded refresh overrides the interval and a backoff, but not one request a second."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (0.2, fetched(1000, sent=0), (FRESH, WAIT, 749.8)),
        (0.5, refresh_demanded, (DUE, WAIT, 0.5)),
        (1, demanded, (DUE, FETCH, 939)),
        (1.5, failed("rejected"), (REJECTED, WAIT, 300)),
        (10, refresh_demanded, (REJECTED, FETCH, 930)),
        (10.5, refresh_demanded, (REJECTED, WAIT, 929.5)),
        (11, fetched(1000, sent=10), (FRESH, WAIT, 749)),
    )


def test_nothing_is_fetched_while_stopping() -> None:
    """A stopping proxy uses what it has and asks for nothing."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, fetched(100, sent=0), (FRESH, WAIT, 74)),
        (2, stop, (STOPPING, WAIT, 88)),
        (80, demanded, (STOPPING, WAIT, 10)),
        (91, refresh_demanded, (STOPPING, WAIT, inf)),
    )


def test_older_answer_does_not_replace_a_newer_token() -> None:
    """Of two answers out of order, the one that was asked for last is kept (F18)."""
    life = play(
        (0, demanded, (NONE, FETCH, inf)),
        (9, fetched(1000, sent=8), (FRESH, WAIT, 749)),
        (10, fetched(1000, sent=0), (FRESH, WAIT, 748)),
        (11, rejected_by_upstream(1), (DUE, FETCH, 937)),
        (12, fetched(1000, sent=7.5), (DUE, WAIT, 0.5)),
    )

    assert life.generation == 1
    assert life.lease is not None
    assert life.lease.sent == at(8)


def test_token_that_was_not_asked_for() -> None:
    """One that another client's trial brought is used; a request in flight stays the only one, and may come late."""
    life = play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, fetched(1000, sent=0), (FRESH, WAIT, 749)),
        (100, came(1000, sent=99), (FRESH, WAIT, 749)),
        (849, demanded, (DUE, FETCH, 190)),
        (851, came(1000, sent=850), (FRESH, WAIT, 939)),
        (852, refresh_demanded, (DUE, WAIT, 938)),
        (853, came(1000, sent=852.5), (FRESH, WAIT, 939.5)),
        (854, fetched(1000, sent=849), (FRESH, WAIT, 748.5)),
    )

    assert life.generation == 4
    assert life.lease is not None
    assert life.lease.sent == at(852.5)


def test_token_that_was_not_asked_for_hurries_nothing() -> None:
    """One that was asked for before the last request, and comes after its failure, leaves a second after that."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (1.4, failed(draw=0), (NONE, WAIT, 0.5)),
        (1.9, demanded, (NONE, FETCH, inf)),
        (2, failed(draw=0), (NONE, WAIT, 0.9)),
        (2.1, came(1, sent=1.2), (STALE, WAIT, 0.8)),
        (2.9, demanded, (STALE, FETCH, inf)),
    )


def test_token_that_was_not_asked_for_ends_a_refusal() -> None:
    """A client whose requests fail is not asked again before the token of another one is due."""
    life = play(
        (0, demanded, (NONE, FETCH, inf)),
        (1, failed("rejected"), (REJECTED, WAIT, 300)),
        (2, came(1000, sent=1.5), (FRESH, WAIT, 749.5)),
        (301, demanded, (FRESH, WAIT, 450.5)),
        (751.5, demanded, (DUE, FETCH, 190)),
        (752, failed(draw=0.9), (DUE, WAIT, 0.9)),  # the backoff begins anew
    )

    assert life.failures == 1


def test_waiting_is_in_vain() -> None:
    """Requests wait for an answer, but not for the next try after a failure, nor for a proxy that stops (R82)."""
    life = Lifecycle(TIMING, 0)
    seen = []
    for seconds, feed in [
        (0, demanded),
        (1, failed(draw=0.9)),
        (1.8, demanded),
        (1.9, demanded),
        (3, fetched(1000, sent=1.9)),
        (4, stop),
    ]:
        feed(life, at(seconds))
        seen.append(life.is_hopeless())

    assert seen == [False, True, True, False, False, True]


def test_what_operators_read() -> None:
    """The times of a token are those of the wall clock."""
    lease = Lifecycle(TIMING, 0.5).lease_for(at(5), 1000)

    assert lease.refresh_at == EPOCH + 705
    assert lease.expires_at == EPOCH + 1005


@pytest.mark.parametrize(
    "lifetime, usable_for",
    [
        (86400, 86340),  # the margin
        (600, 540),
        (100, 90),  # a tenth
        (1, 0.9),
    ],
)
def test_margin(lifetime: float, usable_for: float) -> None:
    """A token is not used in its last minute, or last tenth where that is less (R90)."""
    life = Lifecycle(TIMING, 0)
    life.demanded(at(0))
    life.fetched(life.lease_for(at(0), lifetime), at(0))

    assert life.is_usable(at(usable_for - 0.01))
    assert not life.is_usable(at(usable_for + 0.01))
    assert life.lease_for(at(5), lifetime).usable_until == at(5 + usable_for)


@pytest.mark.parametrize("chance, refresh_after", [(0, 750), (0.5, 700), (0.999, 650.1)])
def test_fleet_refreshes_are_spread(chance: float, refresh_after: float) -> None:
    """Each instance has its own, constant, moment of refresh, never later than `refresh.at` (R88)."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (0, fetched(1000, sent=0), (FRESH, WAIT, refresh_after)),
        (refresh_after, demanded, (DUE, FETCH, round(940 - refresh_after, 3))),
        (refresh_after, fetched(1000, sent=refresh_after), (FRESH, WAIT, refresh_after)),
        chance=chance,
    )


def test_refresh_is_not_later_than_the_margin() -> None:
    """A late `refresh.at` does not leave the token's margin unused."""
    lease = Lifecycle(replace(TIMING, at=0.99), 0).lease_for(at(0), 1000)

    assert lease.is_due(at(940))
    assert not lease.is_due(at(939))


def test_refresh_is_not_before_the_token() -> None:
    """A jitter that is wider than what there is before `refresh.at` makes a token due at once, and no earlier."""
    lease = Lifecycle(replace(TIMING, at=0.3, jitter=0.5), 0.9).lease_for(at(0), 1000)

    assert lease.refresh_at == EPOCH


@pytest.mark.parametrize("lifetime", [1, 2, 3, 4, 5])
def test_short_lifetimes_work(lifetime: float) -> None:
    """Tokens of 1..5 s are replaced in time where a request a second allows it, and never faster (R92, F11)."""
    life = Lifecycle(TIMING, 0)
    clock, fetches = 0.0, []
    for _ in range(200):
        todo = life.demanded(at(clock))
        if todo.fetch:
            fetches.append(clock)
            todo = life.fetched(life.lease_for(at(clock), lifetime), at(clock))
            assert life.is_usable(at(clock))
        clock += todo.wake_in

    gaps = [b - a for a, b in pairwise(fetches)]
    assert min(gaps) >= MIN_INTERVAL
    assert max(gaps) == pytest.approx(max(1, lifetime * 0.75))


def test_short_token_of_a_late_request() -> None:
    """The second between two requests counts from the moment at which the first one was sent (R92)."""
    play(
        (0, demanded, (NONE, FETCH, inf)),
        (3.1, fetched(1, sent=3), (FRESH, WAIT, 0.8)),
        (3.9, demanded, (STALE, WAIT, 0.1)),
        (4, demanded, (STALE, FETCH, inf)),
    )


def test_wall_clock_jumps_ahead() -> None:
    """Two days ahead: the token is not used any more, and its successor is good by the new time (R91, F19)."""
    life = play((0, demanded, (NONE, FETCH, inf)), (1, fetched(DAY, sent=0), (FRESH, WAIT, DAY * 0.75 - 1)))
    jumped = at(100, wall_jump=2 * DAY)

    assert not life.is_usable(jumped)
    assert life.demanded(jumped) == Todo(fetch=True, wake_in=inf)
    assert fetched(DAY, sent=100, wall_jump=2 * DAY)(life, jumped).wake_in == DAY * 0.75
    assert life.is_usable(jumped)


def test_machine_sleeps() -> None:
    """The monotonic clock stands still in a sleep of 25 h; the token is over all the same (R91, F19)."""
    life = play((0, demanded, (NONE, FETCH, inf)), (1, fetched(DAY, sent=0), (FRESH, WAIT, DAY * 0.75 - 1)))

    assert life.demanded(Now(9, EPOCH + 25 * 3600)).fetch
    assert life.state(Now(9, EPOCH + 25 * 3600)) is STALE


def test_wall_clock_jumps_back() -> None:
    """Two days back: no storm of requests, and the token still ends by the monotonic clock (R91, F19)."""
    life = play((0, demanded, (NONE, FETCH, inf)), (1, fetched(1000, sent=0), (FRESH, WAIT, 749)))
    back = -2 * DAY

    assert life.demanded(at(2, wall_jump=back)) == Todo(fetch=False, wake_in=748)
    assert life.demanded(at(750, wall_jump=back)).fetch
    assert life.is_usable(at(939, wall_jump=back))
    assert not life.is_usable(at(940, wall_jump=back))


def test_outage_from_the_start() -> None:
    """A provider that does not answer is asked again for as long as that takes, at least once a minute (R84, R89)."""
    life = Lifecycle(TIMING, 0)
    life.demanded(at(0))
    clock = 0.0
    for _ in range(100):
        wait = failed(draw=0.75)(life, at(clock)).wake_in
        clock += wait
        assert wait <= 60
        assert life.demanded(at(clock)).fetch


@pytest.mark.parametrize(
    "failures, draw, seconds",
    [
        (0, 0.0, 0.5),  # never less than half a second
        (0, 0.75, 0.75),
        (3, 0.5, 4),
        (5, 0.999, 31.968),
        (10, 0.5, 30),  # the maximum, halved by the draw
        (5000, 0.5, 30),  # 2.0**5000 is no float
    ],
)
def test_backoff(failures: int, draw: float, seconds: float) -> None:
    """Full jitter under a doubling limit with a cap, and never under half a second (R84)."""
    assert backoff(1, 60, failures, draw) == pytest.approx(seconds)


class Machine(RuleBasedStateMachine):
    """What holds at each moment, for any inputs, lifetimes and jumps of the clock (R82-R84, R90-R92)."""

    @initialize(
        chance=st.floats(0, 0.999), jitter=st.sampled_from([0, 0.1, 0.75]), at=st.sampled_from([0.1, 0.75, 1.0])
    )
    def begin(self, chance: float, jitter: float, at: float) -> None:
        self.life = Lifecycle(
            Timing(at, jitter, margin=60, min_interval=5, backoff_initial=1, backoff_max=60, backoff_rejected=300),
            chance,
        )
        self.mono, self.wall = 0.0, EPOCH
        self.sent: Now | None = None
        self.last_sent = self.earliest = -inf
        self.newest: Lease | None = None
        self.take(self.life.demanded(self.now))

    @property
    def now(self) -> Now:
        return Now(self.mono, self.wall)

    def take(self, todo: Todo) -> None:
        if todo.fetch:
            assert self.sent is None, "two requests in flight"
            assert self.mono >= self.last_sent + MIN_INTERVAL - 1e-6, "more than one request a second"
            assert self.mono >= self.earliest - 1e-6, "sooner than the backoff or Retry-After"
            self.sent, self.last_sent = self.now, self.mono
        self.todo = todo

    @rule(seconds=st.floats(0, 1000))
    def time_passes(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds
        self.take(self.life.demanded(self.now))

    @rule()
    def timer_fires(self) -> None:
        if self.todo.wake_in < inf:
            self.time_passes(self.todo.wake_in)

    @rule(seconds=st.floats(-3 * DAY, 3 * DAY))
    def wall_clock_jumps(self, seconds: float) -> None:
        self.wall += seconds
        self.take(self.life.demanded(self.now))

    @precondition(lambda self: self.sent is not None)
    @rule(lifetime=st.floats(0.01, 40 * DAY), took=st.floats(0, 10))
    def answer(self, lifetime: float, took: float) -> None:
        assert self.sent is not None
        lease = self.life.lease_for(self.sent, lifetime)
        self.mono += took
        self.wall += took
        self.sent = None
        self.note(lease)
        self.take(self.life.fetched(lease, self.now))

    @rule(lifetime=st.floats(0.01, 40 * DAY), took=st.floats(0, 10))
    def token_that_was_not_asked_for(self, lifetime: float, took: float) -> None:
        lease = self.life.lease_for(Now(self.mono - took, self.wall - took), lifetime)
        self.note(lease)
        self.take(self.life.came(lease, self.now))

    def note(self, lease: Lease) -> None:
        self.earliest = -inf
        if self.newest is None or lease.sent.mono >= self.newest.sent.mono:
            self.newest = lease

    @precondition(lambda self: self.sent is not None)
    @rule(
        kind=st.sampled_from(["transient", "malformed", "rejected"]),
        retry_after=st.none() | st.floats(0.1, 600),
        draw=st.floats(0, 0.999),
    )
    def refusal(self, kind: Kind, retry_after: float | None, draw: float) -> None:
        self.sent = None
        least = 300 if kind == "rejected" else MIN_BACKOFF
        self.earliest = self.mono + max(least, retry_after or 0)
        self.take(self.life.failed(kind, retry_after, draw, self.now))

    @rule(generation=st.integers(0, 5))
    def upstream_refuses(self, generation: int) -> None:
        self.take(self.life.rejected_by_upstream(generation, self.now))

    @rule()
    def key_vanishes(self) -> None:
        self.take(self.life.key_vanished(self.now))

    @rule(by_operator=st.booleans())
    def hurry(self, by_operator: bool) -> None:
        self.earliest = -inf
        self.take(self.life.refresh_demanded(self.now) if by_operator else self.life.secret_changed(self.now))

    @invariant()
    def no_token_is_used_past_its_end(self) -> None:
        if self.life.is_usable(self.now):
            assert self.newest is not None
            assert self.mono < self.newest.sent.mono + self.newest.lifetime
            assert self.wall < self.newest.sent.wall + self.newest.lifetime

    @invariant()
    def there_is_always_a_next_step(self) -> None:
        assert self.sent is not None or 0 <= self.todo.wake_in < inf
        if self.sent is None and not self.life.is_usable(self.now):
            seconds = self.todo.wake_in + 1e-3
            later = Now(self.mono + seconds, self.wall + seconds)
            assert copy(self.life).demanded(later).fetch, "nothing would be sent when the timer fires"

    def teardown(self) -> None:
        """Whatever has happened, a proxy that stops asks for nothing more."""
        later = Now(self.mono + DAY, self.wall + DAY)
        assert not self.life.stop(self.now).fetch
        assert not self.life.refresh_demanded(later).fetch


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestMachine = Machine.TestCase
