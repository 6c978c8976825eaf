"""The other ends of the proxy in tests: a recording upstream, a trap, a raw client.

Threads and blocking sockets only, so that nothing in them shares an event loop, or a library, with what is tested.
"""

import json
import re
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Never, Self

TIMEOUT = 20.0
STALL = 0.5  # seconds in which a peer that wants to read has read something


@dataclass
class Received:
    """One request, as its bytes came."""

    head: bytes
    body: bytes
    connection: int

    @property
    def request_line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def target(self) -> bytes:
        return self.request_line.split(b" ")[1]

    @property
    def lines(self) -> list[bytes]:
        return self.head.split(b"\r\n")[1:-2]

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a field, in order."""
        pairs = (line.split(b":", 1) for line in self.lines)
        return [value.strip() for key, value in pairs if key.lower() == name.lower()]


Answer = bytes | Callable[["Received", socket.socket], bool]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class BodyCut(Exception):
    """The client ended the connection inside a request."""


@dataclass
class Upstream:
    """Records every request and every connection, and answers with `answer`.

    An answer is bytes, or a function that gets the request and the socket, and says whether the connection goes on.
    `when_head` is called as soon as a head is there, before the body is read, and may answer already; it returns True
    to end the connection. `take_body` reads the body itself, answers, and says whether the connection goes on.
    """

    answer: Answer = OK
    tls: ssl.SSLContext | None = None
    when_head: Callable[[bytes, socket.socket], bool | None] | None = None
    take_body: Callable[["Reader", socket.socket], bool] | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    cut: threading.Event = field(default_factory=threading.Event)  # a client has gone in the middle of something
    raw_bytes: bytearray = field(default_factory=bytearray)  # every byte that was received after the TLS handshake

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._arrived = threading.Condition()
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_listening()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Closes those that are open, whatever is in flight."""
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def stop_listening(self) -> None:
        # close() alone leaves a thread that waits in accept().
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    def wait_for(self, count: int) -> list[Received]:
        """Returns once `count` requests have come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests) >= count, TIMEOUT), f"{len(self.requests)} came"
        return self.requests

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with closing(sock), suppress(OSError):
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            sock.settimeout(TIMEOUT)
            self._sockets.add(sock)
            try:
                while self._exchange(sock, number):
                    pass
            except (BodyCut, ConnectionError):
                self.cut.set()
            finally:
                self._sockets.discard(sock)
                sock.close()

    def _exchange(self, sock: socket.socket, number: int) -> bool:
        reader = Reader(sock, self)
        head = reader.head()
        if not head:
            return False
        if self.when_head is not None and self.when_head(head, sock):
            return False
        if self.take_body is not None:
            return self.take_body(reader, sock)
        received = Received(head, reader.body(head), number)
        with self._arrived:
            self.requests.append(received)
            self._arrived.notify_all()
        if callable(self.answer):
            return self.answer(received, sock)
        sock.sendall(self.answer)
        return True


class Reader:
    """Reads one message from a blocking socket."""

    def __init__(self, sock: socket.socket, log: Upstream | None = None) -> None:
        self._sock = sock
        self._log = log
        self._buffer = bytearray()

    def _more(self) -> bool:
        data = self._sock.recv(65536)
        if self._log is not None:
            self._log.raw_bytes += data
        self._buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if not self._more():
                raise BodyCut
        return self._take(self._buffer.index(mark) + len(mark))

    def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._more():
                raise BodyCut
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def head(self) -> bytes:
        """Up to and with the empty line; nothing where the peer has closed."""
        if not self._buffer and not self._more():
            return b""
        return self._until(b"\r\n\r\n")

    def body(self, head: bytes) -> bytes:
        if length := re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", head):
            return self.exactly(int(length[1]))
        if re.search(rb"(?i)\r\ntransfer-encoding: chunked\r\n", head):
            return self._chunks()
        return b""

    def chunk(self) -> bytes:
        """The next chunk, empty at the end."""
        size = int(self._until(b"\r\n"), 16)
        return self.exactly(size + 2)[:-2]

    def _chunks(self) -> bytes:
        return b"".join(iter(self.chunk, b""))

    def rest(self) -> bytes:
        """Everything until the peer closes."""
        with suppress(ConnectionError):
            while self._more():
                pass
        return bytes(self._buffer)


@dataclass
class Response:
    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    def values(self, name: bytes) -> list[bytes]:
        pairs = (line.split(b":", 1) for line in self.head.split(b"\r\n")[1:-2])
        return [value.strip() for key, value in pairs if key.lower() == name.lower()]


class Client:
    """A raw connection to the proxy: to a port of this machine, or one that is made already."""

    def __init__(self, to: int | socket.socket) -> None:
        self.sock = socket.create_connection(("127.0.0.1", to), timeout=TIMEOUT) if isinstance(to, int) else to
        self._reader = Reader(self.sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def get(self, target: bytes = b"/a", *fields: bytes) -> Response:
        """One GET, and its response."""
        self.send(request(b"GET", target, *fields))
        return self.response()

    def response(self, *, to_head: bool = False) -> Response:
        head = self._reader.head()
        bodiless = to_head or head[9:12] in (b"204", b"304")
        return Response(head, b"" if bodiless else self._reader.body(head))

    def head(self) -> bytes:
        """The head of a response whose body is read piece by piece."""
        return self._reader.head()

    def chunk(self) -> bytes:
        """The next chunk of a body, empty at the end."""
        return self._reader.chunk()

    def receive(self, size: int) -> bytes:
        """The next `size` bytes, whatever they are."""
        return self._reader.exactly(size)

    def rest(self) -> bytes:
        """Everything until the proxy closes."""
        return self._reader.rest()

    @property
    def is_closed(self) -> bool:
        """Waits for the proxy to close; False if bytes come instead."""
        return self.rest() == b""


def request(method: bytes, target: bytes, *fields: bytes, body: bytes = b"", host: bytes = b"localhost") -> bytes:
    """A request's bytes; a `Content-Length` is added for a body, unless a field frames it."""
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: " + host, *fields]
    if body and not any(re.match(rb"(?i)(content-length|transfer-encoding):", line) for line in fields):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def http_answer(status: int, body: bytes, *fields: bytes) -> bytes:
    """A response's bytes."""
    lines = [b"HTTP/1.1 %d Status" % status, *fields, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def token_answer(access_token: str = "first", **members: object) -> bytes:
    """What a token endpoint answers (RFC 6749 §5.1); an hour of life, unless `expires_in` says something else."""
    answer = {"access_token": access_token, "token_type": "bearer", "expires_in": 3600} | members
    return http_answer(200, json.dumps(answer).encode(), b"Content-Type: application/json")


class Minting:
    """A token endpoint's answers: token-1, token-2 and so on. `moments`: when each was asked for (monotonic)."""

    def __init__(self, **members: object) -> None:
        self.members = members
        self.moments: list[float] = []

    def __call__(self, _received: Received, sock: socket.socket) -> bool:
        self.moments.append(time.monotonic())
        sock.sendall(token_answer(f"token-{len(self.moments)}", **self.members))
        return True


def reset(_received: Received, sock: socket.socket) -> bool:
    """An answer that is a reset of the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return False


def mute(_received: Received, sock: socket.socket) -> bool:
    """No answer; the connection stays open until the client closes it."""
    sock.recv(1)
    return False


class Slow:
    """An API that answers in two pieces, the second when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, _received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none")
        self.go_on.wait(TIMEOUT)
        sock.sendall(b"two")
        return True


class MuteTls(ssl.SSLContext):
    """A server that takes what a client sends for a handshake, and says nothing."""

    def wrap_socket(self, sock: socket.socket, *_: Any, **_options: Any) -> Never:
        while sock.recv(65536):
            pass
        raise ConnectionAbortedError


class Load:
    """Steady traffic: a GET, a POST whose body is streamed and a HEAD over and over, each on a connection of its own
    that is kept, together about a hundred requests a second.
    """

    PACE = 0.02  # seconds between an answer and the next request
    REQUESTS = {  # noqa: RUF012 - nobody changes it
        b"GET": [b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        b"HEAD": [b"HEAD /a HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        b"POST": [
            b"POST /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"400\r\n" + b"x" * 1024 + b"\r\n",
            b"400\r\n" + b"y" * 1024 + b"\r\n0\r\n\r\n",
        ],
    }

    def __init__(self, port: int) -> None:
        self._port = port
        self._stopped = threading.Event()
        self._answered = threading.Condition()
        self._round = 0
        self._statuses: dict[int, list[int]] = defaultdict(list)
        self._workers = [threading.Thread(target=self._work, args=(method,), daemon=True) for method in self.REQUESTS]

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for worker in self._workers:
            worker.join(TIMEOUT)

    @property
    def statuses(self) -> set[int]:
        """Of all answers until now; 0 stands for none."""
        return {status for statuses in list(self._statuses.values()) for status in statuses}

    @property
    def count(self) -> int:
        """Of all answers until now."""
        return sum(map(len, list(self._statuses.values())))

    def next(self, count: int = 20) -> set[int]:
        """The statuses of `count` requests at least, all of which are sent from here on."""
        with self._answered:
            self._round += 1
            seen = self._statuses[self._round]
            assert self._answered.wait_for(lambda: len(seen) >= count, TIMEOUT), f"{len(seen)} answers"
            return set(seen)

    def _work(self, method: bytes) -> None:
        while not self._stopped.is_set():
            with Client(self._port) as client:
                while not self._stopped.wait(self.PACE) and self._exchange(client, method):
                    pass

    def _exchange(self, client: Client, method: bytes) -> bool:
        """One request; False where its connection can't be used for another."""
        number, response = self._round, None
        with suppress(OSError, BodyCut, IndexError):
            for piece in self.REQUESTS[method]:
                client.send(piece)
            answer = client.response(to_head=method == b"HEAD")
            status, response = answer.status, answer
        with self._answered:
            self._statuses[number].append(status if response else 0)
            self._answered.notify_all()
        return response is not None and response.values(b"Connection") != [b"close"]


def flood(sock: socket.socket, data: bytes, stalled: threading.Event) -> None:
    """Sends all of `data`, and tells when the peer takes no more of it for a while."""
    pending = memoryview(data)
    sock.settimeout(STALL)
    while pending:
        try:
            pending = pending[sock.send(pending) :]
        except TimeoutError:
            stalled.set()
            sock.settimeout(TIMEOUT)


@contextmanager
def blackhole() -> Iterator[int]:
    """A port that takes no connection and refuses none: nobody accepts, and its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as waiting:
        for _ in range(4):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


@contextmanager
def trap() -> Iterator["Trap"]:
    """A listener that nobody may connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Trap(listener)


@dataclass
class Trap:
    listener: socket.socket

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    @property
    def hits(self) -> int:
        """How many connections wait to be accepted."""
        self.listener.setblocking(False)
        count = 0
        with suppress(BlockingIOError):
            while True:
                self.listener.accept()[0].close()
                count += 1
        return count


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Different ones."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(sock.getsockname()[1]) for sock in sockets]
