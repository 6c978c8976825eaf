"""The composition root: builds the parts, serves, obeys signals, drains, and gives the exit code."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import NoReturn

from proxy.admin.app import AdminParts, AdminPort
from proxy.admin.history import History
from proxy.admin.status import readiness
from proxy.config import Loaded
from proxy.engine import Engine, Identity
from proxy.errors import StartError
from proxy.hardening import harden
from proxy.log import Log, capture_standard_logging, log_for
from proxy.loop import loop_factory
from proxy.metrics import Metrics
from proxy.notify import ServiceManager
from proxy.reload import Reload
from proxy.server import DataPort, descriptors
from proxy.server.listener import Listener
from proxy.server.serving import Connections, Serving
from proxy.server.sockets import listen
from proxy.settings import Address
from proxy.tls import server_context
from proxy.upstream.pool import UpstreamPool
from proxy.watch import FileWatch

# How long a stopping proxy leaves idle connections to clients that may be sending on them right now: their next answer
# says `Connection: close`, which spares them a reset (RFC 9112 §9.6).
IDLE_GRACE = 1.0
_LAG_INTERVAL = 1.0


class Stop:
    """Asked once: drain. Asked twice: end at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()

    def ask(self) -> None:
        (self.hurried if self.asked.is_set() else self.asked).set()

    def __bool__(self) -> bool:
        return self.asked.is_set()


def run(loaded: Loaded) -> int:
    """Runs the proxy in the foreground until a signal ends it; returns the exit code."""
    harden()
    descriptors.raise_limit()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(serve(loaded))


async def serve(loaded: Loaded, *, ready: Callable[[], None] | None = None) -> int:
    """As `run`, on the running loop; `ready` is called once both ports are open.

    Raises StartError. The token is fetched in the background: a provider that is down keeps nothing from starting.
    """
    settings = loaded.settings
    log = log_for(settings.log, sys.stderr)
    capture_standard_logging(log)
    manager = ServiceManager(os.environ, log)
    stop = Stop()
    _obey_signals(stop)
    metrics = Metrics()
    metrics.log_lines_dropped.read = lambda: log.dropped
    async with AsyncExitStack() as parts:
        identity = Identity(settings.oauth, metrics, log)
        engine = Engine(settings, identity.tokens, UpstreamPool(settings.upstream, metrics.traffic))
        serving = Serving(engine, traffic=metrics.traffic, log=log)
        reload = Reload(loaded.again, serving, identity, metrics=metrics, log=log)
        parts.push_async_callback(reload.close)
        parts.callback(lambda: serving.engine.pool.close())
        metrics.traffic.pool = lambda: serving.engine.pool.counts()
        metrics.traffic.in_flight_limit = lambda: serving.engine.settings.limits.max_in_flight
        history = History(metrics.traffic)
        admin = AdminParts(
            settings=lambda: serving.engine.settings,
            origin=loaded.origin,
            metrics=metrics,
            token=lambda: serving.engine.tokens.status(),
            pool=lambda: serving.engine.pool.counts(),
            history=history,
            recent=lambda: reversed(serving.recent),
            engine={"loop": _loop_name(), "transport": "aiofastnet", "parser": "llhttp"},
            stopping=lambda: bool(stop),
            refresh=lambda: serving.engine.tokens.refresh(),
            stop=stop.ask,
        )
        admin_listener = _open_admin(admin, log, parts)
        listener = _open_data_port(serving, log)
        parts.callback(listener.close)
        identity.tokens.start()
        # They begin in this order: who hears from the service manager that the proxy is ready may send it SIGHUP.
        for work in (
            _measure_lag(metrics),
            history.keep(),
            _obey_changes(loaded, reload, manager),
            manager.keep_told(lambda: readiness(serving.engine.tokens.status(), stopping=bool(stop)).reason),
        ):
            parts.callback(asyncio.get_running_loop().create_task(work).cancel)
        log.info(
            "listening",
            address=_listed(listener.addresses),
            admin=_listed(admin_listener.addresses),
            upstream=settings.upstream.url,
            config=loaded.origin,
        )
        if ready is not None:
            ready()
        await stop.asked.wait()
        log.info("stopping", in_flight=metrics.traffic.in_flight)
        shutdown = serving.engine.settings.shutdown
        manager.stopping(within=shutdown.delay + shutdown.grace)
        await _unless_hurried(stop, asyncio.sleep(shutdown.delay))
        await _drain(listener, serving.connections, shutdown.grace, stop)
        log.info("stopped")
    return 0


def _listed(addresses: Iterable[Address]) -> str:
    return ", ".join(map(str, addresses))


def _loop_name() -> str:
    return "asyncio" if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop) else "uvloop"


def _obey_signals(stop: Stop) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.ask))
        else:
            loop.add_signal_handler(number, stop.ask)


async def _obey_changes(loaded: Loaded, reload: Reload, manager: ServiceManager) -> NoReturn:
    """A reload is asked for by SIGHUP, and by another content of the configuration's file or of a certificate's."""
    asked = asyncio.Event()

    async def changed(_: list[str]) -> None:
        asked.set()

    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    files = [*filter(None, [loaded.file]), *loaded.settings.upstream.tls.files, *loaded.settings.oauth.tls.files]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(FileWatch(files, changed).run())
        while True:
            await asked.wait()
            asked.clear()
            manager.reloading()
            await reload.run()
            manager.reloaded()


def _open_admin(admin: AdminParts, log: Log, parts: AsyncExitStack) -> Listener:
    address, port = admin.settings().admin.address, AdminPort(admin)
    with _named("admin.address", address):
        # Of a Unix socket's callers, only those of the same user are operators.
        sockets = listen(address, 0o600)
    listener = Listener(sockets, port, log, count=lambda: len(port.connections), limit=descriptors.for_admin)
    parts.push_async_callback(port.close)
    parts.callback(listener.close)
    return listener


def _open_data_port(serving: Serving, log: Log) -> Listener:
    config = serving.engine.settings.listen
    tls = server_context(config.tls, "listen.tls")
    with _named("listen.address", config.address):
        sockets = listen(config.address, int(config.unix_mode, 8))
    return Listener(
        sockets,
        DataPort(serving),
        log,
        count=lambda: serving.connections.count,
        limit=lambda: descriptors.for_clients(serving.engine.settings.upstream.max_connections),
        tls=tls,
        # A client that stalls in the handshake is one that stalls in the head.
        handshake_timeout=config.header_timeout if tls else None,
    )


@contextmanager
def _named(key: str, address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else "the address is not usable"
        raise StartError(f"{key}: can't listen on {address}: {reason}") from exc


async def _drain(listener: Listener, connections: Connections, grace: float, stop: Stop) -> None:
    """Lets every request in flight end, for `grace` seconds; tunnels end with the last of them."""

    async def all_gone() -> None:
        await listener.settled()
        await connections.wait_empty()

    connections.drain()
    listener.close()
    idle_grace = min(IDLE_GRACE, grace)
    await _unless_hurried(stop, _within(idle_grace, all_gone()))
    connections.close_idle()
    await _unless_hurried(stop, _within(grace - idle_grace, all_gone()))
    connections.abort()


async def _within(seconds: float, waiting: Awaitable[None]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting


async def _unless_hurried(stop: Stop, waiting: Awaitable[None]) -> None:
    loop = asyncio.get_running_loop()
    tasks = {asyncio.ensure_future(waiting), loop.create_task(stop.hurried.wait())}
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


async def _measure_lag(metrics: Metrics) -> None:
    """How late the loop runs a timer is how long a request may have to wait for it."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_INTERVAL
        await asyncio.sleep(_LAG_INTERVAL)
        metrics.event_loop_lag.set(max(0.0, loop.time() - due))
