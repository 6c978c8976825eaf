"""The data plane of a proxy with workers: starts them, keeps them going, and adds up what they count."""

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import NoReturn
from weakref import WeakValueDictionary

from proxy.credential import Loan
from proxy.errors import StartError
from proxy.log import Log
from proxy.metrics import Traffic, WorkerStatus
from proxy.record import RequestRecord
from proxy.server import descriptors
from proxy.server.drain import Stop, unless, within
from proxy.server.serving import RECENT_REQUESTS
from proxy.server.sockets import address_of, remove_dead
from proxy.settings import Address, Settings
from proxy.tokens import TokenSource
from proxy.upstream.pool import UpstreamPool
from proxy.workers.plan import Restarts, settings_for_worker, to_watch
from proxy.workers.process import Worker
from proxy.workers.protocol import Configure, Hurry, Lend, Report, Tell, ToWorker, Watch

# Seconds that a scrape waits for the workers' figures, and a reload for them to obey.
_REPORT_WAIT = 0.5
_RELOAD_WAIT = 5.0
# Seconds that workers have beyond shutdown.grace, and to end at once.
_TO_DRAIN = 3.0
_TO_HURRY = 2.0


class Workers:
    """As many processes as `sockets` has items, each of which serves on those of its own.

    The sockets stay open here: what waits in the queue of a worker that has died is taken by another one.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: TokenSource,
        sockets: Sequence[Sequence[socket.socket]],
        *,
        traffic: Traffic,
        log: Log,
    ) -> None:
        self.addresses: Sequence[Address] = [address_of(listening) for listening in sockets[0]]
        self.lines_dropped = 0
        self._settings = settings
        self._version = 0
        self._sources: WeakValueDictionary[int, TokenSource] = WeakValueDictionary()
        self._source = 0
        self._loan: Loan | None = None
        self._sockets = sockets
        self._traffic = traffic
        self._log = log
        self._recent: list[RequestRecord] = []
        self._questions = 0
        self._workers: dict[int, Worker] = {}
        self._restarts = {number: Restarts() for number in range(1, len(sockets) + 1)}
        self._keepers: list[asyncio.Task[object]] = []
        self._is_draining = False
        self._has_served = False
        self._news = asyncio.Event()
        traffic.pool = self._pool
        self._obey(settings, tokens)

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(number)) for number in self._restarts]
        self._keepers.append(loop.create_task(self._notice_silence()))
        await self._until(lambda: self._has_served or all(each.count for each in self._restarts.values()))
        if not self._has_served:
            raise StartError("workers: none could start; the log says why")

    # The processes.

    async def _keep(self, number: int) -> None:
        """Always one of that number."""
        restarts = self._restarts[number]
        while not self._is_draining:
            began = monotonic()
            end = await self._run(number)
            if not self._is_draining:
                delay = restarts.delay(monotonic() - began)
                self._log.error("worker_died", worker=number, **end, restart_in=round(delay, 1))
                self._changed()
                await asyncio.sleep(delay)

    async def _run(self, number: int) -> dict[str, object]:
        """One process, from its start to its end; returns what there is to say of the end."""
        worker = Worker(number, source=self._sources.get, reported=self._reported, news=self._changed)
        try:
            await worker.start(self._sockets)
        except OSError as exc:
            return {"reason": exc.strerror}
        self._workers[number] = worker
        if self._is_draining:
            worker.kill()
        self._configure(worker)
        if self._loan is not None:
            worker.send(Lend(self._source, *self._loan))
        code = await worker.ended()
        self._changed()
        return {"pid": worker.pid} | ({"exit_code": code} if code >= 0 else {"signal": signal.Signals(-code).name})

    async def _notice_silence(self) -> NoReturn:
        """Counted in turns of this loop: where the whole machine stands still nobody is silent."""
        while True:
            await asyncio.sleep(1)
            for worker in self._workers.values():
                if worker.has_got_stuck():
                    effect = "others serve in its place; it is ended if that goes on"
                    self._log.warning("worker_stuck", worker=worker.number, pid=worker.pid, effect=effect)
            self._changed()

    def _changed(self) -> None:
        """Something is not as it was: whoever waits for that looks again."""
        self._traffic.in_flight = sum(worker.in_flight for worker in self._workers.values())
        if not self._is_draining:
            self._assign()
        self._news.set()
        self._news.clear()

    def _assign(self) -> None:
        serving = {worker.number: worker for worker in self._workers.values() if worker.state == "serving"}
        for number, watched in to_watch(serving, len(self._sockets)).items():
            worker = serving[number]
            if not worker.watched:
                self._has_served = True
                self._log.info("worker_serving", worker=number, pid=worker.pid)
            if worker.watched != watched:
                worker.watched = watched
                worker.send(Watch(watched))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._news.wait()

    # The configuration and the token.

    def prepare(self, settings: Settings) -> Callable[[TokenSource], Awaitable[None]]:
        # That a pool can be made shows that each worker can make one; nobody connects here.
        UpstreamPool(settings.upstream, self._traffic)
        return partial(self._use, settings)

    async def _use(self, settings: Settings, tokens: TokenSource) -> None:
        """Returns when all workers obey; one that is stuck is not waited for."""
        workers = [worker for worker in self._workers.values() if worker.state == "serving"]
        self._obey(settings, tokens)
        version = self._version
        await within(_RELOAD_WAIT, self._until(lambda: all(worker.has_configured(version) for worker in workers)))
        for worker in workers:
            if worker.configured.version == version and worker.configured.problem:
                effect = "the worker goes on with its old configuration"
                self._log.error("reload_failed", worker=worker.number, reason=worker.configured.problem, effect=effect)

    def _obey(self, settings: Settings, tokens: TokenSource) -> None:
        self._settings = settings
        self._version += 1
        is_another = self._sources.get(self._source) is not tokens
        if is_another:
            self._source += 1
            self._sources[self._source] = tokens
            self._loan = None
        for worker in self._workers.values():
            self._configure(worker)
        if is_another:
            tokens.lend(partial(self._lend, self._source))

    def _configure(self, worker: Worker) -> None:
        worker.send(Configure(self._version, self._source, settings_for_worker(self._settings)))

    def _lend(self, source: int, loan: Loan) -> None:
        if source == self._source:
            self._loan = loan
        self._tell_all(Lend(source, *loan))

    def _tell_all(self, message: ToWorker) -> None:
        for worker in self._workers.values():
            worker.send(message)

    # What they count.

    def _reported(self, report: Report) -> None:
        self._traffic.add(report.counts)
        self.lines_dropped += report.lines_dropped
        recent = [*self._recent, *(ended.record() for ended in report.recent)]
        recent.sort(key=lambda record: record.started + record.duration)
        self._recent = recent[-RECENT_REQUESTS:]

    async def update(self) -> None:
        self._questions += 1
        question = self._questions
        asked = ("serving", "stopping")
        workers = [worker for worker in self._workers.values() if worker.state in asked and not worker.is_clogged]
        for worker in workers:
            worker.send(Tell(question))
        await within(_REPORT_WAIT, self._until(lambda: all(worker.has_told(question) for worker in workers)))

    def recent(self) -> Iterable[RequestRecord]:
        return reversed(self._recent)

    def workers(self) -> Sequence[WorkerStatus]:
        return [
            WorkerStatus(worker.pid, worker.state, worker.started, worker.in_flight, self._restarts[number].count)
            for number, worker in sorted(self._workers.items())
        ]

    @property
    def lag(self) -> float:
        return max((report.lag for report in self._reports()), default=0.0)

    def descriptors(self) -> tuple[int, int] | None:
        known = [descriptors.in_use(), *(report.descriptors for report in self._reports())]
        return max(filter(None, known), key=lambda use: use[0] / use[1], default=None)

    def _pool(self) -> dict[str, int]:
        counts: Counter[str] = Counter(idle=0, active=0)
        for report in self._reports():
            counts.update(report.connections)
        return counts

    def _reports(self) -> list[Report]:
        """The last of each worker that is there."""
        return [worker.report for worker in list(self._workers.values()) if worker.report and worker.state != "ended"]

    # The end.

    async def drain(self, stop: Stop) -> None:
        self._is_draining = True
        self._close_sockets()
        for worker in self._workers.values():
            worker.drain()
        grace = self._settings.shutdown.grace + _TO_DRAIN
        await unless(stop.hurried, within(grace, self._until(self._have_all_ended)))
        self._tell_all(Hurry())
        await within(_TO_HURRY, self._until(self._have_all_ended))

    def _have_all_ended(self) -> bool:
        return all(worker.has_exited for worker in self._workers.values())

    async def close(self) -> None:
        self._is_draining = True
        self._close_sockets()
        for worker in self._workers.values():
            worker.kill()
        await within(_TO_HURRY, self._until(self._have_all_ended))
        for keeper in self._keepers:
            keeper.cancel()
        for address in self.addresses:
            if address.path is not None:
                remove_dead(address.path)

    def _close_sockets(self) -> None:
        for sockets in self._sockets:
            for listening in sockets:
                listening.close()
