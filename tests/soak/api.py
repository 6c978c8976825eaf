"""The API of a soak: each answer can be checked, and each request is refused that has no token of the provider's."""

import asyncio
import hashlib
import json
import time
from base64 import urlsafe_b64decode

from aiohttp import web

from proxy.demo.idp import DemoProvider
from proxy.demo.server import LoopbackServer

LARGE = 2**20
EVENTS = 5
# Seconds by which a clock may be wrong.
_LEEWAY = 1.0
_PAUSE = 0.02


def text(name: str) -> bytes:
    """What is at /text/NAME: an answer for somebody else is noticed."""
    return f"the text of {name}".encode()


def large(name: str) -> bytes:
    """What is at /large/NAME."""
    return f"{name:>16}".encode() * (LARGE // 16)


def digest(body: bytes) -> bytes:
    """The answer to a POST of `body`."""
    return hashlib.sha256(body).hexdigest().encode()


def event(name: str, number: int) -> bytes:
    """Of the stream at /events/NAME."""
    return f"data: {name} {number}\n\n".encode()


class Api(LoopbackServer):
    """`refused` counts the requests without a token that is valid; `tokens` are those that were."""

    def __init__(self, provider: DemoProvider) -> None:
        super().__init__()
        self.refused = 0
        self.tokens: dict[str, float] = {}
        self._provider = provider

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self._admits(request.headers.get("Authorization", "").removeprefix("Bearer ")):
            self.refused += 1
            return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        kind, _, name = request.path.removeprefix("/").partition("/")
        if request.method == "POST":
            return await self._digest(request)
        if kind == "events":
            return await self._events(request, name)
        if kind == "socket":
            return await self._echo(request)
        return web.Response(body=large(name) if kind == "large" else self.text(name))

    def text(self, name: str) -> bytes:
        return text(name)

    def _admits(self, token: str) -> bool:
        """Expires each token when it says so itself."""
        if token not in self.tokens:
            if token not in self._provider.tokens:
                return False
            payload = token.split(".")[1]
            self.tokens[token] = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
        return time.time() < self.tokens[token] + _LEEWAY

    async def _digest(self, request: web.BaseRequest) -> web.StreamResponse:
        received = hashlib.sha256()
        async for piece in request.content.iter_any():
            received.update(piece)
        return web.Response(body=received.hexdigest().encode())

    async def _events(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for number in range(EVENTS):
            await stream.write(event(name, number))
            await asyncio.sleep(_PAUSE)
        await stream.write_eof()
        return stream

    async def _echo(self, request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(message.data)
        return socket
