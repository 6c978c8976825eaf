import pytest

from proxy.core.stored import Shared
from proxy.errors import StoreUnavailable
from proxy.stores import Lock
from proxy.stores.degrading import REST, DegradingStore
from proxy.stores.memory import MemoryStore
from tests.stores.samples import Lines, run, shared, token_of


class Fragile(MemoryStore):
    """A store that is lost while `fault` says why, and counts how often it is asked."""

    fault: Exception | None = None
    asked = 0

    async def read(self) -> Shared:
        self._ask()
        return await super().read()

    async def lock(self, wait: float) -> Lock | None:
        self._ask()
        lock = await super().lock(wait)
        return lock and _FragileLock(self, lock)

    def _ask(self) -> None:
        self.asked += 1
        if self.fault is not None:
            raise self.fault


class _FragileLock:
    def __init__(self, store: Fragile, lock: Lock) -> None:
        self._store = store
        self._lock = lock

    async def write(self, known: Shared) -> bool:
        self._store._ask()
        return await self._lock.write(known)

    async def release(self) -> None:
        await self._lock.release()


class Stage:
    """A store that can be lost, on a clock that stands still."""

    def __init__(self) -> None:
        self.lines = Lines()
        self.now = 0.0
        self.real = Fragile()
        self.store = DegradingStore(self.real, self.lines.log, lambda: self.now)

    def lose(self) -> None:
        self.real.fault = StoreUnavailable("it is gone")

    def bring_back(self) -> None:
        self.real.fault = None
        self.now += REST

    async def put(self, token: str, lifetime: float = 3600) -> bool:
        lock = await self.store.lock(0)
        assert lock is not None
        try:
            return await lock.write(shared(token, lifetime))
        finally:
            await lock.release()

    async def read(self) -> str:
        return token_of(await self.store.read())


def test_goes_on_in_memory() -> None:
    """A store that is lost costs one warning; the process has a lock and what it writes to itself (R89)."""
    stage = Stage()

    async def main() -> None:
        stage.lose()
        assert await stage.store.read() == Shared()
        assert await stage.put("own")
        assert await stage.read() == "own"
        lock = await stage.store.lock(0)
        assert lock is not None
        assert await stage.store.lock(0) is None
        stage.now += REST
        assert await stage.read() == "own"

    run(main())
    assert stage.lines.events == ["store_unavailable"]
    assert stage.lines.reasons == ["it is gone"]


def test_recovers() -> None:
    """When the store is back this is said once; what was written meanwhile gets into it with the next write."""
    stage = Stage()

    async def main() -> None:
        await stage.put("before")
        stage.lose()
        await stage.put("meanwhile")
        stage.bring_back()
        assert await stage.read() == "meanwhile"
        assert token_of(stage.real.shared) == "before"
        lock = await stage.store.lock(0)
        assert lock is not None
        assert await lock.write((await stage.store.read())._replace(asked_at=5.0))
        assert token_of(stage.real.shared) == "meanwhile"
        assert stage.real.shared.asked_at == 5.0

    run(main())
    assert stage.lines.events == ["store_unavailable", "store_recovered"]


def test_the_newer_token_counts() -> None:
    """What others wrote while this process was without the store is read, if it is newer than its own."""
    stage = Stage()

    async def main() -> None:
        stage.lose()
        await stage.put("own")
        stage.real.shared = shared("of another process")
        stage.bring_back()
        assert await stage.read() == "of another process"

    run(main())


def test_forgets_its_own() -> None:
    """After a write to the store, the store alone says what there is."""
    stage = Stage()

    async def main() -> None:
        stage.lose()
        await stage.put("own")
        stage.bring_back()
        await stage.put("next")
        stage.real.shared = Shared()
        assert await stage.store.read() == Shared()

    run(main())


def test_lost_while_it_is_locked() -> None:
    """A token that the store no longer takes is kept for this process."""
    stage = Stage()

    async def main() -> None:
        lock = await stage.store.lock(0)
        assert lock is not None
        stage.lose()
        assert await lock.write(shared("own"))
        await lock.release()
        assert await stage.read() == "own"

    run(main())
    assert stage.lines.events == ["store_unavailable"]


def test_the_lock_was_lost() -> None:
    """That a successor has the lock is passed on, and is no fault of the store."""
    stage = Stage()

    async def main() -> None:
        late = await stage.store.lock(0)
        assert late is not None
        await late.release()
        assert not await late.write(shared("older"))
        assert await stage.store.read() == Shared()

    run(main())
    assert stage.lines.events == []


def test_a_lost_store_is_not_asked_at_every_step() -> None:
    """A request that waits for a token pays once for a store that does not answer, not for each step."""
    stage = Stage()

    async def main() -> None:
        stage.lose()
        for _ in range(5):
            await stage.read()
            await stage.put("own")
        assert stage.real.asked == 1
        stage.now += REST
        await stage.read()
        assert stage.real.asked == 2

    run(main())


@pytest.mark.parametrize("reasons, events", [(["a", "a", "a"], 1), (["a", "b", "a", "b"], 2)])
def test_content_that_is_not_to_be_used(reasons: list[str], events: int) -> None:
    """What can't be used counts as nothing; each reason is said once, and the next write replaces it."""
    stage = Stage()

    async def main() -> None:
        for reason in reasons:
            stage.real.fault = ValueError(reason)
            assert await stage.store.read() == Shared()
        stage.real.fault = None
        await stage.put("next")
        assert await stage.read() == "next"

    run(main())
    assert stage.lines.events == ["store_content_ignored"] * events
    assert stage.lines.reasons == sorted(set(reasons))
