"""WebSocket messages: a server that echoes them, and clients that keep one in flight on each connection.

Both ends send a frame that was made once, and compare what comes with the one that must come, so that the load costs
little more than its sockets. All of them share one event loop, in a thread.
"""

import asyncio
import base64
import hashlib
import secrets
import ssl
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import aiofastnet
import uvloop

from proxy.demo.certificates import Certificate

from .measure import BenchError

T = TypeVar("T")

_SIZE = 1024
_TIMEOUT = 30.0
_KEY = base64.b64encode(secrets.token_bytes(16))
_ACCEPT = base64.b64encode(hashlib.sha1(_KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n%sConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + _KEY + b"\r\n\r\n"
)
_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: " + _ACCEPT + b"\r\n\r\n"
)
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


def frame(payload: bytes, mask: bytes = b"") -> bytes:
    """A binary message of 126 to 65,535 bytes in one frame (RFC 6455 §5.2); a client's has a mask of four bytes."""
    head = bytes([0x82, 0x80 | 126 if mask else 126]) + len(payload).to_bytes(2, "big")
    if not mask:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


_MESSAGE = secrets.token_bytes(_SIZE)
_FROM_CLIENT = frame(_MESSAGE, secrets.token_bytes(4))
_FROM_SERVER = frame(_MESSAGE)


class _End(asyncio.Protocol):
    """One end of a connection: after the handshake it answers every frame that is `expected` with `answer`."""

    def __init__(self, expected: bytes, answer: bytes) -> None:
        self.messages = 0
        self.lost = asyncio.Event()
        self._expected = expected
        self._answer = answer
        self._rest = b""
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        if data == self._expected and not self._rest:  # nearly always
            self._whole()
            return
        self._rest += data
        while not self._is_open and b"\r\n\r\n" in self._rest:
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            self._is_open = self.opens(head)
        while self._is_open and len(self._rest) >= len(self._expected):
            if not self._rest.startswith(self._expected):
                self.transport.abort()
                return
            self._rest = self._rest[len(self._expected) :]
            self._whole()

    def _whole(self) -> None:
        self.messages += 1
        self.transport.write(self._answer)

    def opens(self, head: bytes) -> bool:
        """Whether messages follow after this head of a request or a response."""
        raise NotImplementedError


class _Server(_End):
    """Answers 401 without the token, 101 to a handshake, 200 to anything else."""

    def __init__(self, token: str, connected: list[_End]) -> None:
        super().__init__(_FROM_CLIENT, _FROM_SERVER)
        self._token = token.encode()
        self._connected = connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connected.append(self)

    def opens(self, head: bytes) -> bool:
        is_allowed = b" Bearer " + self._token + b"\r\n" in head + b"\r\n"
        is_handshake = b"\r\nupgrade: websocket\r\n" in head.lower() + b"\r\n"
        self.transport.write((_SWITCHING if is_handshake else _OK) if is_allowed else _REFUSED)
        return is_allowed and is_handshake


class _Client(_End):
    """`opened` is done when the tunnel is there; then one message is sent, and one for each that comes back."""

    def __init__(self, headers: tuple[str, ...], opened: asyncio.Future[None]) -> None:
        super().__init__(_FROM_SERVER, _FROM_CLIENT)
        self.opened = opened
        self._headers = headers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(_HANDSHAKE % "".join(f"{header}\r\n" for header in self._headers).encode())

    def opens(self, head: bytes) -> bool:
        if not head.startswith(b"HTTP/1.1 101 "):
            status_line = head.partition(b"\r\n")[0].decode("latin-1")
            self.opened.set_exception(BenchError(f"no tunnel: {status_line}"))
            return False
        self.opened.set_result(None)
        self.transport.write(self._answer)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.opened.done():
            self.opened.set_exception(BenchError("no tunnel: the connection was closed"))


class Clients:
    """Connections to one URL, each with one message on its way."""

    def __init__(self, ends: Sequence[_Client], loop: asyncio.AbstractEventLoop) -> None:
        self._ends = ends
        self._loop = loop

    def exchange(self, seconds: float) -> int:
        """How many messages come back within that time. Raises `BenchError` if a connection is lost."""
        return _run(self._loop, self._exchange(seconds))

    async def _exchange(self, seconds: float) -> int:
        before = self._messages()
        await asyncio.sleep(seconds)
        lost = sum(end.lost.is_set() for end in self._ends)
        if lost:
            raise BenchError(f"{lost} tunnels broke")
        return self._messages() - before

    def _messages(self) -> int:
        return sum(end.messages for end in self._ends)


class Echo:
    """The server, at `port`, and the loop that the clients share with it."""

    def __init__(self, port: int, ca: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.port = port
        self._loop = loop
        self._trust = ssl.create_default_context(cafile=ca)

    @contextmanager
    def clients(self, url: str, headers: tuple[str, ...], number: int) -> Iterator[Clients]:
        """Raises `BenchError` if a handshake fails."""
        ends: list[_Client] = []
        try:
            while len(ends) < number:
                ends.append(_run(self._loop, self._connected(url, headers)))
            yield Clients(ends, self._loop)
        finally:
            _run(self._loop, _hang_up(ends))

    async def _connected(self, url: str, headers: tuple[str, ...]) -> _Client:
        parts = urlsplit(url)
        client = _Client(headers, self._loop.create_future())
        trust = self._trust if parts.scheme == "https" else None
        try:
            await self._loop.create_connection(lambda: client, parts.hostname or "", parts.port or 0, ssl=trust)
            await asyncio.wait_for(client.opened, _TIMEOUT)
        except OSError as exc:
            raise BenchError(f"no tunnel: {exc}") from exc
        return client


@contextmanager
def echoing(certificate: Certificate, ca: Path, token: str) -> Iterator[Echo]:
    """The server answers handshakes that carry the token until the end of the block."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    loop = aiofastnet.patch_loop(uvloop.new_event_loop())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    connected: list[_End] = []
    try:
        server = _run(loop, loop.create_server(lambda: _Server(token, connected), "127.0.0.1", 0, ssl=context))
        try:
            yield Echo(server.sockets[0].getsockname()[1], ca, loop)
        finally:
            server.close()
            _run(loop, _hang_up(connected))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _hang_up(ends: Sequence[_End]) -> None:
    for end in ends:
        end.transport.abort()
    for end in ends:
        await end.lost.wait()


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result()
