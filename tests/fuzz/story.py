"""Stories: clients and an upstream that do what they like, in any order, and what must hold all the while.

A story is a list of steps, such as `A: get` (client A sends a request) or `to A: piece` (the upstream sends a piece of
the answer to A). A step that ends with `&` does not wait for what it causes.
"""

from collections import defaultdict
from collections.abc import Iterator

import h11

from tests.fuzz import oracle
from tests.fuzz.players import Client, Exchange, Line, Sent, pattern
from tests.fuzz.stage import Peer, Stage

CLIENTS = ("A", "B", "C")
_AT_ONCE = " &"
_IDEMPOTENT = (b"GET", b"HEAD", b"PUT")


class Story:
    """`steps`: what happened. What may not happen raises AssertionError."""

    def __init__(self, stage: Stage) -> None:
        self.steps: list[str] = []
        self._stage = stage
        self._clients: dict[str, Client] = {}
        self._lines: dict[Peer, Line] = {}
        self._exchanges: defaultdict[bytes, list[Exchange]] = defaultdict(list)
        self._wrong: list[str] = []

    async def begin(self) -> None:
        self._stage.hears = self._hears
        for name in CLIENTS:
            self._clients[name] = Client(name, await self._stage.connect())

    # What can happen, and what does.

    def possible(self) -> list[str]:
        """The steps that mean something now."""
        steps = [f"{client.name}: {verb}" for client in self._clients.values() for verb in client.possible()]
        for line in self._lines.values():
            if line.exchange is not None and not line.exchange.over:
                steps += [f"to {_whose(line.exchange)}: {verb}" for verb in line.exchange.possible()]
        if any(line.is_idle for line in self._lines.values()):
            steps += ["idle: speak", "idle: close", "idle: reset"]
        return steps

    async def do(self, step: str) -> None:
        """One step; one that means nothing now is left out."""
        text = step.removesuffix(_AT_ONCE)
        if text not in self.possible():
            return
        self.steps.append(step)
        actor, _, verb = text.partition(": ")
        if actor == "idle" or verb == "nonsense":
            # A request on its way to an idle connection would take what the upstream says now for its answer, and
            # one that comes together with nonsense counts as nonsense.
            await self._stage.settle()
        for player in list(self._players(actor)):
            getattr(player, {"continue": "continue_"}.get(verb, verb.replace(" ", "_")))()
        if text == step or actor == "idle":
            await self._stage.settle()
        assert not self._wrong, self._wrong

    def _players(self, actor: str) -> Iterator[Client | Line | Exchange]:
        if actor in self._clients:
            yield self._clients[actor]
            return
        for line in self._lines.values():
            if actor == "idle" and line.is_idle:
                yield line
            elif (
                line.exchange is not None and not line.exchange.over and actor == f"to {line.exchange.tag[:1].decode()}"
            ):
                yield line.exchange

    # What the upstream sees.

    def _hears(self, peer: Peer) -> None:
        line = self._lines.setdefault(peer, Line(peer))
        try:
            for exchange, request in line.hears():
                self._arrived(exchange, request)
        except h11.RemoteProtocolError as exc:
            self._wrong.append(f"no request: {exc}")
        if line.exchange is not None and line.exchange.requested and line.server.rest:
            self._wrong.append("a request before the last one was answered")

    def _arrived(self, exchange: Exchange, request: oracle.Request) -> None:
        """A request has begun, or has become whole."""
        earlier = self._exchanges[exchange.tag]
        if exchange not in earlier:
            self._wrong += self._faults_of_arrival(exchange, earlier)
            earlier.append(exchange)
        sent = self._sent(exchange.tag)
        if not sent.body.startswith(request.body):
            self._wrong.append(f"{exchange.tag!r}: a body of somebody else")
        if exchange.requested and (not sent.finished or request.body != sent.body):
            self._wrong.append(f"{exchange.tag!r}: an end that the client did not send")

    def _faults_of_arrival(self, exchange: Exchange, earlier: list[Exchange]) -> Iterator[str]:
        if exchange.line.spoilt:
            yield f"{exchange.tag!r}: on a connection although {exchange.line.spoilt}"
        if earlier and not _may_follow(earlier[-1]):
            yield f"{exchange.tag!r}: sent again"

    def _sent(self, tag: bytes) -> Sent:
        return self._clients[tag[:1].decode()].sent[int(tag[1:]) - 1]

    # The end.

    async def end(self) -> None:
        """Everybody who is still there finishes what was begun; then all must have got what is theirs."""
        for line in self._lines.values():
            line.hear()
        for client in self._present():
            client.hear()
            if client.unfinished is not None:
                client.finish()
        await self._stage.until(self._all_is_said, "every request is answered, or its connection ends", self._open)
        assert not self._wrong, self._wrong
        for client in self._clients.values():
            self._judge(client)

    def _present(self) -> list[Client]:
        return [client for client in self._clients.values() if not client.gone]

    def _all_is_said(self) -> bool:
        for line in list(self._lines.values()):
            exchange = line.exchange
            if exchange is None or exchange.over or line.peer.ended:
                continue
            client = self._clients[_whose(exchange)]
            # Behind a body that nobody takes in, the proxy does not see a client leave.
            if not client.gone or client.flooded:
                if not exchange.framing:
                    exchange.length()
                exchange.end()
        return not self._open()

    def _open(self) -> list[str]:
        """Clients that wait, and exchanges that go on though nobody waits."""
        waiting = [client.name for client in self._present() if not client.peer.ended and _waits(client)]
        forgotten = [
            repr(line.exchange.tag)
            for line in self._lines.values()
            if line.exchange is not None and not line.exchange.over and not line.peer.ended
        ]
        return waiting + forgotten

    def _judge(self, client: Client) -> None:
        found = _read(client)
        if len(found) < len(client.sent) and client.peer.finished:
            assert found, f"{client.name} got no answer at all"
            assert _ends_connection(found[-1]), f"{client.name}: no answer to {client.sent[len(found)].tag!r}"
        for sent, response in zip(client.sent, found, strict=False):
            exchanges = self._exchanges[sent.tag]
            last = exchanges[-1] if exchanges else None
            if tag := response.values(b"x-tag"):
                assert tag == [sent.tag], f"{sent.tag!r} got the answer to {tag}"
                assert last is not None
                assert response.status == last.status
                assert _body(sent, last).startswith(response.body), f"{sent.tag!r}: bytes of somebody else"
                if response.complete:
                    assert last.whole, f"{sent.tag!r}: an end that the upstream did not send"
                    assert response.body == _body(sent, last), f"{sent.tag!r}: bytes are missing"
            elif response.complete and last is not None:
                assert not last.whole, f"{sent.tag!r} was answered, and got {response}"
            if last is not None and last.whole and not (client.peer.ended and not client.peer.finished):
                assert response.complete, f"{sent.tag!r}: the answer was cut"


def _whose(exchange: Exchange) -> str:
    return exchange.tag[:1].decode()


def _may_follow(earlier: Exchange) -> bool:
    """May a request be sent again after this?"""
    if earlier.status == 401:
        return True
    return earlier.method in _IDEMPOTENT and earlier.line.served > 0 and not earlier.spoken and earlier.line.peer.ended


def _body(sent: Sent, exchange: Exchange) -> bytes:
    return b"" if sent.method == b"HEAD" else pattern(b"[%b]", exchange.tag, exchange.size)


def _waits(client: Client) -> bool:
    complete = sum(response.complete for response in _read(client))
    return complete < len(client.sent) + client.spoke_nonsense


def _ends_connection(response: oracle.Response) -> bool:
    return not response.complete or response.values(b"connection") == [b"close"]


def _read(client: Client) -> list[oracle.Response]:
    methods = [sent.method for sent in client.sent] + [b"GET"] * client.spoke_nonsense
    reading = oracle.responses(bytes(client.peer.received), methods, ended=client.peer.finished)
    assert not reading.rest, f"{client.name} got more than the answers: {reading}"
    return reading.responses
