"""The composition root: builds the parts, serves, obeys signals, drains, and gives the exit code."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import NoReturn

from proxy.admin.app import AdminParts, AdminPort
from proxy.admin.history import History
from proxy.config import Loaded
from proxy.engine import Engine, open_exporter
from proxy.errors import StartError
from proxy.identity import Identity
from proxy.log import Log, capture_standard_logging, log_for
from proxy.loop import measure_lag, run_async
from proxy.metrics import Metrics, Traffic
from proxy.notify import ServiceManager
from proxy.plane import DataPlane
from proxy.reload import Reload
from proxy.server import descriptors
from proxy.server.drain import Stop, unless
from proxy.server.listener import Listener
from proxy.server.plane import OwnPlane
from proxy.server.sockets import listen, listen_together
from proxy.settings import Address, Settings, Shutdown
from proxy.tls import server_context
from proxy.tokens import TokenSource
from proxy.upstream.pool import UpstreamPool
from proxy.watch import FileWatch


def run(loaded: Loaded) -> int:
    """Runs the proxy in the foreground until a signal ends it; returns the exit code."""
    descriptors.raise_limit()
    return run_async(serve(loaded))


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
    async with AsyncExitStack() as parts:
        identity = Identity(settings.oauth, settings.oauth.clients[0].client_id.read(), metrics, log)
        plane = _data_plane(settings, identity.tokens, metrics.traffic, log)
        reload = Reload(loaded.again, plane, settings, identity, metrics=metrics, log=log)
        parts.push_async_callback(reload.close)
        parts.push_async_callback(plane.close)
        _publish(metrics, plane, reload, log)
        history, opened = History(metrics.traffic), asyncio.Event()
        admin = AdminParts(
            settings=lambda: reload.settings,
            origin=loaded.origin,
            metrics=metrics,
            token=lambda: reload.tokens.status(),
            workers=plane.workers,
            has_served=opened.is_set,
            descriptors=plane.descriptors,
            history=history,
            recent=plane.recent,
            update=plane.update,
            engine={"loop": _loop_name(), "transport": "aiofastnet", "parser": "llhttp"},
            stopping=lambda: bool(stop),
            refresh=lambda: reload.tokens.refresh(),
            stop=stop.ask,
        )
        admin_listener = _open_admin(admin, log, parts)
        identity.tokens.start()
        await unless(stop.asked, plane.open())
        opened.set()
        lag = measure_lag(lambda lag: metrics.event_loop_lag.set(max(lag, plane.lag)))
        # It begins last: who hears that the proxy is ready may send it SIGHUP.
        told = manager.keep_told(lambda: admin.readiness().reason)
        for work in (lag, history.keep(), _obey_changes(loaded, reload, manager), told):
            parts.callback(asyncio.get_running_loop().create_task(work).cancel)
        log.info(
            "listening",
            address=_listed(plane.addresses),
            admin=_listed(admin_listener.addresses),
            upstream=settings.upstream.url,
            config=loaded.origin,
        )
        if ready is not None:
            ready()
        await stop.asked.wait()
        log.info("stopping", in_flight=metrics.traffic.in_flight)
        await _end(plane, stop, reload.settings.shutdown, manager)
        log.info("stopped")
    return 0


async def _end(plane: DataPlane, stop: Stop, shutdown: Shutdown, manager: ServiceManager) -> None:
    manager.stopping(within=shutdown.delay + shutdown.grace)
    await unless(stop.hurried, asyncio.sleep(shutdown.delay))
    await plane.drain(stop)


def _publish(metrics: Metrics, plane: DataPlane, reload: Reload, log: Log) -> None:
    """What others keep is read at each scrape."""
    metrics.log_lines_dropped.read = lambda: log.dropped + plane.lines_dropped
    metrics.workers.read = plane.workers
    metrics.traffic.in_flight_limit = lambda: reload.settings.limits.max_in_flight


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
    address, port = admin.settings().admin.address, AdminPort(admin, descriptors.for_admin)
    with _named("admin.address", address):
        # Of a Unix socket's callers, only those of the same user are operators.
        sockets = listen(address, 0o600)
    listener = Listener(sockets, port, log, count=lambda: len(port.connections), limit=descriptors.for_admin)
    parts.push_async_callback(port.close)
    parts.callback(listener.close)
    return listener


def _data_plane(settings: Settings, tokens: TokenSource, traffic: Traffic, log: Log) -> DataPlane:
    config = settings.listen
    # What is wrong with the certificates is said before a port is taken.
    pool = UpstreamPool(settings.upstream, traffic)
    tls = server_context(config.tls, "listen.tls")
    with _named("listen.address", config.address):
        sockets = listen_together(config.address, int(config.unix_mode, 8), settings.workers)
    if settings.workers == 1:
        engine = Engine(settings, tokens, pool, open_exporter(settings.tracing, log))
        return OwnPlane(engine, sockets[0], tls, traffic=traffic, log=log)
    from proxy.workers.parent import Workers  # noqa: PLC0415 - most proxies have none

    return Workers(settings, tokens, sockets, traffic=traffic, log=log)


@contextmanager
def _named(key: str, address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else "the address is not usable"
        raise StartError(f"{key}: can't listen on {address}: {reason}") from exc
