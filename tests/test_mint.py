"""Tokens that come from a store which others fill, too."""

import asyncio

import pytest

from proxy.core.stored import Shared, StoredToken
from proxy.errors import TokenUnavailable
from proxy.log import Log
from proxy.settings import OAuth
from proxy.stores.memory import MemoryStore
from proxy.tokens import TokenSource
from tests.token_stage import CLIENTS, DAY, EPOCH, TRANSIENT, TWO, Stage, failure, token


def holding(*, age: float = 100, lifetime: float = 1000, asked_ago: float | None = None) -> MemoryStore:
    """A store with a token that was asked for `age` seconds ago."""
    store = MemoryStore()
    stored = StoredToken(token("stored", lifetime), EPOCH - age, "primary")
    store.shared = Shared(stored, EPOCH - (age if asked_ago is None else asked_ago))
    return store


def line(stage: Stage) -> bytes | None:
    credential = stage.source.current()
    return None if credential is None else credential.line


def test_restart_asks_for_nothing() -> None:
    """A token of the store is used from the first request on, and replaced when it would have been (F52)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.source.acquire()
        assert line(stage) == b"Authorization: Bearer stored\r\n"
        assert stage.source.status().issued_at == EPOCH - 100
        await stage.until(598)
        assert stage.provider.asked == []
        await stage.until(602)
        assert line(stage) == b"Authorization: Bearer abc\r\n"

    stage = Stage(store=holding())
    stage.run(play)

    assert len(stage.provider.asked) == 1
    assert stage.metric("token_requests_total", client="primary", result="ok") == 1


def test_due_token_serves_until_its_successor_is_there() -> None:
    """After a restart in an outage of the provider, what the store holds is used to its end (R89)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(2)
        assert line(stage) == b"Authorization: Bearer stored\r\n"
        assert len(stage.provider.asked) >= 1
        await stage.until(139)
        assert line(stage) == b"Authorization: Bearer stored\r\n"
        await stage.until(141)
        assert line(stage) is None

    Stage(TRANSIENT, store=holding(age=800)).run(play)


@pytest.mark.parametrize("age", [941, 5000, -3600])
def test_token_that_is_not_used(age: float) -> None:
    """One that is over, or that a clock has dated that is far ahead: nobody knows how old it is (R90, R91)."""

    async def play(stage: Stage) -> None:
        await stage.source.acquire()
        assert line(stage) == b"Authorization: Bearer abc\r\n"

    Stage(store=holding(age=age)).run(play)


def test_token_of_a_clock_that_is_a_little_ahead() -> None:
    """It is used, and counts as new."""

    async def play(stage: Stage) -> None:
        await stage.source.acquire()
        assert line(stage) == b"Authorization: Bearer stored\r\n"
        assert stage.source.status().expires_at == EPOCH + 1000

    Stage(store=holding(age=-30)).run(play)


def test_what_is_found_is_verified() -> None:
    """A token of the store that fails its check is not used; a new one is asked for at once (R114)."""

    async def play(stage: Stage) -> None:
        await failure(stage.source.acquire())
        assert stage.source.current() is None

    stage = Stage(keys=b'{"keys": []}', store=holding(), oauth=OAuth(clients=CLIENTS))
    stage.run(play)

    assert stage.events[:2] == [("warning", "key_set_refused"), ("warning", "stored_token_refused")]
    assert len(stage.provider.asked) == 1


@pytest.mark.parametrize(
    "asked_ago, lifetime, first", [(2, 1000, 3), (4.5, 1000, 0.5), (6, 1000, 0), (-7, 1000, 0), (0.5, 2, 0.9)]
)
def test_restart_does_not_ask_again_at_once(asked_ago: float, lifetime: float, first: float) -> None:
    """The least time between two requests is kept over the end of a process, unless the token is shorter (F52)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(20)

    store = holding(age=2000, lifetime=lifetime, asked_ago=asked_ago)
    stage = Stage(store=store)
    stage.run(play)

    assert stage.provider.asked[0] == pytest.approx(first)


def test_request_counts_before_it_is_answered() -> None:
    """Whoever ends in the middle of a request has asked."""

    async def play(stage: Stage) -> None:
        stage.provider.latency = 8
        stage.source.start()
        await stage.until(1)

    store = MemoryStore()
    Stage(store=store).run(play)

    assert store.shared == Shared(None, EPOCH)


def test_standby_client_is_exercised_once_for_all() -> None:
    """Of those that share a store, one keeps the client that stands by in use, over restarts, too."""
    store = MemoryStore()

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(10)

    for asked in (["id", "id2"], []):
        stage = Stage(oauth=TWO, store=store)
        stage.run(play)
        assert [shown for shown, _ in stage.provider.shown] == asked

    store.shared = store.shared._replace(used={"primary": EPOCH, "backup": EPOCH - 8 * DAY})
    stage = Stage(oauth=TWO, store=store)
    stage.run(play)
    assert [shown for shown, _ in stage.provider.shown] == ["id2"]


class Elsewhere(MemoryStore):
    """A store whose lock another process holds, and never gives back."""

    async def lock(self, wait: float) -> None:
        await asyncio.sleep(wait)


def test_lock_that_is_never_free() -> None:
    """Requests fail in time, and the provider is not asked beside the one who holds the lock."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        assert isinstance(await failure(stage.source.acquire()), TokenUnavailable)
        await stage.until(60)

    stage = Stage(store=Elsewhere())
    stage.run(play)

    assert stage.provider.asked == []
    assert stage.log[0]["reason"] == "others held the lock of oauth.store all the time"


def test_standby_client_that_never_has_its_turn() -> None:
    """Where others hold the lock, it is put off until the next slow try, and does not ask on and on."""
    tries = []

    class Busy(Elsewhere):
        async def lock(self, wait: float) -> None:
            tries.append(stage.clock.monotonic() - 1000)
            await super().lock(wait)

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(400)
        assert line(stage) == b"Authorization: Bearer stored\r\n"

    store = Busy()
    store.shared = holding().shared
    stage = Stage(oauth=TWO, store=store)
    stage.run(play)

    assert tries == pytest.approx([0, 310], abs=1)
    assert stage.provider.asked == []


def test_what_is_there_is_used_without_the_lock() -> None:
    """A restart in an outage does not wait for the turn of those who ask in vain (R89)."""

    async def play(stage: Stage) -> None:
        await stage.source.acquire()
        assert line(stage) == b"Authorization: Bearer stored\r\n"

    store = Elsewhere()
    store.shared = holding(age=800).shared
    Stage(store=store).run(play)


def test_one_request_for_a_fleet() -> None:
    """Of those that share a store the first one asks, and the others use its token, day after day."""

    async def play(stage: Stage) -> None:
        others = [
            TokenSource(
                stage.oauth,
                stage.provider,
                stage.metrics,
                Log(None),
                store=stage.store,
                clock=stage.clock,
                random=lambda share=share: share / 10,  # type: ignore[misc]
            )
            for share in range(10)
        ]
        for source in (stage.source, *others):
            source.start()
        await stage.until(5 * DAY)
        assert {source.status().issued_at for source in others} == {stage.source.status().issued_at}
        for source in others:
            await source.stop()

    stage = Stage(token(lifetime=DAY))
    stage.run(play)

    assert len(stage.provider.asked) == 1 + int(5 / 0.65)
