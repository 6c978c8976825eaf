"""The listener's side of the data port: makes the connections, and ends them."""

from typing import Any, NoReturn

from aiohttp import web
from aiohttp.http_parser import HttpRequestParser

from proxy.errors import StartError
from proxy.server.connection import ClientConnection
from proxy.server.serving import Serving


class DataPort(web.Server):
    """The protocol factory of the data port. Raises StartError where aiohttp can't be trusted to parse."""

    def __init__(self, serving: Serving) -> None:
        super().__init__(_unused, handler_cancellation=True)
        _require_c_parser()
        self._serving = serving

    def __call__(self) -> ClientConnection:
        return ClientConnection(self, self._serving, self._loop)


async def _unused(request: Any) -> NoReturn:
    """web.Server wants a handler; `ClientConnection.start` serves instead."""
    raise NotImplementedError(request)


def _require_c_parser() -> None:
    """The pure-Python parser of aiohttp accepts what the C parser refuses (R31)."""
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise StartError(
            "aiohttp runs without its C extensions: unset AIOHTTP_NO_EXTENSIONS, or install a wheel of aiohttp"
        )
