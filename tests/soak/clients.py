"""Clients of every kind, each of which does the same over and over, and looks at what it gets."""

import json
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

from tests.peers import BodyCut, Client, Response, request
from tests.soak.api import EVENTS, LARGE, digest, event, large, text

_JOIN = 30.0


class Failed(Exception):
    """What was wrong with an answer, in a word or two."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """`failure` is empty where all went well."""

    kind: str
    began: float
    ended: float
    failure: str


@dataclass(frozen=True, slots=True)
class Kind:
    """`exchange` gets a connection, and a name that nobody else has. Raises Failed or OSError."""

    exchange: Callable[[Client, str], None]
    keeps: bool = True
    pace: float = 0.05  # seconds between two of them


def _check(response: Response, expected: bytes) -> None:
    if response.status != 200:
        raise Failed(f"{response.status} {_code(response.body)}".strip())
    if response.body != expected:
        raise Failed("wrong body")


def _code(body: bytes) -> str:
    with suppress(ValueError, LookupError, TypeError):
        return str(json.loads(body)["code"])
    return ""


def _get(client: Client, name: str) -> None:
    _check(client.get(f"/text/{name}".encode()), text(name))


def _head(client: Client, name: str) -> None:
    client.send(request(b"HEAD", f"/text/{name}".encode()))
    response = client.response(to_head=True)
    _check(response, b"")
    if response.values(b"Content-Length") != [b"%d" % len(text(name))]:
        raise Failed("wrong length")


def _post(client: Client, name: str) -> None:
    body = name.encode() * 100
    client.send(request(b"POST", b"/digest", body=body))
    _check(client.response(), digest(body))


def _post_chunks(client: Client, name: str) -> None:
    piece = name.encode() * 100
    client.send(request(b"POST", b"/digest", b"Transfer-Encoding: chunked"))
    for _ in range(3):
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    client.send(b"0\r\n\r\n")
    _check(client.response(), digest(piece * 3))


def _upload(client: Client, name: str) -> None:
    client.send(request(b"POST", b"/digest", body=large(name)))
    _check(client.response(), digest(large(name)))


def _download(client: Client, name: str) -> None:
    _check(client.get(f"/large/{name}".encode()), large(name))


def _events(client: Client, name: str) -> None:
    _check(client.get(f"/events/{name}".encode()), b"".join(event(name, number) for number in range(EVENTS)))


def _websocket(client: Client, name: str) -> None:
    try:
        with connect("ws://localhost/socket", sock=client.sock, proxy=None) as websocket:
            for message in (name.encode(), large(name)[: LARGE // 4]):
                websocket.send(message)
                if websocket.recv() != message:
                    raise Failed("wrong message")
    except InvalidStatus as exc:
        raise Failed(f"{exc.response.status_code} {_code(bytes(exc.response.body))}") from exc
    except (WebSocketException, EOFError) as exc:
        raise Failed(type(exc).__name__) from exc


def _leave_early(client: Client, name: str) -> None:
    """Before the answer, in the middle of it, or in the middle of the request."""
    match int(name.rpartition("-")[2]) % 3:
        case 0:
            client.send(request(b"GET", f"/events/{name}".encode()))
        case 1:
            client.send(request(b"GET", f"/large/{name}".encode()))
            client.head()
        case 2:
            client.send(request(b"POST", b"/digest", body=large(name))[: LARGE // 2])


KINDS = {
    "GET": Kind(_get),
    "GET, new connection": Kind(_get, keeps=False),
    "HEAD": Kind(_head),
    "POST": Kind(_post),
    "POST in chunks": Kind(_post_chunks),
    "upload of 1 MiB": Kind(_upload, pace=0.25),
    "download of 1 MiB": Kind(_download, pace=0.25),
    "event stream": Kind(_events),
    "WebSocket": Kind(_websocket, keeps=False, pace=0.25),
    "client leaves": Kind(_leave_early, keeps=False, pace=0.25),
}


class Clients:
    """`each` of every kind, from the beginning of a `with` block to its end. `exchanges`: all that has happened."""

    def __init__(self, port: int, each: int = 2) -> None:
        self._port = port
        self._stopped = threading.Event()
        self.exchanges: list[Exchange] = []
        self._threads = [
            threading.Thread(target=self._work, args=(kind, f"{number}{index}"), daemon=True)
            for index, kind in enumerate(KINDS)
            for number in range(each)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(_JOIN)

    def _work(self, kind: str, name: str) -> None:
        does, client, count = KINDS[kind], None, 0
        while not self._stopped.wait(does.pace):
            count += 1
            began, failure = time.monotonic(), ""
            try:
                client = client or Client(self._port)
                does.exchange(client, f"{name}-{count}")
            except (Failed, OSError, BodyCut, IndexError, ValueError) as exc:
                failure = str(exc) if isinstance(exc, Failed) else type(exc).__name__
            self.exchanges.append(Exchange(kind, began, time.monotonic(), failure))
            if client is not None and (failure or not does.keeps):
                client.sock.close()
                client = None
        if client is not None:
            client.sock.close()


def failures(exchanges: Iterable[Exchange]) -> list[Exchange]:
    return [exchange for exchange in exchanges if exchange.failure]
