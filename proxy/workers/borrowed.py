"""The token of a worker: lent by its parent, and never sent for longer than that allows."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf

from proxy.clock import Clock
from proxy.credential import Credential, Loan
from proxy.errors import ClientRejected, Stopping, TokenUnavailable, Unavailable
from proxy.workers.protocol import NOBODY, Acquire, Answer, Forget, Refused, ToParent

# A parent that runs has answered before that, as it waits no longer than `oauth.refresh.wait` itself.
_PATIENCE = 1.0
_ERRORS = {kind.code: kind for kind in (TokenUnavailable, ClientRejected, Stopping)}


class Questions:
    """What the parent is asked, and has not answered yet."""

    def __init__(self, send: Callable[[ToParent], None]) -> None:
        self.send = send
        self._asked = 0
        self._is_alone = False
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    async def ask(self, question: Callable[[int], ToParent], wait: float) -> None:
        """`question` makes it, given its number. Raises Unavailable where the answer is an error, or there is none."""
        if self._is_alone:
            raise Stopping
        self._asked = number = self._asked + 1
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self.send(question(number))
        try:
            async with asyncio.timeout(wait + _PATIENCE):
                _raise_error(await answer)
        except TimeoutError:
            raise TokenUnavailable from None
        finally:
            del self._waiting[number]
            if not answer.done() or answer.cancelled():
                self.send(Forget(number))

    def answered(self, answer: Answer) -> None:
        waiting = self._waiting.get(answer.question)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def nobody_answers(self) -> None:
        """The parent has gone."""
        self._is_alone = True
        for number in list(self._waiting):
            self.answered(Answer(number, Stopping.code))


def _raise_error(answer: Answer) -> None:
    if answer.code:
        raise _ERRORS.get(answer.code, TokenUnavailable)(retry_after=answer.retry_after)


class BorrowedTokens:
    """Of one token source of the parent, with the interface that requests know; `wait`: `oauth.refresh.wait`."""

    def __init__(self, source: int, questions: Questions, wait: float, *, clock: Clock = time) -> None:
        self.source = source
        self._questions = questions
        self._wait = wait
        self._clock = clock
        self._credential: Credential | None = None
        self._until_mono = self._until_wall = -inf

    def lend(self, loan: Loan) -> None:
        self._credential = Credential(loan.token, loan.generation)
        self._until_mono, self._until_wall = loan.until

    def current(self) -> Credential | None:
        """For the hot path: two comparisons."""
        if self._clock.monotonic() < self._until_mono and self._clock.time() < self._until_wall:
            return self._credential
        return None

    async def acquire(self) -> Credential:
        """Raises Unavailable."""
        credential = self.current()
        if credential is None:
            await self._questions.ask(lambda number: Acquire(number, self.source), self._wait)
            credential = self.current()
        if credential is None:
            raise TokenUnavailable
        return credential

    async def replace(self, generation: int, *, wait: bool) -> Credential | None:
        if not self._is_newer(generation):
            if wait:
                with suppress(Unavailable):
                    await self._questions.ask(lambda number: Refused(number, self.source, generation), self._wait)
            else:
                self._questions.send(Refused(NOBODY, self.source, generation))
        return self.current() if self._is_newer(generation) else None

    def _is_newer(self, generation: int) -> bool:
        return self._credential is not None and self._credential.generation > generation
