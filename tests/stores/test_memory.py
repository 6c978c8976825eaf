import asyncio

from proxy.stores.memory import MemoryStore
from tests.stores.samples import run


def test_cancelled_at_the_hand_over() -> None:
    """A waiter that is cancelled in the moment in which the lock is released leaves it to the next one."""

    async def main() -> None:
        store, loop = MemoryStore(), asyncio.get_running_loop()
        first = await store.lock(0)
        assert first is not None
        cancelled, next_one = (loop.create_task(store.lock(60)) for _ in range(2))
        await asyncio.sleep(0)
        await first.release()
        cancelled.cancel()
        assert await next_one is not None
        assert await store.lock(0) is None

    run(main())
