"""The token of a worker, with its parent played by the test."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from proxy.core.lifecycle import Now
from proxy.core.secret import Secret
from proxy.credential import Credential, Loan
from proxy.errors import ClientRejected, Stopping, TokenUnavailable, Unavailable
from proxy.workers.borrowed import BorrowedTokens, Questions
from proxy.workers.protocol import NOBODY, Acquire, Answer, Forget, Refused, ToParent
from tests.token_stage import Clock, JumpingLoop


class Parent:
    """Hears what the worker says, and answers when it is told to."""

    def __init__(self, clock: Clock) -> None:
        self.heard: list[ToParent] = []
        self.questions = Questions(self._hear)
        self.tokens = BorrowedTokens(4, self.questions, 5.0, clock=clock)
        self._something = asyncio.Event()
        self._clock = clock

    def _hear(self, message: ToParent) -> None:
        self.heard.append(message)
        self._something.set()

    async def asked(self) -> int:
        """The number of the question that comes."""
        await self._something.wait()
        self._something.clear()
        question = self.heard[-1]
        assert isinstance(question, Acquire | Refused)
        return question.question

    def lend(self, generation: int, seconds: float = 100.0) -> None:
        until = Now(self._clock.monotonic() + seconds, self._clock.time() + seconds)
        self.tokens.lend(Loan(Secret(f"token-{generation}"), generation, until))


def play(story: Callable[[Parent, Clock], Awaitable[None]]) -> Parent:
    """In a time that jumps."""
    clock = Clock()
    parents: list[Parent] = []

    async def scene() -> None:
        parents.append(Parent(clock))
        await story(parents[0], clock)

    with asyncio.Runner(loop_factory=lambda: JumpingLoop(clock)) as runner:
        runner.run(scene())
    return parents[0]


def line(credential: Credential | None) -> bytes | None:
    return None if credential is None else credential.line


def test_lent_token_is_sent() -> None:
    """A loan is what requests are sent with; the next one takes its place."""

    async def story(parent: Parent, _clock: Clock) -> None:
        assert parent.tokens.current() is None
        for generation in (1, 2):
            parent.lend(generation)
            assert line(parent.tokens.current()) == b"Authorization: Bearer token-%d\r\n" % generation
            assert await parent.tokens.acquire() is parent.tokens.current()

    assert play(story).heard == []


@pytest.mark.parametrize("moved", ["mono", "wall"])
def test_loan_ends(moved: str) -> None:
    """No token is sent after its time by either clock, whatever the parent does or does not (R90)."""

    async def story(parent: Parent, clock: Clock) -> None:
        parent.lend(1, seconds=100)
        for later, is_good in ((99.0, True), (1.0, False)):
            setattr(clock, moved, getattr(clock, moved) + later)
            assert (parent.tokens.current() is not None) == is_good

    play(story)


def test_waits_for_a_token() -> None:
    """A request without a token is answered when the parent has one."""

    async def story(parent: Parent, _clock: Clock) -> None:
        request = asyncio.ensure_future(parent.tokens.acquire())
        number = await parent.asked()
        assert not request.done()
        parent.lend(1)
        parent.questions.answered(Answer(number))
        assert line(await request) == b"Authorization: Bearer token-1\r\n"

    assert play(story).heard == [Acquire(1, 4)]


@pytest.mark.parametrize(
    "code, error, retry_after",
    [
        ("token_unavailable", TokenUnavailable, 30),
        ("client_rejected", ClientRejected, 300),
        ("stopping", Stopping, 1),
        ("of a later version", TokenUnavailable, 2),
    ],
)
def test_refusals(code: str, error: type[Unavailable], retry_after: int) -> None:
    """The app gets the parent's reason, and its time to try again."""

    async def story(parent: Parent, _clock: Clock) -> None:
        request = asyncio.ensure_future(parent.tokens.acquire())
        parent.questions.answered(Answer(await parent.asked(), code, retry_after))
        with pytest.raises(error) as raised:
            await request
        assert raised.value.retry_after == retry_after

    play(story)


def test_no_answer() -> None:
    """Of a parent that is stuck no request waits much longer than oauth.refresh.wait."""

    async def story(parent: Parent, clock: Clock) -> None:
        before = clock.monotonic()
        with pytest.raises(TokenUnavailable):
            await parent.tokens.acquire()
        assert 5.0 < clock.monotonic() - before < 7.0

    assert play(story).heard == [Acquire(1, 4), Forget(1)]


def test_a_client_that_leaves() -> None:
    """The question of a request that is given up is taken back, and a late answer is nobody's."""

    async def story(parent: Parent, _clock: Clock) -> None:
        request = asyncio.ensure_future(parent.tokens.acquire())
        number = await parent.asked()
        request.cancel()
        await asyncio.wait([request])
        parent.questions.answered(Answer(number))

    assert play(story).heard == [Acquire(1, 4), Forget(1)]


def test_without_a_parent() -> None:
    """Who waits for a parent that goes gets an answer at once, and so does everybody after that."""

    async def story(parent: Parent, clock: Clock) -> None:
        before = clock.monotonic()
        request = asyncio.ensure_future(parent.tokens.acquire())
        await parent.asked()
        parent.questions.nobody_answers()
        for waiting in (request, parent.tokens.acquire()):
            with pytest.raises(Stopping):
                await waiting
        assert clock.monotonic() == before

    play(story)


def test_another_token_after_a_401() -> None:
    """A refused token is reported, and the request goes on with what the parent lends then (R93)."""

    async def story(parent: Parent, _clock: Clock) -> None:
        parent.lend(7)
        request = asyncio.ensure_future(parent.tokens.replace(7, wait=True))
        number = await parent.asked()
        parent.lend(8)
        parent.questions.answered(Answer(number))
        assert line(await request) == b"Authorization: Bearer token-8\r\n"

    assert play(story).heard == [Refused(1, 4, 7)]


@pytest.mark.parametrize("code", ["", "client_rejected"])
def test_no_other_token_after_a_401(code: str) -> None:
    """Where no newer one comes the request has none, and the 401 is the app's (R94)."""

    async def story(parent: Parent, _clock: Clock) -> None:
        parent.lend(7)
        request = asyncio.ensure_future(parent.tokens.replace(7, wait=True))
        parent.questions.answered(Answer(await parent.asked(), code))
        assert await request is None

    play(story)


def test_who_does_not_wait() -> None:
    """A request that can't be sent again only reports; one whose token is old by now reports nothing."""

    async def story(parent: Parent, _clock: Clock) -> None:
        parent.lend(7)
        assert await parent.tokens.replace(7, wait=False) is None
        assert line(await parent.tokens.replace(6, wait=True)) == b"Authorization: Bearer token-7\r\n"

    assert play(story).heard == [Refused(NOBODY, 4, 7)]
