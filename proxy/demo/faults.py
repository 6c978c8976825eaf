"""Handlers that misbehave on purpose, to stand in for a server's own."""

import asyncio
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from aiohttp import web

from proxy.demo.server import Handler

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def answer(status: int = 200, body: bytes = b"", headers: Mapping[str, str] = _NO_HEADERS) -> Handler:
    """This answer, whatever was asked."""

    async def handle(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return handle


def held(gate: asyncio.Event, then: Handler) -> Handler:
    """The answer of `then`, once `gate` is set."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await gate.wait()
        return await then(request)

    return handle


async def hang(_request: web.BaseRequest) -> web.StreamResponse:
    """No answer, on a connection that stays open."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def raw(pieces: Iterable[bytes], pause: float = 0) -> Handler:
    """These bytes in place of an HTTP response, `pause` seconds after each piece; then the connection is cut.

    `pieces` may be endless. No piece: the connection closes without an answer.
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        for piece in pieces:
            if request.transport is None:
                break
            request.transport.write(piece)
            await request.writer.drain()
            await asyncio.sleep(pause)
        if request.transport is not None:
            request.transport.close()
        return web.Response()

    return handle
