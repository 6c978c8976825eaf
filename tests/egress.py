"""An HTTP proxy that knows CONNECT alone, and keeps every byte that it is sent (RFC 9110 §9.3.6)."""

import select
import socket
from contextlib import closing
from dataclasses import dataclass, field

from tests.peers import TIMEOUT, Upstream

GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass
class EgressProxy(Upstream):
    """`says` what it says to CONNECT, and after a 2xx leads to where the request says, or else to port `leads_to`."""

    says: bytes = GRANTED
    leads_to: int | None = None
    heads: list[bytes] = field(default_factory=list)
    tunnels: list[bytearray] = field(default_factory=list)  # what came behind the head, by connection

    def __post_init__(self) -> None:
        self.when_head = self._connect

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def asked_for(self) -> list[bytes]:
        """The targets, in order."""
        return [head.split(b" ")[1] for head in self.heads]

    def _connect(self, head: bytes, sock: socket.socket) -> bool:
        self.heads.append(head)
        if not self.says.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")):
            sock.sendall(self.says)
            return True
        host, _, port = self.asked_for[-1].decode().rpartition(":")
        target = (host.strip("[]"), int(port)) if self.leads_to is None else ("127.0.0.1", self.leads_to)
        try:
            far = socket.create_connection(target, TIMEOUT)
        except OSError:
            sock.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return True
        with closing(far):
            sent = bytearray()
            self.tunnels.append(sent)
            sock.sendall(self.says)
            while True:
                for end in select.select([sock, far], [], [], TIMEOUT)[0]:
                    data = end.recv(65536)
                    if not data:
                        return True
                    if end is sock:
                        sent += data
                    (far if end is sock else sock).sendall(data)


def tls_records(data: bytes) -> list[int]:
    """The types of the TLS records that `data` consists of (RFC 8446 §5.1). Raises ValueError for other bytes."""
    types = []
    while data:
        kind, major, length = data[0], data[1], int.from_bytes(data[3:5])
        if kind not in range(20, 24) or major != 3 or len(data) < 5 + length:
            raise ValueError("not TLS")
        types.append(kind)
        data = data[5 + length :]
    return types
