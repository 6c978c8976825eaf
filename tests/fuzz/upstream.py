"""An upstream that reads with h11, and answers every request with its number."""

import h11

from tests.fuzz.oracle import Request, Server
from tests.fuzz.stage import Peer

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Counting:
    """`requests`: what arrived, whole, in its order. `broken`: what was no request at all."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.broken: list[str] = []
        self._connections: dict[Peer, tuple[Server, int]] = {}

    def hears(self, peer: Peer) -> None:
        server, seen = self._connections.get(peer) or (Server(), 0)
        server.feed(bytes(peer.received[seen:]))
        self._connections[peer] = server, len(peer.received)
        try:
            self._answer(peer, server)
        except h11.RemoteProtocolError as exc:
            self.broken.append(f"{exc}: {bytes(peer.received)!r}")
            peer.abort()

    def _answer(self, peer: Peer, server: Server) -> None:
        while (request := server.next()) is not None:
            number = b"%d" % len(self.requests)
            self.requests.append(request)
            body = b"" if request.method == b"HEAD" else number
            peer.send(b"HTTP/1.1 200 OK\r\nX-Served: %b\r\nContent-Length: %d\r\n\r\n%b" % (number, len(number), body))
            if not server.answered():
                peer.close()
                return
        if server.waits_for_continue:
            peer.send(CONTINUE)
