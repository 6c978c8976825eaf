"""The data plane as the rest of the proxy knows it: whoever serves the data port."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from proxy.metrics import WorkerStatus
from proxy.record import RequestRecord
from proxy.server.drain import Stop
from proxy.settings import Address, Settings
from proxy.tokens import TokenSource


class DataPlane(Protocol):
    """This process (`proxy.server.plane`), or processes that it has started (`proxy.workers`).

    `lag`: of the event loop of the others, the largest, in seconds; `lines_dropped`: of the log, by the others.
    """

    addresses: Sequence[Address]
    lines_dropped: int

    @property
    def lag(self) -> float: ...

    async def open(self) -> None:
        """Returns once somebody serves. Raises StartError where nobody can."""

    def prepare(self, settings: Settings) -> Callable[[TokenSource], Awaitable[None]]:
        """What puts the settings in force. Raises ConfigError where they can't be used."""

    def workers(self) -> Sequence[WorkerStatus]: ...

    def recent(self) -> Iterable[RequestRecord]:
        """The last requests, the newest first."""

    def descriptors(self) -> tuple[int, int] | None:
        """How many are open, and how many may be, where it is tightest."""

    async def update(self) -> None:
        """Brings up to date what is known of the traffic, as far as that can be done at once."""

    async def drain(self, stop: Stop) -> None:
        """Takes no more connections, and returns when what is in flight has ended, or its time has."""

    async def close(self) -> None: ...
