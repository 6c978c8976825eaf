"""The ends of a case, and how it is played: a client, an upstream with a script, a trap, and the proxy between them."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar

from tests.behaviour.running import Proxy
from tests.conformance.cases import Answer, Case, Script, Step, as_bytes, steps
from tests.conformance.messages import Message, read_request, read_response
from tests.peers import TIMEOUT, Trap

T = TypeVar("T")

# A plain request after each case; every group of cases has settings that allow it.
PROBE = "GET /v1/vehicles/probe-%d HTTP/1.1\r\nHost: localhost\r\nX-Probe: 1\r\n\r\n"
_IS_PROBE = b"/v1/vehicles/probe-"

_RESET = struct.pack("ii", 1, 0)


class End:
    """One end of a connection. A thread takes in all that comes, whatever the end itself is doing."""

    def __init__(self, sock: socket.socket) -> None:
        self.data = b""
        self.ended = ""  # how the other side closed: `fin` or `reset`
        self._sock = sock
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._receive, daemon=True)
        self._reader.start()

    def _receive(self) -> None:
        how = "fin"
        try:
            while data := self._sock.recv(1 << 18):
                self._update(data)
        except OSError:
            how = "reset"
        self._update(b"", how)

    def _update(self, data: bytes, ended: str = "") -> None:
        with self._changed:
            self.data += data
            self.ended = ended
            self._changed.notify_all()

    def wait(self, condition: Callable[[], T]) -> T:
        """Waits until what has come, or the end of it, makes `condition` true."""
        with self._changed:
            result = self._changed.wait_for(condition, TIMEOUT)
        assert result, f"never came; there was {self.data[-500:]!r}, then {self.ended or 'nothing'}"
        return result

    def send(self, data: bytes) -> None:
        with suppress(OSError):  # the proxy may have had enough
            self._sock.sendall(data)

    def finish(self) -> None:
        """Sends a FIN, and goes on reading."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        # A thread that is in recv() keeps the socket open.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)
        self._reader.join(TIMEOUT)
        self._sock.close()


@dataclass
class Act:
    """The case that is being played, as its two ends know it. `marks` are the names that stand for ports and tokens."""

    scripts: list[Script]
    early: bool
    marks: dict[bytes, bytes]
    client: End | None = None
    requests: list[Message] = field(default_factory=list)

    def filled_in(self, step: str | Step) -> bytes:
        data = as_bytes(step)
        for mark, value in self.marks.items():
            data = data.replace(mark, value)
        return data


class ScriptedUpstream:
    """Answers each request of the act with the next script, the last one again and again, and a probe with its target."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.act = Act([], early=False, marks={})
        self.connections: list[UpstreamEnd] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # close() alone leaves a thread that waits in accept().
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections.append(UpstreamEnd(sock, self))

    def settle(self) -> None:
        """Waits until every script has been played to its end."""
        for connection in self.connections:
            connection.playing.join(TIMEOUT) if connection.ended else connection.at_rest.wait(TIMEOUT)
            assert connection.at_rest.is_set(), "a script of the upstream has not ended"

    def clear(self) -> None:
        """Ends all connections, and waits until the proxy has done so too: the next case begins with an empty pool."""
        for connection in self.connections:
            connection.finish()
            connection.wait(lambda connection=connection: connection.ended)
            connection.close()
        self.connections.clear()


class UpstreamEnd(End):
    """One connection of the proxy."""

    def __init__(self, sock: socket.socket, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._parsed = 0
        self.at_rest = threading.Event()
        self.at_rest.set()
        super().__init__(sock)
        self.playing = threading.Thread(target=self._serve, daemon=True)
        self.playing.start()

    @property
    def unread(self) -> bytes:
        """What is no whole request."""
        return self.data[self._parsed :]

    def _serve(self) -> None:
        while True: ...
