"""After a 101: bytes both ways, unchanged, each side paused while the other is full (RFC 9110 §7.8)."""

import asyncio
from typing import Protocol

from proxy.errors import ProxyError
from proxy.record import RequestRecord


class Side(Protocol):
    """One of the two connections."""

    def open_tunnel(self, other: "FarSide") -> None:
        """From here on all that comes goes to `other`."""

    def write(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class FarSide:
    """One connection as the other sees it. `passed`: bytes that went to it."""

    __slots__ = ("_over", "_side", "passed")

    def __init__(self, side: Side, over: asyncio.Future[None]) -> None:
        self._side = side
        self._over = over
        self.passed = 0

    def write(self, data: bytes) -> None:
        self.passed += len(data)
        self._side.write(data)

    def pause_reading(self) -> None:
        self._side.pause_reading()

    def resume_reading(self) -> None:
        self._side.resume_reading()

    def end(self, error: ProxyError | None = None) -> None:
        """Nothing more comes; `error`, if that was not meant."""
        if self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)


async def tunnel(client: Side, upstream: Side, record: RequestRecord) -> None:
    """Returns when either side has closed; what is on its way to the other, its connection sends before it closes.

    Raises UpstreamIncomplete where the upstream's connection was lost. A client's is known by its task's cancellation.
    """
    over = asyncio.get_running_loop().create_future()
    to_client, to_upstream = FarSide(client, over), FarSide(upstream, over)
    upstream.open_tunnel(to_client)
    client.open_tunnel(to_upstream)
    try:
        await over
    finally:
        record.bytes_in, record.bytes_out = to_upstream.passed, to_client.passed
