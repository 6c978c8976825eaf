"""The clients and the upstream of a story: each can do what its methods say, and remembers what it has done.

Every byte of a body says whose it is: `(A1)` is of A's first request, `[A1]` of the answer to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.fuzz import oracle
from tests.fuzz.stage import Peer

PIECE, FLOOD = 1000, 1 << 20
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nX-Tag: evil\r\nContent-Length: 4\r\n\r\nevil"


def pattern(form: bytes, tag: bytes, size: int) -> bytes:
    """`size` bytes that say whose they are."""
    unit = form % tag
    return (unit * (size // len(unit) + 1))[:size]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Sent:
    """A request, as its client knows it. `size`: bytes of its body so far; `rest`: what is left of its head."""

    tag: bytes
    method: bytes
    size: int = 0
    finished: bool = True
    rest: bytes = b""

    @property
    def body(self) -> bytes:
        return pattern(b"(%b)", self.tag, self.size)


@dataclass
class Client:
    """`gone`: it has left. `spoke_nonsense`: what it sends after its requests is not HTTP."""

    name: str
    peer: Peer
    sent: list[Sent] = field(default_factory=list)
    gone: bool = False
    deaf: bool = False
    spoke_nonsense: bool = False
    flooded: bool = False

    @property
    def unfinished(self) -> Sent | None:
        return self.sent[-1] if self.sent and not self.sent[-1].finished else None

    def possible(self) -> Iterator[str]:
        if self.gone:
            return
        if self.unfinished is not None:
            yield from ("rest",) if self.unfinished.rest else ("more", "flood", "finish")
        elif not self.spoke_nonsense:
            yield from ("get", "head", "old", "post", "upload", "expect", "half", "nonsense")
        yield from ("reset", "leave", "hear" if self.deaf else "be deaf")

    def _request(self, method: bytes, *fields: bytes, version: bytes = b"1.1") -> bytes:
        tag = b"%b%d" % (self.name.encode(), len(self.sent) + 1)
        self.sent.append(Sent(tag, method))
        return b"\r\n".join([b"%b /%b HTTP/%b" % (method, tag, version), b"Host: localhost", *fields, b"", b""])

    def get(self) -> None:
        self.peer.send(self._request(b"GET"))

    def head(self) -> None:
        self.peer.send(self._request(b"HEAD"))

    def old(self) -> None:
        self.peer.send(self._request(b"GET", version=b"1.0"))

    def post(self) -> None:
        head = self._request(b"POST", b"Content-Length: %d" % PIECE)
        self.sent[-1].size = PIECE
        self.peer.send(head + self.sent[-1].body)

    def upload(self) -> None:
        self.peer.send(self._request(b"PUT", b"Transfer-Encoding: chunked"))
        self.sent[-1].finished = False

    def expect(self) -> None:
        self.peer.send(self._request(b"POST", b"Transfer-Encoding: chunked", b"Expect: 100-continue"))
        self.sent[-1].finished = False

    def half(self) -> None:
        head = self._request(b"GET", b"X-Half: yes")
        self.peer.send(head[:-9])
        self.sent[-1].rest = head[-9:]
        self.sent[-1].finished = False

    def rest(self) -> None:
        sent = self.sent[-1]
        self.peer.send(sent.rest)
        sent.rest, sent.finished = b"", True

    def more(self, size: int = PIECE) -> None:
        sent = self.sent[-1]
        before, sent.size = sent.size, sent.size + size
        self.peer.send(chunk(sent.body[before:]))

    def flood(self) -> None:
        self.more(FLOOD)
        self.flooded = True

    def finish(self) -> None:
        if self.sent[-1].rest:
            self.rest()
        else:
            self.peer.send(b"0\r\n\r\n")
            self.sent[-1].finished = True

    def nonsense(self) -> None:
        self.peer.send(b"\0\1\2\r\n\r\n")
        self.spoke_nonsense = True

    def reset(self) -> None:
        self.peer.abort()
        self.gone = True

    def leave(self) -> None:
        self.peer.close()
        self.gone = True

    def be_deaf(self) -> None:
        self.peer.pause()
        self.deaf = True

    def hear(self) -> None:
        self.peer.resume()
        self.deaf = False


@dataclass(eq=False)
class Exchange:
    """A request that has reached the upstream, and what was said to it.

    `framing` is empty until the answer begins; `left`: bytes of a declared length that are still to come. `whole`: the
    answer came to its proper end; `broken`: it never will.
    """

    tag: bytes
    method: bytes
    line: "Line"
    requested: bool = False
    spoken: bool = False
    status: int = 0
    framing: str = ""
    left: int = 0
    size: int = 0
    whole: bool = False
    broken: bool = False

    @property
    def body(self) -> bytes:
        return pattern(b"[%b]", self.tag, self.size)

    @property
    def over(self) -> bool:
        return self.whole or self.broken

    def possible(self) -> Iterator[str]:
        if self.framing:
            yield from ("piece", "flood", "end")
        else:
            yield from ("answer", "last", "refuse", "length", "chunked", "until close", "twice", "continue")
        if self.framing in ("", "chunked"):
            yield "nonsense"
        yield from ("close", "reset", "hear" if self.line.deaf else "be deaf")

    def _say(self, data: bytes) -> None:
        self.spoken = True
        self.line.peer.send(data)

    def _begin(self, framing: str, *fields: bytes, status: int = 200) -> None:
        self.framing, self.status = framing, status
        self._say(b"\r\n".join([b"HTTP/1.1 %d Fine" % status, b"X-Tag: " + self.tag, *fields, b"", b""]))
        if self.method == b"HEAD":
            self._end()

    def _end(self) -> None:
        self.whole = True
        self.line.ended(self)

    def length(self, *fields: bytes, size: int = 3 * PIECE, status: int = 200) -> None:
        self.left = size
        self._begin("length", b"Content-Length: %d" % size, *fields, status=status)

    def chunked(self) -> None:
        self._begin("chunked", b"Transfer-Encoding: chunked")

    def until_close(self) -> None:
        self.line.spoilt = "it said that it would be closed"
        self._begin("until close", b"Connection: close")

    def answer(self) -> None:
        self.length(size=PIECE)
        self.end()

    def last(self) -> None:
        self.line.spoilt = "it said that this was the last answer"
        self.length(b"Connection: close", size=PIECE)
        self.end()

    def refuse(self) -> None:
        self.length(size=PIECE, status=401)
        self.end()

    def twice(self) -> None:
        self.answer()
        self.line.speak()

    def continue_(self) -> None:
        self._say(CONTINUE)

    def piece(self, size: int = PIECE) -> None:
        if self.over:
            return
        if self.framing == "length":
            size = min(size, self.left)
            self.left -= size
        before, self.size = self.size, self.size + size
        data = self.body[before:]
        self._say(chunk(data) if self.framing == "chunked" else data)
        if self.framing == "length" and not self.left:
            self._end()

    def flood(self) -> None:
        self.piece(FLOOD)

    def end(self) -> None:
        if self.over:
            return
        if self.framing == "length":
            self.piece(self.left)
        elif self.framing == "chunked":
            self._say(b"0\r\n\r\n")
            self._end()
        else:
            self.line.close()

    def nonsense(self) -> None:
        self._say(b"\0\1\2\r\n\r\n")
        self.broken = True

    def close(self) -> None:
        """A FIN, which is the proper end of some answers."""
        self.line.close()

    def reset(self) -> None:
        self.line.reset()

    def be_deaf(self) -> None:
        self.line.be_deaf()

    def hear(self) -> None:
        self.line.hear()


@dataclass(eq=False)
class Line:
    """A connection from the proxy to the upstream. `spoilt`: why no request may come on it any more."""

    peer: Peer
    server: oracle.Server = field(default_factory=oracle.Server)
    heard: int = 0
    served: int = 0
    exchange: Exchange | None = None
    spoilt: str = ""
    deaf: bool = False

    @property
    def is_idle(self) -> bool:
        return self.exchange is None and self.served > 0 and not (self.deaf or self.spoilt)

    def hears(self) -> Iterator[tuple[Exchange, oracle.Request]]:
        """The requests that begin or become whole with what has come. Raises h11.RemoteProtocolError."""
        received = self.peer.received
        self.server.feed(bytes(received[self.heard :]))
        self.heard = len(received)
        while (request := (whole := self.server.next()) or self.server.head) is not None:
            if self.exchange is None:
                self.exchange = Exchange(request.target[1:], request.method, self)
            self.exchange.requested = whole is not None
            yield self.exchange, request
            self.ended(self.exchange)
            if self.exchange is not None:
                return

    def ended(self, exchange: Exchange) -> None:
        """Where request and answer are whole, another request may follow."""
        if exchange.whole and exchange.requested and self.exchange is exchange:
            self.served += 1
            self.exchange = None
            self.server.answered()

    def speak(self) -> None:
        """An answer that nobody asked for."""
        self.peer.send(EVIL)
        self.spoilt = self.spoilt or "it spoke unasked"

    def close(self) -> None:
        self.peer.finish()
        self._cut(whole=self.exchange is not None and self.exchange.framing == "until close")

    def reset(self) -> None:
        self.peer.abort()
        self._cut(whole=False)

    def _cut(self, *, whole: bool) -> None:
        self.spoilt = self.spoilt or "it was closed"
        if self.exchange is not None and not self.exchange.over:
            self.exchange.whole, self.exchange.broken = whole, not whole

    def be_deaf(self) -> None:
        self.peer.pause()
        self.deaf = True

    def hear(self) -> None:
        self.peer.resume()
        self.deaf = False
