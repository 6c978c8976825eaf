"""The data port, served by this process."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING

from proxy.engine import Engine, Tokens, open_exporter
from proxy.log import Log
from proxy.metrics import Traffic, WorkerStatus
from proxy.record import RequestRecord
from proxy.server import descriptors
from proxy.server.drain import Stop, drain, unless
from proxy.server.listener import Listener
from proxy.server.port import DataPort
from proxy.server.serving import Serving
from proxy.settings import Address, Settings, Tracing
from proxy.upstream.pool import UpstreamPool

if TYPE_CHECKING:
    from proxy.otlp import Exporter


class OwnPlane:
    """Accepts on `sockets`, which it owns, and serves with the engine in force. Raises StartError.

    `at_once`: as of a Listener.
    """

    # Those of others: its own are known to this process already.
    lag = 0.0
    lines_dropped = 0

    def __init__(
        self,
        engine: Engine,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext | None,
        *,
        at_once: float = inf,
        traffic: Traffic,
        log: Log,
    ) -> None:
        self._traffic = traffic
        self._log = log
        self._exporter = engine.exporter
        self._started = time.time()
        self._is_draining = False
        self._serving = serving = Serving(engine, traffic=traffic, log=log)
        traffic.pool = self._pool
        self._listener = Listener(
            sockets,
            DataPort(serving),
            log,
            count=lambda: serving.connections.count,
            limit=lambda: descriptors.for_clients(serving.engine.settings.upstream.max_connections),
            at_once=at_once,
            tls=tls,
            # A client that stalls in the handshake is one that stalls in the head.
            handshake_timeout=engine.settings.listen.header_timeout if tls else None,
        )
        self.addresses: Sequence[Address] = self._listener.addresses

    async def open(self) -> None:
        """It is."""

    def watch(self, sockets: Collection[socket.socket]) -> None:
        self._listener.watch(sockets)

    def prepare(self, settings: Settings) -> Callable[[Tokens], Awaitable[None]]:
        pool = UpstreamPool(settings.upstream, self._traffic)

        async def use(tokens: Tokens) -> None:
            self.use(settings, tokens, pool)

        return use

    def use(self, settings: Settings, tokens: Tokens, pool: UpstreamPool) -> None:
        """From here on, by requests that begin."""
        engine = Engine(settings, tokens, pool, self._exporter_for(settings.tracing))
        old, self._serving.engine = self._serving.engine, engine
        old.pool.retire()

    def _exporter_for(self, tracing: Tracing) -> "Exporter | None":
        """There is never another one: requests that have begun end in spans, too."""
        if self._exporter is None:
            self._exporter = open_exporter(tracing, self._log)
        elif tracing.otlp_endpoint is not None:
            self._exporter.send_to(tracing.otlp_endpoint)
        return self._exporter if tracing.otlp_endpoint is not None else None

    def _pool(self) -> dict[str, int]:
        return self._serving.engine.pool.counts()

    def workers(self) -> Sequence[WorkerStatus]:
        state = "stopping" if self._is_draining else "serving"
        return (WorkerStatus(os.getpid(), state, self._started, self._traffic.in_flight, restarts=0),)

    def recent(self) -> Iterable[RequestRecord]:
        return reversed(self._serving.recent)

    def take_recent(self) -> list[RequestRecord]:
        """The oldest first, and those that nobody has taken yet."""
        taken = list(self._serving.recent)
        self._serving.recent.clear()
        return taken

    def descriptors(self) -> tuple[int, int] | None:
        return descriptors.in_use()

    async def update(self) -> None:
        """It always is."""

    async def drain(self, stop: Stop) -> None:
        self._is_draining = True
        grace = self._serving.engine.settings.shutdown.grace
        end = asyncio.get_running_loop().time() + grace
        await drain(self._listener, self._serving.connections, grace, stop)
        await unless(stop.hurried, self._send_last_spans(end))

    async def _send_last_spans(self, until: float) -> None:
        """Waits for the collector, until that moment of the loop's clock at the latest."""
        if self._exporter is not None:
            await self._exporter.close(until)

    async def close(self) -> None:
        self._listener.close()
        self._serving.engine.pool.close()
        await self._send_last_spans(0)
