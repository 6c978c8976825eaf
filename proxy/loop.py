"""The event loop: uvloop, where there is one, and how late it is."""

import asyncio
import gc
import select
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_LAG_INTERVAL = 1.0

if sys.platform == "linux":
    import uvloop

    class _Loop(uvloop.Loop):
        """Tells readers of every reset.

        libuv calls the reader of a descriptor once when its socket has an error, and never again (libuv#3796). A reader
        that finds data, as aiofastnet's does, waits for the next call, and never learns of the reset behind the data.
        """

        def __init__(self) -> None:
            super().__init__()
            self._readers: dict[int, Callable[[], object]] = {}
            # Asked for nothing, it reports what can't be declined: errors, once each.
            self._errors = select.epoll()
            super().add_reader(self._errors.fileno(), self._on_errors)

        def add_reader(self, fd: Any, callback: Callable[[*_Ts], Any], *args: *_Ts) -> None:
            super().add_reader(fd, callback, *args)
            if fd not in self._readers:
                self._errors.register(fd, select.EPOLLET)
            self._readers[fd] = lambda: callback(*args)

        def remove_reader(self, fd: Any) -> bool:  # type: ignore[override] # uvloop's stub forgets what asyncio says
            is_known = self._readers.pop(fd, None) is not None
            if is_known:
                with suppress(OSError):  # a descriptor that is closed has left by itself (epoll(7))
                    self._errors.unregister(fd)
            super().remove_reader(fd)
            return is_known

        def _on_errors(self) -> None:
            for fd, _ in self._errors.poll(0):
                self._read_on(fd, self._readers.get(fd))

        def _read_on(self, fd: int, reader: Callable[[], object] | None) -> None:
            """Calls the reader until it has met the error, or wants no more."""
            if reader is not None and self._readers.get(fd) is reader:
                reader()
                self.call_soon(self._read_on, fd, reader)

        def close(self) -> None:
            if not self.is_closed():
                super().remove_reader(self._errors.fileno())
                self._errors.close()
            super().close()


def run_async(main: Coroutine[Any, Any, _T]) -> _T:
    """As asyncio.run, for a process that serves."""
    # What has been loaded by now stays. A full collection would look through it for some 30 ms, and nobody be served.
    gc.freeze()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)


def loop_factory() -> asyncio.AbstractEventLoop:
    """Where there is no uvloop, that of asyncio."""
    if sys.platform == "linux":
        return _Loop()
    elif sys.platform != "win32":  # noqa: RET505 - else mypy takes the rest for unreachable
        import uvloop  # noqa: PLC0415 - not on Windows

        return uvloop.new_event_loop()
    else:
        # That of the proactor, the default, tells nobody that a socket is ready.
        return asyncio.SelectorEventLoop()


async def measure_lag(tell: Callable[[float], object]) -> NoReturn:
    """How late the loop runs a timer is how long a request may have to wait for it."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_INTERVAL
        await asyncio.sleep(_LAG_INTERVAL)
        tell(max(0.0, loop.time() - due))
