"""Starting and stopping one of the demo's servers."""

import asyncio

import pytest
from aiohttp import ClientConnectionError, ClientSession, web

from proxy.demo.server import LoopbackServer


class Hello(LoopbackServer):
    async def respond(self, _request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="hello")


def test_it_can_go_down_and_come_back_on_the_same_port() -> None:
    """An outage is `stop()`, its end `start()` on the port it had (F3, F4)."""

    async def scene() -> None:
        server = Hello()
        await server.start()
        url = server.url
        async with ClientSession() as session:
            async with session.get(url) as response:
                assert await response.text() == "hello"
            await server.stop()
            with pytest.raises(ClientConnectionError):
                await session.get(url)
            await server.start(port=server.port)
            async with session.get(url) as response:
                assert response.status == 200
        assert (server.url, server.requests) == (url, 2)
        await server.stop()

    asyncio.run(scene())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_it_listens_on_loopback_only(host: str) -> None:
    """The demo is never reachable from another machine (R133)."""
    with pytest.raises(ValueError, match="loopback"):
        asyncio.run(Hello().start(host))
