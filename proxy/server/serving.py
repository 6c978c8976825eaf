"""What the connections of the data port share."""

import asyncio
from collections import deque
from secrets import token_hex
from time import perf_counter
from typing import Protocol

from proxy.engine import Engine
from proxy.log import Log
from proxy.metrics import Traffic
from proxy.record import RequestRecord

RECENT_REQUESTS = 100

_FORBIDDEN = 403


class Endable(Protocol):
    """A client's connection, as the drain sees it."""

    @property
    def is_idle(self) -> bool:
        """Does it wait for a request, of which nothing has come?"""

    def hang_up(self) -> None: ...

    def abort(self) -> None: ...


class Connections:
    """The open connections, and their end.

    A tunnel ends by itself, or with the proxy: a drain waits for the others only.
    """

    def __init__(self) -> None:
        self.draining = False
        self._open: set[Endable] = set()
        self._tunnels: set[Endable] = set()
        self._empty = asyncio.Event()

    def opened(self, connection: Endable) -> None:
        self._open.add(connection)
        self._empty.clear()

    def tunnel_opened(self, connection: Endable) -> None:
        self._tunnels.add(connection)
        self._no_longer_open(connection)

    def lost(self, connection: Endable) -> None:
        self._tunnels.discard(connection)
        self._no_longer_open(connection)

    def _no_longer_open(self, connection: Endable) -> None:
        self._open.discard(connection)
        if not self._open:
            self._empty.set()

    @property
    def count(self) -> int:
        """Of all connections, tunnels included."""
        return len(self._open) + len(self._tunnels)

    def drain(self) -> None:
        """From here on each answer ends its connection."""
        self.draining = True

    async def wait_empty(self) -> None:
        """Returns when no client is connected, but for tunnels."""
        if self._open:
            await self._empty.wait()

    def close_idle(self) -> None:
        for connection in list(self._open):
            if connection.is_idle:
                connection.hang_up()

    def abort(self) -> None:
        for connection in (*self._open, *self._tunnels):
            connection.abort()


class Serving:
    """The parts that serve a request, and the account of it."""

    def __init__(self, engine: Engine, *, traffic: Traffic, log: Log) -> None:
        self.engine = engine
        self.traffic = traffic
        self.connections = Connections()
        self.recent: deque[RequestRecord] = deque(maxlen=RECENT_REQUESTS)
        self._log = log
        self._has_advised = False

    def finished(self, record: RequestRecord) -> None:
        """One line, one set of metrics and one span for a request, whatever became of it."""
        record.duration = perf_counter() - record.started
        record.count(self.traffic)
        self.recent.append(record)
        access, notable = self.engine.settings.log.access, record.is_notable
        if access == "all" or (access == "errors" and notable):
            record.request_id = record.request_id or token_hex(16)
            self._log.info("request", **record.fields())
        if notable:
            self._advise(record)
        if record.on_end is not None:
            record.on_end(record)

    def _advise(self, record: RequestRecord) -> None:
        """Once: a token without a scope may be allowed nothing. Our own 403 has a code."""
        is_forbidden = record.status == _FORBIDDEN and not record.code
        if is_forbidden and not (self.engine.settings.oauth.scope or self._has_advised):
            self._has_advised = True
            self._log.warning(
                "scope_not_set",
                reason="the API answered 403 while oauth.scope is empty",
                hint="some providers grant nothing that is not asked for: look up which scope the API wants",
            )

    def report_bug(self, exc: Exception) -> None:
        """The only place that meets an exception which nobody foresaw; its text could be a peer's."""
        self._log.error("unexpected_error", error=exc)
