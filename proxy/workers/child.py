"""One worker, as it sees itself: it serves the data port as its parent says, with the token that it is lent."""

import asyncio
import socket
import sys
from collections.abc import Iterable, Sequence
from math import inf
from typing import NoReturn
from weakref import WeakValueDictionary

from proxy.credential import Loan
from proxy.engine import Engine, open_exporter
from proxy.errors import ProxyError
from proxy.log import Log, capture_standard_logging, log_for
from proxy.loop import measure_lag, run_async
from proxy.metrics import Traffic
from proxy.server.drain import Stop, within
from proxy.server.plane import OwnPlane
from proxy.settings import Settings
from proxy.tls import server_context
from proxy.upstream.pool import UpstreamPool
from proxy.workers.borrowed import BorrowedTokens, Questions
from proxy.workers.channel import Channel
from proxy.workers.protocol import (
    Answer,
    Configure,
    Configured,
    Drain,
    Ended,
    Hurry,
    Lend,
    Report,
    Serving,
    Start,
    Tell,
    ToWorker,
    Watch,
)

# Seconds between two reports that nobody has asked for: a crash takes no more than that with it.
_REPORT_INTERVAL = 1.0
# Seconds for the last words, where the parent does not listen.
_LAST_WORDS = 1.0


def run(control: int) -> int:
    """Serves until the parent has had enough, or has gone; returns the exit code. `control`: its end of the channel."""
    return run_async(_Worker().serve(_inherited(control)))


def _inherited(fd: int) -> socket.socket:
    inherited = socket.socket(fileno=fd)
    inherited.set_inheritable(False)
    return inherited


class _Worker:
    def __init__(self) -> None:
        self._channel: Channel[ToWorker] = Channel(ToWorker, self._received)
        self._questions = Questions(self._channel.send)
        self._number = 0
        self._sockets: Sequence[Sequence[socket.socket]] = ()
        self._sources: WeakValueDictionary[int, BorrowedTokens] = WeakValueDictionary()
        self._traffic = Traffic()
        self._log = Log(None)
        self._plane: OwnPlane | None = None
        self._stop = Stop()
        self._exit_code = 0
        self._told = 0
        self._lines_dropped = 0
        self._lag = 0.0

    async def serve(self, control: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        await self._channel.open(control)
        chores = [
            loop.create_task(chore) for chore in (self._mind_parent(), measure_lag(self._lags), self._report_on())
        ]
        await self._stop.asked.wait()
        if self._plane is not None:
            await self._plane.drain(self._stop)
            self._report()
            await self._plane.close()
        for chore in chores:
            chore.cancel()
        self._channel.close()
        await within(_LAST_WORDS, self._channel.gone())
        return self._exit_code

    async def _mind_parent(self) -> None:
        """A worker without a parent serves nobody for longer than it must."""
        await self._channel.gone()
        self._questions.nobody_answers()
        self._stop.asked.set()

    def _lags(self, lag: float) -> None:
        self._lag = lag

    def _received(self, message: ToWorker) -> None:
        match message:
            case Start(number, descriptors):
                self._start(number, descriptors)
            case Configure(version, source, settings):
                self._configure(version, source, settings)
            case Lend(source, token, generation, until):
                self._lend(source, Loan(token, generation, until))
            case Watch(numbers):
                self._watch(numbers)
            case Answer():
                self._questions.answered(message)
            case Tell(question):
                self._told = question
                self._report()
            case Drain():
                self._stop.asked.set()
            case Hurry():
                self._stop.asked.set()
                self._stop.hurried.set()

    def _start(self, number: int, descriptors: Iterable[Iterable[int]]) -> None:
        self._number = number
        opened = {fd: _inherited(fd) for fd in {fd for each in descriptors for fd in each}}
        self._sockets = [[opened[fd] for fd in each] for each in descriptors]

    def _configure(self, version: int, source: int, settings: Settings) -> None:
        if self._plane is None:
            self._log = log_for(settings.log, sys.stderr, worker=self._number)
            capture_standard_logging(self._log)
        try:
            pool = UpstreamPool(settings.upstream, self._traffic)
            tokens = self._tokens(source, settings)
            if self._plane is None:
                self._open(settings, tokens, pool)
                self._channel.send(Serving())
            else:
                self._plane.use(settings, tokens, pool)
                self._log.obey(settings.log)
                self._channel.send(Configured(version))
        except ProxyError as exc:
            if self._plane is not None:
                self._channel.send(Configured(version, exc.detail))
                return
            self._log.error("worker_failed", reason=exc.detail)
            self._exit_code = exc.exit_code
            self._stop.asked.set()

    def _tokens(self, source: int, settings: Settings) -> BorrowedTokens:
        """Those of a source that is known stay."""
        tokens = self._sources.get(source)
        if tokens is None:
            tokens = self._sources[source] = BorrowedTokens(source, self._questions, settings.oauth.refresh.wait)
        return tokens

    def _open(self, settings: Settings, tokens: BorrowedTokens, pool: UpstreamPool) -> None:
        """Accepts nothing yet: its parent says where."""
        tls = server_context(settings.listen.tls, "listen.tls")
        engine = Engine(settings, tokens, pool, open_exporter(settings.tracing, self._log))
        sockets = {listening for each in self._sockets for listening in each}
        # A Unix socket is the same for all workers.
        at_once = 1 if settings.listen.address.path is not None else inf
        self._plane = OwnPlane(engine, list(sockets), tls, at_once=at_once, traffic=self._traffic, log=self._log)
        self._plane.watch(())

    def _lend(self, source: int, loan: Loan) -> None:
        tokens = self._sources.get(source)
        if tokens is not None:
            tokens.lend(loan)

    def _watch(self, numbers: Iterable[int]) -> None:
        if self._plane is not None:
            self._plane.watch({listening for number in numbers for listening in self._sockets[number - 1]})

    async def _report_on(self) -> NoReturn:
        while True:
            await asyncio.sleep(_REPORT_INTERVAL)
            self._report()

    def _report(self) -> None:
        """What does not go out now goes with the next one."""
        if self._plane is None or self._channel.is_clogged:
            return
        before, self._lines_dropped = self._lines_dropped, self._log.dropped
        self._channel.send(
            Report(
                answers=self._told,
                counts=self._traffic.take(),
                recent=[Ended.of(record) for record in self._plane.take_recent()],
                lines_dropped=self._lines_dropped - before,
                in_flight=self._traffic.in_flight,
                connections=self._traffic.pool(),
                lag=self._lag,
                descriptors=self._plane.descriptors(),
            )
        )
