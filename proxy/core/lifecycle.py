"""The life of an access token: when it is used, when it is replaced, when the identity provider is asked again.

Every transition is in this file. An input returns what is to be done (`Todo`); whoever feeds it does that, and reports
the outcome with the next input. Time and chance are arguments.

    none      no token yet
    fresh     used as it is
    due       used, while its successor is fetched behind it
    stale     inside the margin or past its end: not used, requests wait for its successor
    rejected  the provider refused for good: it is asked seldom, or at once when a secret has changed; a token that is
              still good is used meanwhile
    stopping  nothing is fetched any more
"""

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import NamedTuple

from proxy.core.grant import Kind

# The provider is never asked more often, whatever is configured, demanded or answered.
MIN_INTERVAL = 1.0
MIN_BACKOFF = 0.5
# A token is never used in the last tenth of its life, so that a short one keeps most of it.
_MAX_MARGIN = 0.1
# 2**n is beyond every configured maximum long before this.
_MAX_DOUBLINGS = 30


class Now(NamedTuple):
    """One moment by two clocks, in seconds. The monotonic one does not jump, but stands still while a machine sleeps;
    the wall clock (Unix time) goes on, but jumps.
    """

    mono: float
    wall: float


class State(StrEnum):
    NONE = "none"
    FRESH = "fresh"
    DUE = "due"
    STALE = "stale"
    REJECTED = "rejected"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Timing:
    """`at`, `jitter`: fractions of a token's life. Everything else: seconds."""

    at: float
    jitter: float
    margin: float
    min_interval: float
    backoff_initial: float
    backoff_max: float
    backoff_rejected: float


@dataclass(frozen=True, slots=True)
class Lease:
    """How long one token is good, in seconds after `sent`, the moment before it was asked for."""

    sent: Now
    lifetime: float
    due_after: float
    usable_for: float

    @property
    def refresh_at(self) -> float:
        """Unix seconds."""
        return self.sent.wall + self.due_after

    @property
    def expires_at(self) -> float:
        """Unix seconds."""
        return self.sent.wall + self.lifetime

    @property
    def usable_until(self) -> Now:
        return Now(self.sent.mono + self.usable_for, self.sent.wall + self.usable_for)

    def left(self, seconds: float, now: Now) -> float:
        """What is left of the first `seconds`, by the clock that has gone further."""
        return min(self.sent.mono + seconds - now.mono, self.sent.wall + seconds - now.wall)

    def is_usable(self, now: Now) -> bool:
        return self.left(self.usable_for, now) > 0

    def is_due(self, now: Now) -> bool:
        return self.left(self.due_after, now) <= 0


class Todo(NamedTuple):
    """`fetch`: send one token request now. `wake_in`: seconds until `demanded` has something new to say, or inf."""

    fetch: bool
    wake_in: float


def backoff(initial: float, maximum: float, failures: int, draw: float) -> float:
    """Seconds to wait after so many failures before this one: full jitter, `draw` in [0, 1)."""
    return max(MIN_BACKOFF, draw * min(maximum, initial * 2.0 ** min(failures, _MAX_DOUBLINGS)))


class Lifecycle:
    """One token at a time, at most one request for its successor in flight.

    `chance` in [0, 1) spreads a fleet's refreshes, and stays the same for the life of the instance.
    """

    def __init__(self, timing: Timing, chance: float) -> None:
        self.lease: Lease | None = None
        self.generation = 0
        self.failures = 0
        self.rejected = False
        self.stopping = False
        self._timing = timing
        self._due_fraction = max(0.0, timing.at - timing.jitter * chance)
        self._fetching = False
        self._replace = False
        self._last_sent = -inf
        self._not_before = -inf

    def state(self, now: Now) -> State:
        if self.stopping:
            return State.STOPPING
        if self.rejected:
            return State.REJECTED
        if self.lease is None:
            return State.NONE
        if not self.lease.is_usable(now):
            return State.STALE
        return State.DUE if self._replace or self.lease.is_due(now) else State.FRESH

    def is_usable(self, now: Now) -> bool:
        return self.lease is not None and self.lease.is_usable(now)

    def is_hopeless(self) -> bool:
        """True while it is not worth waiting for a token: the last request failed, the next is not sent yet."""
        return self.stopping or (self.failures > 0 and not self._fetching)

    def retry_in(self, now: Now) -> float:
        """Seconds until the provider may be asked again."""
        return max(0.0, self._not_before - now.mono)

    def lease_for(self, sent: Now, lifetime: float) -> Lease:
        usable_for = lifetime - min(self._timing.margin, lifetime * _MAX_MARGIN)
        return Lease(sent, lifetime, min(lifetime * self._due_fraction, usable_for), usable_for)

    def demanded(self, now: Now) -> Todo:
        """A token is wanted: by a request, or by the timer for requests to come.

        The clocks are read anew each time, which is how a jump or a sleep of the machine is noticed.
        """
        fetch = self._until_fetch(now) <= 0
        if fetch:
            self._fetching = True
            self._last_sent = now.mono
        return Todo(fetch, wake_in=min(self._until_fetch(now), self._until_stale(now)))

    def refresh_demanded(self, now: Now) -> Todo:
        """The operator wants a new token, and does not want to wait for a backoff to end."""
        self._replace = True
        return self._hurried(now)

    def fetched(self, lease: Lease, now: Now) -> Todo:
        """The token that was asked for came."""
        self._fetching = False
        return self.came(lease, now)

    def came(self, lease: Lease, now: Now) -> Todo:
        """A usable token came, asked for or not. The newest one wins, in whatever order they come."""
        self.failures = 0
        self.rejected = False
        if self.lease is None or lease.sent.mono >= self.lease.sent.mono:
            self.lease = lease
            self.generation += 1
            self._replace = False
        # The interval must not outlast a short token.
        interval = max(MIN_INTERVAL, min(self._timing.min_interval, lease.due_after))
        self._not_before = max(lease.sent.mono + interval, self._last_sent + MIN_INTERVAL)
        return self.demanded(now)

    def failed(self, kind: Kind, retry_after: float | None, draw: float, now: Now) -> Todo:
        """No token came; the one there is stays. `retry_after`: seconds that the provider asks for."""
        timing = self._timing
        self._fetching = False
        self.rejected = kind == "rejected"
        delay = backoff(timing.backoff_initial, timing.backoff_max, self.failures, draw)
        if self.rejected:
            delay = timing.backoff_rejected
        self.failures += 1
        self._not_before = max(now.mono + max(delay, retry_after or 0.0), self._last_sent + MIN_INTERVAL)
        return self.demanded(now)

    def rejected_by_upstream(self, generation: int, now: Now) -> Todo:
        """The API answered 401 to a token. Its successor is fetched behind it, once for everybody who reports this."""
        self._replace = self._replace or generation == self.generation
        return self.demanded(now)

    def key_vanished(self, now: Now) -> Todo:
        """The token's signing key is published no longer: its successor is fetched before the API refuses it."""
        self._replace = True
        return self.demanded(now)

    def secret_changed(self, now: Now) -> Todo:
        """The new secret is proved at once by another token: what was refused may be granted, what lasts may end."""
        self.rejected = False
        self._replace = True
        return self._hurried(now)

    def stop(self, now: Now) -> Todo:
        self.stopping = True
        return self.demanded(now)

    def _hurried(self, now: Now) -> Todo:
        self._not_before = self._last_sent + MIN_INTERVAL
        return self.demanded(now)

    def _until_fetch(self, now: Now) -> float:
        if self.stopping or self._fetching:
            return inf
        if self.lease is None or self._replace:
            return self.retry_in(now)
        return max(self.retry_in(now), self.lease.left(self.lease.due_after, now))

    def _until_stale(self, now: Now) -> float:
        left = 0.0 if self.lease is None else self.lease.left(self.lease.usable_for, now)
        return left if left > 0 else inf
