"""Work that may hang, in a thread that does not keep the process from ending."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

THREAD_NAME = "background"


async def in_background(work: Callable[[], T]) -> T:
    """What `work` returns.

    The threads of an executor, and so of `asyncio.to_thread`, are waited for when a process ends.
    """
    future: Future[T] = Future()
    # What has begun can't be cancelled: whoever gives up waiting leaves it to itself.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as exc:  # noqa: BLE001 - it is raised where the work is waited for
            future.set_exception(exc)

    threading.Thread(target=run, name=THREAD_NAME, daemon=True).start()
    return await asyncio.wrap_future(future)
