"""Which of the registered clients asks for a token: the first that the provider accepts; the others stand by.

A client that asks for nothing for weeks is deactivated by some providers, so those that stand by are exercised: they
ask for a token from time to time. Time and chance are arguments; times are seconds of one monotonic clock.
"""

from math import inf
from typing import NamedTuple


class Trial(NamedTuple):
    """A token request besides the ordinary ones, by the client of that index, in `wait` seconds."""

    client: int
    wait: float


class Roster:
    """`count` clients, in order of preference, of which `active` obtained the token in use.

    `exercise`: seconds between two token requests of a client that stands by. `retry`: between two of one that was
    refused.
    """

    def __init__(self, count: int, *, exercise: float, retry: float) -> None:
        self.active = 0
        self._exercise = exercise
        self._retry = retry
        self._is_refused = [False] * count
        self._next_try = [-inf] * count

    def is_refused(self, index: int) -> bool:
        return self._is_refused[index]

    def turns(self) -> list[int]:
        """Who is asked for the next token, one after another until one is accepted: all, if all were refused."""
        everybody = range(len(self._is_refused))
        return [index for index in everybody if not self._is_refused[index]] or list(everybody)

    def worked(self, index: int, now: float) -> None:
        """The provider accepted the client."""
        self._is_refused[index] = False
        self._next_try[index] = now + self._exercise

    def exercised(self, index: int, at: float, now: float) -> bool:
        """The client obtained a token at that time, elsewhere. Is that recent enough?"""
        is_recent = at + self._exercise > now and not self._is_refused[index]
        if is_recent:
            self._next_try[index] = at + self._exercise
        return is_recent

    def refused(self, index: int, now: float) -> None:
        """The provider refused the client for good."""
        self._is_refused[index] = True
        self._next_try[index] = now + self._retry

    def untold(self, index: int, now: float) -> None:
        """Nobody knows whether the provider accepts the client: it gave no answer, or none about that."""
        self._next_try[index] = now + self._retry

    def changed(self, index: int) -> None:
        """The client has another secret, which is to be proved."""
        self._next_try[index] = -inf

    def trial(self, now: float) -> Trial | None:
        """The next of those that don't ask for the ordinary tokens; None where there is none.

        A refused client with a higher rank than the active one is among them, so that it is taken back when it works.
        """
        others = [index for index in range(len(self._is_refused)) if index != self.active]
        if not others:
            return None
        index = min(others, key=self._next_try.__getitem__)
        return Trial(index, max(0.0, self._next_try[index] - now))

    def outranks_active(self, index: int) -> bool:
        """Is a token of this client to be used in place of the active one's?"""
        return index < self.active
