"""Probes, metrics, status and the two requests of an operator, on a listener of their own (R143).

The probes and `/metrics` answer anybody who can connect. Everything else is for a person at this machine: the Host must
be on the list and a browser may ask only for what is served here, so that no web page reaches it (R134-R137).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from time import monotonic, time
from typing import NamedTuple, cast

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from proxy import __version__
from proxy.admin.advice import Facts, Use, advice
from proxy.admin.dashboard import File, dashboard
from proxy.admin.history import BUCKET_SECONDS, History
from proxy.admin.status import (
    Readiness,
    clients_view,
    counters,
    errors_view,
    health,
    jwks_view,
    moment,
    readiness,
    recent_view,
    token_view,
    workers_view,
)
from proxy.core.policy import host_allowed, host_names
from proxy.core.problem import problem_document
from proxy.credential import TokenStatus
from proxy.errors import (
    BadRequest,
    BrowserRefused,
    CallerRefused,
    HostNotAllowed,
    MethodNotSupported,
    NotAllowed,
    NotFound,
    ProxyError,
    TokenUnavailable,
    Unavailable,
)
from proxy.metrics import Metrics, WorkerStatus, samples
from proxy.record import RequestRecord
from proxy.settings import Settings, is_loopback_host

# Also the time in which a request head must be complete.
_IDLE_TIMEOUT = 75.0
# How long a connection may be idle while there are as many as there may be: nobody can keep a probe out with idle ones.
_IDLE_WHEN_FULL = 1.0
_HEADERS = {
    "Cache-Control": "no-store",
    # The dashboard is these files and asks this port; whatever else turns up in a page is not run, shown or sent.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "thg-proxy",
    "X-Content-Type-Options": "nosniff",
}
_OPEN_PATHS = frozenset({"/livez", "/startupz", "/readyz", "/metrics"})
_OWN_PAGES = frozenset({"none", "same-origin"})

_READ, _ACT = ("GET", "HEAD"), ("POST",)

_Handler = Callable[[web.BaseRequest], Awaitable[web.Response]]


class _Route(NamedTuple):
    allow: tuple[str, ...]
    handler: _Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminParts:
    """What the admin port shows and sets in motion.

    `settings`: those in force, of which a reload makes others. `origin`: where the configuration came from. `engine`:
    names of event loop, transport and parser. `workers`: the processes that serve; `has_served`: has there been
    one? `descriptors`: how many are open and how many may be, if that is known. `recent`: the last requests, newest
    first. `update`: brings the counts of the workers up to date. `refresh`: True when a new token was obtained.
    """

    settings: Callable[[], Settings]
    origin: str
    metrics: Metrics
    history: History
    engine: dict[str, str]
    token: Callable[[], TokenStatus]
    workers: Callable[[], Sequence[WorkerStatus]]
    has_served: Callable[[], bool]
    descriptors: Callable[[], tuple[int, int] | None]
    recent: Callable[[], Iterable[RequestRecord]]
    update: Callable[[], Awaitable[None]]
    stopping: Callable[[], bool]
    refresh: Callable[[], Awaitable[bool]]
    stop: Callable[[], None]

    def count_serving(self) -> int:
        return sum(worker.state in ("serving", "stopping") for worker in self.workers())

    def readiness(self) -> Readiness:
        return readiness(self.token(), is_served=self.count_serving() > 0, stopping=self.stopping())


class AdminPort(web.Server):
    """The server of the admin port; needs a running event loop. `limit`: how many connections there may be."""

    def __init__(self, parts: AdminParts, limit: Callable[[], float]) -> None:
        super().__init__(self._answer)
        self._parts = parts
        self._limit = limit
        self._started = monotonic()
        self._routes = {
            "/livez": _Route(_READ, self._livez),
            "/startupz": _Route(_READ, self._startupz),
            "/readyz": _Route(_READ, self._readyz),
            "/metrics": _Route(_READ, self._metrics),
            "/status": _Route(_READ, self._status),
            "/refresh": _Route(_ACT, self._refresh),
            "/stop": _Route(_ACT, self._stop),
        }
        if parts.settings().admin.dashboard:
            self._routes |= {path: _Route(_READ, partial(_file, file)) for path, file in dashboard().items()}

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=self._loop,
            keepalive_timeout=_IDLE_TIMEOUT,
            access_log=None,  # type: ignore[arg-type] # documented for web.Server
        )

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if self._is_full:
            self._loop.call_later(_IDLE_WHEN_FULL, self._make_room)

    @property
    def _is_full(self) -> bool:
        return len(self.connections) >= self._limit()

    def _make_room(self) -> None:
        if self._is_full:
            for connection in self.connections:
                cast(_Connection, connection).close_idle(_IDLE_WHEN_FULL)

    async def close(self) -> None:
        """Ends all connections; requests in flight have a second."""
        self.pre_shutdown()
        await self.shutdown(1)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.partition("?")[0]
        try:
            if path not in _OPEN_PATHS:
                self._check_caller(request)
            response = await self._handler(path, request.method)(request)
        except ProxyError as error:
            response = _problem(error)
            if isinstance(error, MethodNotSupported):
                # RFC 9110 §15.5.6: a 405 names what is allowed.
                response.headers["Allow"] = ", ".join(self._routes[path].allow)
        return _complete(response)

    def _check_caller(self, request: web.BaseRequest) -> None:
        # Only HTTP/1.0 has requests without Host; a browser, the one to be wary of, always sends it.
        host = request.headers.get("Host")
        allowed = host_names(self._parts.settings().policy.allowed_hosts)
        if host is not None and not host_allowed(host.encode(errors="surrogateescape"), allowed):
            raise HostNotAllowed
        if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") not in _OWN_PAGES:
            raise BrowserRefused("A web page made the request, and the admin port refuses these.")

    def _handler(self, path: str, method: str) -> _Handler:
        route = self._routes.get(path)
        if route is None:
            raise NotFound
        if method not in route.allow:
            raise MethodNotSupported(f"This path answers {' and '.join(route.allow)}.")
        return route.handler

    async def _livez(self, _request: web.BaseRequest) -> web.Response:
        return _json({"status": "ok"})

    async def _startupz(self, _request: web.BaseRequest) -> web.Response:
        if self._parts.token().ever_obtained and self._parts.has_served():
            return _json({"status": "ok"})
        return _json({"status": "starting"}, status=503)

    async def _readyz(self, _request: web.BaseRequest) -> web.Response:
        state = self._parts.readiness()
        document = {"ready": state.ready, "status": state.status, "reason": state.reason}
        return _json(document, status=200 if state.ready else 503)

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        await self._parts.update()
        # Takes milliseconds, which the data port would feel.
        body = await asyncio.to_thread(encode, self._parts.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _status(self, _request: web.BaseRequest) -> web.Response:
        parts = self._parts
        await parts.update()
        token, traffic, history = parts.token(), parts.metrics.traffic, parts.history
        facts = self._facts(token)
        state, found = parts.readiness(), advice(facts)
        return _json(
            {
                "version": __version__,
                "time": moment(time()),
                "uptime_seconds": round(monotonic() - self._started, 3),
                "health": health(state, found),
                "state": state.status,
                "reason": state.reason,
                "warnings": [one._asdict() for one in found],
                "config": parts.origin,
                "token": token_view(token),
                "clients": clients_view(token.clients),
                "clock_skew_seconds": facts.clock_skew,
                "jwks": jwks_view(token.jwks),
                "upstream": {"url": parts.settings().upstream.url, "connections": traffic.pool()},
                "counters": counters(traffic),
                "limits": {
                    "in_flight": facts.in_flight._asdict(),
                    "descriptors": facts.descriptors and facts.descriptors._asdict(),
                },
                "errors": errors_view(traffic.errors, history.errors()),
                "history": history.document(),
                "engine": parts.engine,
                "workers": workers_view(parts.workers()),
                "recent": recent_view(parts.recent()),
            }
        )

    def _facts(self, token: TokenStatus) -> Facts:
        parts = self._parts
        requests, failures = parts.history.lately(60 // BUCKET_SECONDS)
        return Facts(
            token=token,
            clock_skew=samples(parts.metrics.clock_skew)["thg_proxy_clock_skew_seconds"],
            workers=Use(parts.count_serving(), parts.settings().workers),
            in_flight=Use(parts.metrics.traffic.in_flight, parts.settings().limits.max_in_flight),
            descriptors=None if (found := parts.descriptors()) is None else Use(*found),
            requests=requests,
            failures=failures,
        )

    async def _refresh(self, request: web.BaseRequest) -> web.Response:
        _require_loopback(request)
        if await self._parts.refresh():
            return _json({"status": "ok", "generation": self._parts.token().generation})
        raise TokenUnavailable(
            "No new token could be obtained. GET /status has the reason.",
            retry_after=self._parts.token().retry_after or 1,
        )

    async def _stop(self, request: web.BaseRequest) -> web.Response:
        _require_loopback(request)
        if not self._parts.settings().admin.allow_stop:
            raise NotAllowed("This needs `allow_stop: true` in the section `admin` of the configuration.")
        self._parts.stop()
        return _json({"status": "stopping"}, status=202)


class _Connection(web.RequestHandler):
    def close_idle(self, seconds: float) -> None:
        """Ends the connection if it has waited for a whole request that long."""
        idle_since = self._next_keepalive_close_time - _IDLE_TIMEOUT
        if self._waiter is not None and self._loop.time() - idle_since >= seconds:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  it repeats the client's bytes
    ) -> web.StreamResponse:
        """The answer to what is not HTTP (400) and to a handler's failure (500); aiohttp's own would quote them."""
        error = BadRequest() if status == BadRequest.status else ProxyError()
        if not isinstance(error, BadRequest):
            self.log_exception("Error handling request", exc_info=exc)
        response = _complete(_problem(error))
        response.force_close()
        return response


async def _file(file: File, _request: web.BaseRequest) -> web.Response:
    return web.Response(body=file.body, content_type=file.content_type, charset="utf-8")


def _require_loopback(request: web.BaseRequest) -> None:
    """By the socket's peer; a Unix socket, whose peer has no address, is reached from this machine only."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if isinstance(peer, tuple) and not is_loopback_host(peer[0]):
        raise CallerRefused("Only a caller on this machine may ask for this.")


def _json(document: Mapping[str, object], status: int = 200) -> web.Response:
    # Escapes all that is not ASCII: a peer's text can't make a document that is not JSON.
    body = json.dumps(document).encode() + b"\n"
    return web.Response(body=body, status=status, content_type="application/json")


def _problem(error: ProxyError) -> web.Response:
    request_id = token_hex(16)
    response = web.Response(
        body=problem_document(error, request_id), status=error.status, content_type="application/problem+json"
    )
    response.headers["X-Request-Id"] = request_id
    if isinstance(error, Unavailable):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _complete(response: web.Response) -> web.Response:
    response.headers.update(_HEADERS)
    return response
