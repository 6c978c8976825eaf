"""The faults as a client sees them, over real sockets."""

import asyncio
import itertools

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError, ClientSession, web

from proxy.demo import faults
from proxy.demo.server import Handler, LoopbackServer


class Faulty(LoopbackServer):
    def __init__(self, fault: Handler) -> None:
        super().__init__()
        self._fault = fault

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._fault(request)


def test_an_answer_is_given_as_it_is() -> None:
    """A redirect with a Location is one of the answers that a provider should not give (F13)."""

    async def scene() -> None:
        redirect = faults.answer(307, headers={"Location": "http://127.0.0.1:9/trap"})
        async with Faulty(redirect).running() as server, ClientSession(server.url) as session:
            response = await session.post("/", allow_redirects=False)
            assert (response.status, response.headers["Location"]) == (307, "http://127.0.0.1:9/trap")

    asyncio.run(scene())


def test_no_bytes_close_the_connection_without_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """The client sees the connection end, and the server does not complain (F3)."""

    async def scene() -> None:
        async with Faulty(faults.raw([])).running() as server, ClientSession() as session:
            with pytest.raises(ClientConnectionError):
                await session.post(server.url)

    asyncio.run(scene())
    assert not caplog.records


def test_raw_bytes_can_be_a_truncated_body(caplog: pytest.LogCaptureFixture) -> None:
    """A body can end before its Content-Length (F9)."""
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n", b'\r\n{"acc']

    async def scene() -> None:
        async with Faulty(faults.raw(pieces)).running() as server, ClientSession() as session:
            response = await session.get(server.url)
            with pytest.raises(ClientPayloadError):
                await response.read()

    asyncio.run(scene())
    assert not caplog.records


def test_raw_bytes_can_be_endless_and_end_with_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """A head that never ends stops when the client gives up, and the server can stop (F15)."""
    pieces = itertools.chain([b"HTTP/1.1 200 OK\r\nX-A: "], itertools.repeat(b"a"))

    async def scene() -> None:
        async with Faulty(faults.raw(pieces)).running() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readexactly(100)
            writer.close()
            await writer.wait_closed()

    asyncio.run(scene())
    assert not caplog.records


def test_hanging_ends_with_the_server() -> None:
    """A request that is never answered does not keep the server from stopping (F2)."""

    async def scene() -> None:
        arrived = asyncio.Event()

        async def fault(request: web.BaseRequest) -> web.StreamResponse:
            arrived.set()
            return await faults.hang(request)

        async with ClientSession() as session:
            async with Faulty(fault).running() as server:
                asking = asyncio.ensure_future(session.get(server.url))
                await arrived.wait()
                assert not asking.done()
            with pytest.raises(ClientConnectionError):
                await asking

    asyncio.run(scene())
