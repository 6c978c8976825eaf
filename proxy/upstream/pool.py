"""The upstream's connections: made, kept for reuse, counted, bounded."""

import asyncio
from collections import deque

from proxy.errors import Overloaded, Stopping, UpstreamError, UpstreamIncomplete, UpstreamTimeout
from proxy.metrics import Traffic
from proxy.settings import Upstream
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.dial import RESULTS, Dialer


class UpstreamPool:
    """At most `max_connections` connections to the origin of `upstream.url`, the newest idle one used first."""

    def __init__(self, settings: Upstream, traffic: Traffic) -> None:
        self._settings = settings
        self._traffic = traffic
        self._dialer = Dialer(settings)
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._connecting = 0
        self._dials: set[asyncio.Task[UpstreamConnection]] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._is_retired = self._closed = False

    def counts(self) -> dict[str, int]:
        """Open connections by state, as the metric names them."""
        return {"idle": len(self._idle), "active": len(self._open) - len(self._idle)}

    def take_idle(self) -> UpstreamConnection | None:
        """A connection that is ready now: the newest, which is the least likely to be closing."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.closed:
                return connection
        return None

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        """An idle connection, unless a `fresh` one is wanted, or a new one.

        Raises UpstreamError, and Overloaded where no connection becomes free in time.
        """
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                while fresh or (connection := self.take_idle()) is None:
                    if self._closed:
                        raise Stopping
                    if len(self._open) + self._connecting < self._settings.max_connections:
                        break
                    if fresh and (idle := self.take_idle()) is not None:
                        idle.abort()
                    await self._wait_for_a_place()
                else:
                    return connection
        except TimeoutError:
            if len(self._open) >= self._settings.max_connections:
                raise Overloaded from None
            raise UpstreamTimeout(proxy_status="connection_timeout") from None
        return await self._connect()

    def release(self, connection: UpstreamConnection) -> None:
        """Gives a connection back after an exchange: for reuse if that is safe, else to be closed."""
        if not connection.is_reusable or self._is_retired or self._closed:
            # RFC 9112 §9.3: what is left of a request's body would be read as the next request.
            connection.discard()
            return
        connection.release()
        self._idle.append(connection)
        self._wake_a_waiter()

    def retire(self) -> None:
        """Keeps no connection from here on; whoever uses one, or still wants one, can do so to the end."""
        self._is_retired = True
        while self._idle:
            self._idle.pop().abort()

    def close(self) -> None:
        """Ends all connections, those that are being made included."""
        self._closed = True
        for dial in self._dials:
            dial.cancel()
        for connection in list(self._open):
            connection.abort()
        while self._waiters:
            self._wake_a_waiter()

    async def _connect(self) -> UpstreamConnection:
        """A new connection. Who stops waiting leaves it to the next request: a dial is not cut short.

        A cancellation that meets a connection in the moment that it is made would lose its socket.
        """
        dial = asyncio.get_running_loop().create_task(self._dial())
        self._connecting += 1
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)
        try:
            await asyncio.wait([dial])
        except asyncio.CancelledError:
            dial.add_done_callback(self._keep)
            raise
        if dial.cancelled():
            raise Stopping
        connection = dial.result()
        if connection.closed:
            raise connection.error or UpstreamIncomplete
        return connection

    def _keep(self, dial: asyncio.Task[UpstreamConnection]) -> None:
        if dial.cancelled() or dial.exception() is not None:
            return
        connection = dial.result()
        if self._is_retired:
            connection.abort()
        elif not connection.closed:
            self._idle.append(connection)
            self._wake_a_waiter()

    async def _dial(self) -> UpstreamConnection:
        connection = UpstreamConnection(asyncio.get_running_loop(), self._settings, self._lost)
        try:
            await self._dialer.dial(connection)
        except UpstreamError as error:
            self._traffic.connects[RESULTS[error.proxy_status]] += 1
            self._wake_a_waiter()
            raise
        finally:
            self._connecting -= 1
        self._traffic.connects["ok"] += 1
        if connection.closed:
            self._wake_a_waiter()
        else:
            self._open.add(connection)
        return connection

    async def _wait_for_a_place(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                # Woken and cancelled at once: the place goes to the next.
                self._wake_a_waiter()
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake_a_waiter(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _lost(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        if connection.idle and connection in self._idle:
            self._idle.remove(connection)
        self._wake_a_waiter()
