"""What the demo's two servers share: one handler behind a port on loopback."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from aiohttp import web

from proxy.settings import is_loopback_host

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# Seconds for what is in flight; aiohttp takes 0 for "for ever".
_SHUTDOWN_TIMEOUT = 0.01
# Enough for a burst of a thousand connections: with a full backlog, Linux makes a client wait for a second.
_BACKLOG = 1024


class LoopbackServer:
    """Serves `respond` from `start()` to `stop()`, and can be started again (`port` is the one it had).

    `requests` counts what has arrived.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.url = ""
        self.port = 0
        self._runner: web.ServerRunner | None = None

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        raise NotImplementedError

    async def start(self, host: str = "127.0.0.1", port: int = 0, ssl_context: ssl.SSLContext | None = None) -> None:
        """Listens. `port` 0: a free one. Raises OSError where the port is taken."""
        if not is_loopback_host(host):
            raise ValueError("the demo listens on loopback only")
        # The body is for the handler as it was sent; a handler ends when its client has gone.
        server = web.Server(self._count, access_log=None, auto_decompress=False, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_TIMEOUT)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=ssl_context, backlog=_BACKLOG)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"{'https' if ssl_context else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def stop(self) -> None:
        """Refuses connections from here on and drops those that are open, whatever is in flight."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @contextlib.asynccontextmanager
    async def running(self, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[Self]:
        """Started on a free port, and stopped at the end of the block."""
        await self.start(ssl_context=ssl_context)
        try:
            yield self
        finally:
            await self.stop()

    async def _count(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        return await self.respond(request)
