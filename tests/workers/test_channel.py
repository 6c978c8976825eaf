"""Both ends of the pair of sockets, on one event loop."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import uvloop

from proxy.core.lifecycle import Now
from proxy.core.secret import Secret
from proxy.workers.channel import Channel
from proxy.workers.protocol import Acquire, Lend, Serving, Tell, ToParent, ToWorker, Watch

TIMEOUT = 10


class Pair:
    def __init__(self) -> None:
        self.parent_heard: list[ToParent] = []
        self.worker_heard: list[ToWorker] = []
        self._news = asyncio.Event()
        self.parent: Channel[ToParent] = Channel(ToParent, lambda message: self._hear(self.parent_heard, message))
        self.worker: Channel[ToWorker] = Channel(ToWorker, lambda message: self._hear(self.worker_heard, message))
        self.ends = socket.socketpair()

    def _hear(self, heard: list[ToParent] | list[ToWorker], message: object) -> None:
        heard.append(message)  # type: ignore[arg-type] # each side hears what is for it
        self._news.set()
        self._news.clear()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._news.wait()


def play(story: Callable[[Pair], Awaitable[None]], *, open_worker: bool = True) -> None:
    async def scene() -> None:
        pair = Pair()
        async with asyncio.timeout(TIMEOUT):
            await pair.parent.open(pair.ends[0])
            if open_worker:
                await pair.worker.open(pair.ends[1])
            await story(pair)
            pair.parent.close()
            pair.worker.close()
            await pair.parent.gone()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())


def test_both_ways() -> None:
    """What one side says the other one hears, in the order in which it was said."""

    async def story(pair: Pair) -> None:
        said: list[ToWorker] = [Watch((1,)), Lend(1, Secret("t"), 1, Now(1, 2)), *map(Tell, range(1000))]
        for message in said:
            pair.parent.send(message)
        pair.worker.send(Serving())
        await pair.until(lambda: len(pair.worker_heard) == len(said) and len(pair.parent_heard) == 1)
        assert pair.worker_heard == said
        assert pair.parent_heard == [Serving()]

    play(story)


def test_the_end_comes_after_the_last_word() -> None:
    """Whatever was said before the end is heard; what is said to one who has gone is said to nobody."""

    async def story(pair: Pair) -> None:
        for number in range(1000):
            pair.worker.send(Acquire(number, 1))
        pair.worker.close()
        await pair.parent.gone()
        assert len(pair.parent_heard) == 1000
        pair.parent.send(Tell(1))

    play(story)


def test_nonsense_ends_it() -> None:
    """Who does not speak the language is not listened to any longer."""

    async def story(pair: Pair) -> None:
        pair.ends[1].sendall(b"GET / HTTP/1.1\r\n\r\n")
        await pair.parent.gone()
        assert pair.parent_heard == []
        pair.ends[1].close()

    play(story, open_worker=False)


def test_the_other_side_does_not_read() -> None:
    """A side that is stuck is noticed, so that it need not be told everything; and so is that it reads again."""

    async def story(pair: Pair) -> None:
        while not pair.parent.is_clogged:
            pair.parent.send(Watch(tuple(range(1000))))
        pair.parent.send(Tell(1))
        await pair.worker.open(pair.ends[1])
        await pair.until(lambda: pair.worker_heard[-1:] == [Tell(1)])
        assert not pair.parent.is_clogged

    play(story, open_worker=False)


def test_before_it_is_open() -> None:
    """A channel that leads nowhere yet takes what is said to it, and loses it."""
    heard: list[ToParent] = []
    channel: Channel[ToParent] = Channel(ToParent, heard.append)
    channel.send(Tell(1))
    channel.close()
    assert not channel.is_clogged
