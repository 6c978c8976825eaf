"""The composition root: builds the parts, serves, obeys signals, drains, and gives the exit code."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress

from aiohttp import web

from proxy.admin.app import AdminParts, AdminPort
from proxy.errors import StartError
from proxy.idp import Provider
from proxy.log import Log, capture_standard_logging, log_for
from proxy.loop import loop_factory
from proxy.metrics import Metrics
from proxy.server import DataPort
from proxy.server.listener import Listener
from proxy.server.serving import Connections, Serving
from proxy.server.sockets import claim, listen
from proxy.settings import Address, Settings
from proxy.tls import server_context
from proxy.tokens import TokenSource
from proxy.upstream.pool import UpstreamPool

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


def run(settings: Settings, *, origin: str) -> int:
    """Runs the proxy in the foreground until a signal ends it; returns the exit code."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(serve(settings, origin=origin))


async def serve(settings: Settings, *, origin: str, ready: Callable[[], None] | None = None) -> int:
    """As `run`, on the running loop; `ready` is called once both ports are open.

    Raises StartError. The token is fetched in the background: a provider that is down keeps nothing from starting.
    """
    log = log_for(settings.log, sys.stderr)
    capture_standard_logging(log)
    stop = Stop()
    _obey_signals(stop)
    metrics = Metrics()
    pool = UpstreamPool(settings.upstream, metrics.traffic)
    metrics.traffic.pool = pool.counts
    async with AsyncExitStack() as parts:
        provider = Provider(settings.oauth)
        parts.push_async_callback(provider.close)
        tokens = TokenSource(settings.oauth, provider, metrics, log)
        parts.push_async_callback(tokens.stop)
        parts.callback(pool.close)
        serving = Serving(settings, tokens=tokens, pool=pool, traffic=metrics.traffic, log=log)
        admin = AdminParts(
            settings=settings,
            origin=origin,
            metrics=metrics,
            token=tokens.status,
            pool=pool.counts,
            recent=lambda: [record.fields() for record in reversed(serving.recent)],
            engine={"loop": _loop_name(), "transport": "aiofastnet", "parser": "llhttp"},
            stopping=lambda: bool(stop),
            refresh=tokens.refresh,
            stop=stop.ask,
        )
        await _open_admin(settings.admin.address, admin, parts)
        listener = _open_data_port(serving, log)
        parts.callback(listener.close)
        tokens.start()
        lag = asyncio.get_running_loop().create_task(_measure_lag(metrics))
        parts.callback(lag.cancel)
        log.info("listening", address=str(settings.listen.address), upstream=settings.upstream.url, config=origin)
        if ready is not None:
            ready()
        await stop.asked.wait()
        log.info("stopping", in_flight=metrics.traffic.in_flight)
        await _unless_hurried(stop, asyncio.sleep(settings.shutdown.delay))
        listener.close()
        await _drain(serving.connections, settings.shutdown.grace, stop)
        log.info("stopped")
    return 0


def _loop_name() -> str:
    return "asyncio" if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop) else "uvloop"


def _obey_signals(stop: Stop) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.ask))
        else:
            loop.add_signal_handler(number, stop.ask)


async def _open_admin(address: Address, admin: AdminParts, parts: AsyncExitStack) -> None:
    runner = web.ServerRunner(AdminPort(admin), shutdown_timeout=1)
    await runner.setup()
    parts.push_async_callback(runner.cleanup)
    site: web.BaseSite
    with _named("admin.address", address):
        if address.path is not None:
            claim(address.path)
            site = web.UnixSite(runner, address.path)
        else:
            site = web.TCPSite(runner, address.host, address.port)
        await site.start()


def _open_data_port(serving: Serving, log: Log) -> Listener:
    config = serving.settings.listen
    tls = server_context(config.tls, "listen.tls")
    with _named("listen.address", config.address):
        sockets = listen(config.address, int(config.unix_mode, 8))
    return Listener(sockets, DataPort(serving), serving, tls, log)


@contextmanager
def _named(key: str, address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else "the address is not usable"
        raise StartError(f"{key}: can't listen on {address}: {reason}") from exc


async def _drain(connections: Connections, grace: float, stop: Stop) -> None:
    """Lets every request in flight end, for `grace` seconds; tunnels end with the last of them."""
    connections.drain()
    idle_grace = min(IDLE_GRACE, grace)
    await _unless_hurried(stop, _within(idle_grace, connections.wait_empty()))
    connections.close_idle()
    await _unless_hurried(stop, _within(grace - idle_grace, connections.wait_empty()))
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
