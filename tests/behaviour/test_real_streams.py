"""Real clients of streams through the proxy: server-sent events one by one, and WebSocket messages of every size."""

import asyncio
import hashlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp
import httpx2
import pytest
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.behaviour.conftest import Node
from tests.behaviour.running import Launcher, Proxy
from tests.peers import TIMEOUT, Received, Upstream
from tests.real_parts import real_part

EVENTS = [str(number) for number in range(10)]
LARGE = b"large" * 2_000_000
Events = Callable[[str, Node], Iterator[str]]
Sight = tuple[str, int, str]  # of a message: the subprotocol, its size, its digest


def lines(*command: object) -> Iterator[str]:
    """What a program writes, line by line as it comes."""
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from (line.rstrip("\n") for line in process.stdout)
    assert process.returncode == 0


def curl(url: str, _node: Node) -> Iterator[str]:
    options = ("--disable", "--silent", "--no-buffer", "--noproxy", "*")
    fields = lines(real_part("curl", "curl"), *options, url)
    return (line.removeprefix("data: ") for line in fields if line.startswith("data: "))


def httpx(url: str, _node: Node) -> Iterator[str]:
    with httpx2.Client(trust_env=False) as client, client.sse(url) as source:
        yield from (event.data for event in source)


def event_source(url: str, node: Node) -> Iterator[str]:
    return lines(*node("events"), url)


@pytest.mark.parametrize("events", [curl, httpx, event_source])
def test_events(proxy: Proxy, upstream: Upstream, node: Node, events: Events) -> None:
    """A client of server-sent events has each of them before the next one is made (R123)."""
    seen = threading.Semaphore(0)

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in EVENTS:
            # An EventSource would connect again behind the last one, if it did not know that it is the last.
            kind = b"end" if event == EVENTS[-1] else b"message"
            data = b"event: %b\ndata: %b\n\n" % (kind, event.encode())
            sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))
            assert seen.acquire(timeout=TIMEOUT)
        sock.sendall(b"0\r\n\r\n")
        return True

    upstream.answer = answer
    received = []
    for event in events(f"http://localhost:{proxy.port}/events", node):
        received.append(event)
        seen.release()

    assert received == EVENTS


@contextmanager
def fragmenting_echo() -> Iterator[str]:
    """A WebSocket server that answers each message with the same one in fragments; gives its URL for `upstream.url`."""

    def handle(server: ServerConnection) -> None:
        for message in server:
            middle = len(message) // 2
            server.send(iter([message[:middle], message[middle:]]))

    with serve(handle, "127.0.0.1", 0, max_size=None, subprotocols=[Subprotocol("chat")]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(TIMEOUT)


def sight(protocol: str | None, message: bytes) -> Sight:
    return protocol or "", len(message), hashlib.sha256(message).hexdigest()


def undici(url: str, node: Node) -> list[Sight]:
    parts = (line.split(" ") for line in lines(*node("socket"), url))
    return [(protocol, int(size), digest) for protocol, size, digest in parts]


def aiohttps(url: str, _node: Node) -> list[Sight]:
    async def talk() -> list[Sight]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=0, compress=15, protocols=["chat"]) as client,
        ):
            await client.send_bytes(LARGE)
            large = await client.receive_bytes()
            await client.send_str("text")
            text = await client.receive_str()
            return [sight(client.protocol, large), sight(client.protocol, text.encode())]

    return asyncio.run(talk())


@pytest.mark.parametrize("messages", [undici, aiohttps])
def test_websocket(launch: Launcher, node: Node, messages: Callable[[str, Node], list[Sight]]) -> None:
    """A large binary message and a text come back whole, in fragments, and the subprotocol is the client's (R59)."""
    with fragmenting_echo() as url:
        proxy = launch(url)
        assert messages(f"ws://localhost:{proxy.port}/chat", node) == [sight("chat", LARGE), sight("chat", b"text")]
