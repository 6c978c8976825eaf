"""One exchange between a client that the test plays and an upstream on a real socket, through the real pool."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import uvloop

from proxy import forward as module
from proxy.admission import OutboundRequest
from proxy.core.headers import ResponseRules
from proxy.errors import (
    BadRequest,
    BodyTooLarge,
    ProxyError,
    RequestTimeout,
    UpstreamError,
    UpstreamIncomplete,
    UpstreamProtocol,
    UpstreamTimeout,
)
from proxy.forward import CONTINUE, Exchange
from proxy.metrics import Traffic
from proxy.record import RequestRecord
from proxy.settings import Duration, Upstream
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.pool import UpstreamPool
from proxy.upstream.response import Response
from proxy.upstream.tunnel import FarSide
from tests.outbound import outbound
from tests.peers import free_port


def response_of(connection: UpstreamConnection) -> Response:
    assert connection.response is not None
    return connection.response


PATIENCE = 10  # seconds after which something that should have happened never will
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = b"POST /a HTTP/1.1\r\nHost: api.example\r\n"


class FakeClient:
    """The client's side: `pieces` is its body, `written` what it got."""

    def __init__(self, *pieces: bytes, http_11: bool = True) -> None:
        self.http_11 = http_11
        self.persistent = True
        self.written = bytearray()
        self.wrote = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()
        self.arrived: bytes | None = None
        self.pieces: asyncio.Queue[bytes | ProxyError] = asyncio.Queue()
        self.send(*pieces)
        self.readers = 0
        self.renewals: list[bool] = []
        self.renewed: OutboundRequest | None = None
        self.first: OutboundRequest | None = None
        self.proved: OutboundRequest | None = None
        self.nonces: list[bytes] = []
        self.tunnel: FarSide | None = None
        self.reading = True

    def send(self, *pieces: bytes | ProxyError) -> None:
        for piece in pieces:
            self.pieces.put_nowait(piece)

    def persists(self) -> bool:
        return self.persistent

    def body_arrived(self) -> bytes | None:
        return self.arrived

    async def read_body(self) -> bytes:
        self.readers += 1
        try:
            piece = await self.pieces.get()
        finally:
            self.readers -= 1
        if isinstance(piece, ProxyError):
            raise piece
        return piece

    def write(self, data: bytes) -> None:
        assert data
        self.written += data
        self.wrote.set()

    @property
    def answer(self) -> bytes:
        """What was written, without the Date that a gateway adds."""
        return re.sub(rb"Date: [^\r]+ GMT\r\n", b"", self.written)

    async def drain(self) -> None:
        await self.takes.wait()

    async def renew(self, *, replayable: bool) -> OutboundRequest | None:
        self.renewals.append(replayable)
        return self.renewed

    def again(self) -> OutboundRequest:
        request = self.proved or self.first
        assert request is not None
        return request

    def remember_nonce(self, nonce: bytes) -> None:
        self.nonces.append(nonce)

    def open_tunnel(self, other: FarSide) -> None:
        self.tunnel = other
        self.wrote.set()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    async def got(self, mark: bytes) -> None:
        """Returns once the client has `mark`."""
        while mark not in self.written:
            self.wrote.clear()
            await self.wrote.wait()


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Scene:
    """A scripted upstream, and a pool that leads to it."""

    def __init__(self, port: int, **settings: Any) -> None:
        self.connections = self.serving = 0
        self.pool = UpstreamPool(Upstream(url=f"http://127.0.0.1:{port}", **settings), Traffic())
        self.record = RequestRecord("POST", "/a", 0.0)

    async def forward(self, request: OutboundRequest, client: FakeClient, keep: int = 1000) -> None:
        """The exchange; nothing of it may be left when it is over."""
        self.record = RequestRecord("POST", "/a", 0.0)
        client.first = request
        try:
            await Exchange(request, client, self.pool, self.record, keep).run()
        finally:
            # Whoever reads the client's body next must be the only one.
            assert client.readers == 0


@asynccontextmanager
async def upstream(script: Script, **settings: Any) -> AsyncIterator[Scene]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        scene.connections += 1
        scene.serving += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(reader, writer)
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
        scene.serving -= 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    scene = Scene(server.sockets[0].getsockname()[1], **settings)
    async with server:
        try:
            yield scene
        finally:
            scene.pool.close()
            await until(lambda: not (scene.serving or scene.pool._open))


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop run until a state is reached."""
    while not condition():  # noqa: ASYNC110 - the state belongs to what is tested, which announces nothing
        await asyncio.sleep(0)


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def answering(*answers: bytes, close: bool = False) -> Script:
    """Gives one answer to each request without a body."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.read()

    return script


def request(framing: bytes = b"", *, added: bytes = b"", **known: Any) -> OutboundRequest:
    """`framing` and `added` are whole lines of the head."""
    given: dict[str, Any] = {
        "method": "POST",
        "token": b"s3cr3t-token",
        "length": 0 if b"chunked" in framing else len(framing),
        "chunked": b"chunked" in framing,
    }
    return outbound(HEAD + framing + added + b"\r\n", **given | known)


GET = request()
CHUNKED = b"Transfer-Encoding: chunked\r\n"
EXPECT = b"Content-Length: 4\r\nExpect: 100-continue\r\n"


def length(size: int) -> bytes:
    return b"Content-Length: %d\r\n" % size


# The response.


def relayed(
    answer: bytes, *, client: FakeClient | None = None, bodiless: bool = False, close: bool = False
) -> tuple[bytes, bool]:
    """What a client gets of an upstream's answer, and whether its connection goes on."""
    seen: list[tuple[bytes, bool]] = []

    async def scene() -> None:
        ours = client or FakeClient()
        async with upstream(answering(answer, close=close)) as peer:
            await peer.forward(request(method="HEAD" if bodiless else "GET"), ours)
        seen.append((ours.answer, ours.persistent))

    play(scene)
    return seen[0]


def test_a_response_is_relayed() -> None:
    """Status, reason, fields and body come back as they are, and the record tells of them (R52, R56)."""
    answer = b"HTTP/1.1 404 Nicht da\r\nX-A: caf\xe9\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nno"

    async def scene() -> None:
        client = FakeClient()
        async with upstream(answering(answer)) as peer:
            await peer.forward(GET, client)
        assert client.answer == answer
        assert client.persistent
        assert (peer.record.status, peer.record.bytes_in, peer.record.bytes_out) == (404, 0, 2)
        assert min(peer.record.ttfb, peer.record.connect) > 0

    play(scene)


DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def test_the_date_of_the_origin() -> None:
    """A Date is added where the origin gave none, and left as it is where it gave one (R62)."""

    async def scene() -> None:
        dated = b"HTTP/1.1 200 OK\r\n" + DATE + b"Content-Length: 0\r\n\r\n"
        async with upstream(answering(dated, OK)) as peer:
            client = FakeClient()
            await peer.forward(GET, client)
            assert client.written == dated
            client = FakeClient()
            await peer.forward(GET, client)
            (added,) = re.findall(rb"\r\nDate: ([^\r]+)\r\n", client.written)
            assert abs(parsedate_to_datetime(added.decode()) - datetime.now(UTC)) < timedelta(seconds=PATIENCE)

    play(scene)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-Echo: Bearer s3cr3t-token\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nLink: </?t=s3cr3t-token>; rel=a\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 s3cr3t-token\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-s3cr3t-token: 1\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_an_echoed_credential_stops_here(answer: bytes) -> None:
    """An upstream that repeats the token in its head does not give it to the client (R69)."""

    async def scene() -> None:
        client = FakeClient()
        async with upstream(answering(answer)) as peer:
            await peer.forward(GET, client)
        assert b"s3cr3t" not in client.written
        assert b"\r\nX-A: 1\r\n" in client.written
        assert client.written.endswith(b"\r\n\r\nok")

    play(scene)


def test_the_next_exchange_uses_the_connection() -> None:
    """After a complete exchange the connection serves the next one, and connecting costs nothing."""

    async def scene() -> None:
        async with upstream(answering(OK, OK, OK)) as peer:
            for _ in range(3):
                client = FakeClient()
                await peer.forward(GET, client)
                assert client.answer == OK
            assert peer.record.connect == 0
            assert (peer.connections, peer.pool.counts()) == (1, {"idle": 1, "active": 0})

    play(scene)


HOP = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n"


@pytest.mark.parametrize(
    "answer, close, framing, body",
    [
        (OK, False, b"Content-Length: 2\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 02 \r\n\r\nok", False, b"Content-Length: 2\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False, b"Content-Length: 0\r\n", b""),
        (HOP, False, b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\nok", True, b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\n\r\n"),
        (b"HTTP/1.0 200 OK\r\n\r\n", True, b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", True, b"Content-Length: 2\r\n", b"ok"),
    ],
)
def test_framing_for_http_11(answer: bytes, close: bool, framing: bytes, body: bytes) -> None:
    """A known length is kept, all else is sent in chunks, and the client's connection goes on (R56, R122)."""
    written, persistent = relayed(answer, close=close)
    if body and framing.startswith(b"T"):
        head, _, chunks = written.partition(b"\r\n\r\n")
        # The body and its end may have come in two pieces.
        assert (head, chunks) == (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", body)
    else:
        assert written == b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + body
    assert persistent


@pytest.mark.parametrize(
    "answer, close, framing, persistent",
    [
        (OK, False, b"Content-Length: 2\r\nConnection: keep-alive\r\n", True),
        (HOP, False, b"Connection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\nok", True, b"Connection: close\r\n", False),
    ],
)
def test_framing_for_http_10(answer: bytes, close: bool, framing: bytes, persistent: bool) -> None:
    """An HTTP/1.0 client gets no chunks: without a length it reads to the end of the connection (R51)."""

    async def scene() -> None:
        client = FakeClient(http_11=False)
        async with upstream(answering(answer, close=close)) as peer:
            await peer.forward(GET, client)
        assert client.answer == b"HTTP/1.1 200 OK\r\n" + framing + b"\r\nok"
        assert client.persistent is persistent

    play(scene)


@pytest.mark.parametrize(
    "answer, bodiless, head",
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n",
            True,
            b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", True, b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", True, b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody", False, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"HTTP/1.1 304 N\r\nContent-Length: 4\r\n\r\n", False, b"HTTP/1.1 304 N\r\nContent-Length: 4\r\n\r\n"),
        (b"HTTP/1.1 304 N\r\nTransfer-Encoding: chunked\r\n\r\n", False, b"HTTP/1.1 304 N\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", True, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
    ],
)
def test_responses_without_a_body(answer: bytes, bodiless: bool, head: bytes) -> None:
    """HEAD, 204 and 304 give a head and not a byte more; what the length says of another response is kept (R56)."""
    assert relayed(answer, bodiless=bodiless) == (head, True)


def test_interim_responses_are_swallowed() -> None:
    """A client that asked for nothing sees the final response alone (R58)."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    assert relayed(interim + OK) == (OK, True)


def test_a_client_that_goes_on_no_longer() -> None:
    """Where the client's connection ends after this answer, the answer says so (RFC 9112 §9.6)."""
    client: list[FakeClient] = []

    async def scene() -> None:
        client.append(FakeClient())
        client[0].persistent = False
        async with upstream(answering(OK)) as peer:
            await peer.forward(GET, client[0])

    play(scene)
    assert client[0].answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def test_pieces_are_relayed_as_they_come() -> None:
    """An event reaches the client while the upstream thinks about the next one (R123)."""

    async def scene() -> None:
        client = FakeClient()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await client.got(b"\r\n\r\n")
            for event in (b"one", b"two", b"three"):
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await client.got(event)
            writer.write(b"0\r\n\r\n")
            await reader.read()

        async with upstream(script) as peer:
            await peer.forward(GET, client)
        assert client.answer.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")
        assert peer.record.bytes_out == 11

    play(scene)


def test_a_slow_client_holds_the_upstream_back() -> None:
    """What waits for a client that takes nothing is bounded, and arrives whole in the end (R123)."""
    size = 50_000_000

    async def scene() -> None:
        client = FakeClient()
        client.takes.clear()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n" + length(size) + b"\r\n" + b"a" * size)
            await reader.read()

        async with upstream(script) as peer:
            exchange = asyncio.ensure_future(peer.forward(GET, client))
            await client.got(b"\r\n\r\n")
            (connection,) = peer.pool._open
            await until(lambda: not connection._transport.is_reading())
            assert len(client.written) + response_of(connection).buffered < 2_000_000
            client.takes.set()
            await exchange
            assert peer.record.bytes_out == size
            assert peer.pool.counts() == {"idle": 1, "active": 0}

    play(scene)


# The request.


def uploaded(ask: OutboundRequest, client_of: Callable[[], FakeClient], size: int) -> bytes:
    """The bytes that the upstream gets, `size` of them before it answers."""
    received = bytearray()

    async def scene() -> None:
        client = client_of()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.extend(await reader.readexactly(size))
            writer.write(OK)
            received.extend(await reader.read())

        async with upstream(script) as peer:
            await peer.forward(ask, client)
            assert client.answer == OK
            assert client.persistent
            assert peer.pool.counts() == {"idle": 1, "active": 0}

    play(scene)
    return bytes(received)


def client_with(arrived: bytes) -> Callable[[], FakeClient]:
    def make() -> FakeClient:
        client = FakeClient()
        client.arrived = arrived
        return client

    return make


@pytest.mark.parametrize(
    "framing, body, framed",
    [
        (b"", b"", b""),
        (length(4), b"body", b"body"),
        (CHUNKED, b"body", b"4\r\nbody\r\n0\r\n\r\n"),
        (CHUNKED, b"", b"0\r\n\r\n"),
    ],
)
def test_a_body_that_is_there(framing: bytes, body: bytes, framed: bytes) -> None:
    """A body that has arrived goes out with the head, framed as announced (R29)."""
    whole = HEAD + framing + b"\r\n" + framed
    assert uploaded(request(framing), client_with(body), len(whole)) == whole


@pytest.mark.parametrize(
    "framing, pieces, framed",
    [
        (length(9), [b"one", b"two", b"end"], b"onetwoend"),
        (CHUNKED, [b"one", b"a" * 20], b"3\r\none\r\n14\r\n" + b"a" * 20 + b"\r\n0\r\n\r\n"),
        (CHUNKED, [], b"0\r\n\r\n"),
    ],
)
def test_a_body_in_pieces(framing: bytes, pieces: list[bytes], framed: bytes) -> None:
    """A body that is on its way is sent as it comes (R123)."""
    whole = HEAD + framing + b"\r\n" + framed
    assert uploaded(request(framing), lambda: FakeClient(*pieces, b""), len(whole)) == whole


def test_a_large_upload() -> None:
    """Every byte of a large body arrives, at the pace of the upstream (R123)."""
    piece = bytes(range(256)) * 256
    framing = length(len(piece) * 200)
    whole = HEAD + framing + b"\r\n" + piece * 200
    assert uploaded(request(framing), lambda: FakeClient(*[piece] * 200, b""), len(whole)) == whole


def test_the_record_counts_the_body() -> None:
    """`bytes_in` are the bytes of the body, without its framing."""

    async def scene() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                await reader.readuntil(b"0\r\n\r\n")
                writer.write(OK)

        async with upstream(script) as peer:
            await peer.forward(request(CHUNKED), FakeClient(b"one", b"four", b""))
            assert peer.record.bytes_in == 7
            await peer.forward(request(CHUNKED), client_with(b"body")())
            assert peer.record.bytes_in == 4

    play(scene)


# Expect: 100-continue (RFC 9110 §10.1.1).


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 100 C\r\n\r\n"])
def test_the_upstream_wants_the_body(interim: bytes) -> None:
    """The client is told to send when the upstream says so, and not before (R28)."""

    async def scene() -> None:
        client = FakeClient()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert (await reader.readuntil(b"\r\n\r\n")).endswith(EXPECT + b"\r\n")
            assert client.answer == b""
            writer.write(interim)
            await client.got(CONTINUE)
            client.send(b"bo", b"dy", b"")
            assert await reader.readexactly(4) == b"body"
            writer.write(OK)
            await reader.read()

        async with upstream(script) as peer:
            await peer.forward(request(EXPECT, expects_continue=True), client)
            assert client.answer == CONTINUE + OK
            assert client.persistent
            assert peer.pool.counts() == {"idle": 1, "active": 0}

    play(scene)


def test_the_upstream_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream that knows no 100 gets the body after a while (R28)."""
    monkeypatch.setattr(module, "CONTINUE_PATIENCE", 0.01)

    async def scene() -> None:
        client = FakeClient()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await client.got(CONTINUE)
            client.send(b"body", b"")
            await reader.readexactly(4)
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
            await reader.read()

        async with upstream(script) as peer:
            await peer.forward(request(EXPECT, expects_continue=True), client)
        assert client.answer == CONTINUE + OK

    play(scene)


def test_the_upstream_does_not_want_the_body() -> None:
    """A refusal from the head alone reaches the client without its body, and neither connection goes on (R28, R30)."""
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n"

    async def scene() -> None:
        client = FakeClient(b"body", b"")
        async with upstream(answering(refusal + b"\r\nno")) as peer:
            await peer.forward(request(EXPECT, expects_continue=True), client)
            assert client.answer == refusal + b"Connection: close\r\n\r\nno"
            assert not client.persistent
            assert client.pieces.qsize() == 2
            assert peer.pool.counts()["idle"] == 0

    play(scene)


def test_a_refusal_that_never_ends() -> None:
    """A refusal whose body stalls ends after `idle_timeout`, though the request was never sent whole (R124)."""

    async def scene() -> None:
        client = FakeClient()
        async with upstream(
            answering(b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\nno"), idle_timeout=Duration(0.05)
        ) as peer:
            with pytest.raises(UpstreamTimeout):
                async with asyncio.timeout(2):
                    await peer.forward(request(EXPECT, expects_continue=True), client)
            assert peer.record.status == 413

    play(scene)


@pytest.mark.parametrize("answer, error", [(b"", UpstreamIncomplete), (b"garbage\r\n\r\n", UpstreamProtocol)])
def test_the_upstream_fails_while_we_ask(answer: bytes, error: type[UpstreamError]) -> None:
    """A failure in place of a 100 is the client's answer; it sends nothing in vain (R116)."""

    async def scene() -> None:
        client = FakeClient()
        async with upstream(answering(answer, close=True)) as peer:
            with pytest.raises(error):
                await peer.forward(request(EXPECT, expects_continue=True), client)
            assert (client.answer, peer.record.status) == (b"", 0)

    play(scene)


# What goes wrong.


@pytest.mark.parametrize("close", [False, True])
def test_an_early_answer_to_an_upload(close: bool) -> None:
    """An answer before the end of the request is relayed; the rest of the body goes nowhere (F33, RFC 9112 §9.3)."""
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n"

    async def scene() -> None:
        client = FakeClient(b"some")
        after: list[bytes] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"some")
            writer.write(refusal + b"\r\nno")
            if not close:
                after.append(await reader.read())

        async with upstream(script) as peer:
            await peer.forward(request(length(100)), client)
            assert client.answer == refusal + b"Connection: close\r\n\r\nno"
            assert not client.persistent
            assert peer.record.status == 413
            client.send(b"GET /smuggled HTTP/1.1\r\n\r\n")
            await until(lambda: peer.pool.counts() == {"idle": 0, "active": 0})
            await until(lambda: close or after == [b""])

    play(scene)


@pytest.mark.parametrize(
    "head, part, relayed_part",
    [
        (b"Content-Length: 9\r\n", b"ok", b"ok"),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n", b"2\r\nok\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\nZZ", b"2\r\nok\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"9\r\nok", b"2\r\nok\r\n"),
    ],
)
def test_the_upstream_dies_in_its_response(head: bytes, part: bytes, relayed_part: bytes) -> None:
    """What came is relayed, and no end is made up for it: the record says that the response has begun (R115, F31)."""

    async def scene() -> None:
        client = FakeClient()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
            await client.got(b"\r\n\r\n")
            writer.write(part)

        async with upstream(script) as peer:
            with pytest.raises(UpstreamError):
                await peer.forward(GET, client)
            assert peer.record.status == 200
            assert (b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + relayed_part).startswith(client.answer)
            await until(lambda: peer.pool.counts() == {"idle": 0, "active": 0})

    play(scene)


@pytest.mark.parametrize(
    "sent, error",
    [
        (b"", UpstreamIncomplete),
        (b"HTTP/1.1 200 OK\r\nContent-Le", UpstreamIncomplete),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", UpstreamProtocol),
        (b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", UpstreamProtocol),
    ],
)
def test_the_upstream_dies_before_its_response(sent: bytes, error: type[UpstreamError]) -> None:
    """Nothing has been written to the client, so that it can get a problem document (R116, R117, F30)."""

    async def scene() -> None:
        client = FakeClient()
        async with upstream(answering(sent, close=True)) as peer:
            with pytest.raises(error):
                await peer.forward(GET, client)
            assert (client.answer, peer.record.status) == (b"", 0)
            await until(lambda: peer.pool.counts() == {"idle": 0, "active": 0})

    play(scene)


def test_nobody_listens() -> None:
    """A failed connect leaves the client's body unread and its connection untouched (F25)."""

    async def scene() -> None:
        client = FakeClient(b"body", b"")
        peer = Scene(free_port())
        with pytest.raises(UpstreamError):
            await peer.forward(request(length(4)), client)
        assert (client.answer, client.persistent, client.pieces.qsize()) == (b"", True, 2)

    play(scene)


def test_a_silent_upstream() -> None:
    """No response in `response_timeout` is a timeout, counted from the end of the upload (R124, F28)."""

    async def scene() -> None:
        client = FakeClient(b"body", b"")
        async with upstream(answering(b""), response_timeout=Duration(0.02)) as peer:
            with pytest.raises(UpstreamTimeout):
                await peer.forward(request(length(4)), client)
            assert peer.record.status == 0

    play(scene)


@pytest.mark.parametrize("error", [RequestTimeout(), BadRequest()])
def test_the_client_fails_in_its_body(error: ProxyError) -> None:
    """A body that stalls or is malformed ends the exchange; the upstream sees a cut request, not a short one (R9)."""

    async def scene() -> None:
        client = FakeClient(b"some")
        received: list[bytes] = []

        async def script(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"some\r\n")
            client.send(error)
            received.append(await reader.read())

        async with upstream(script) as peer:
            with pytest.raises(type(error)):
                await peer.forward(request(CHUNKED), client)
            assert (client.answer, peer.record.status) == (b"", 0)
            await until(lambda: received == [b""])

    play(scene)


def test_a_streamed_body_that_is_too_large() -> None:
    """`limits.max_body` holds for a body of unknown length: the upstream sees a request that was cut (R7)."""

    async def scene() -> None:
        client = FakeClient(b"a" * 10, b"a" * 10, b"")
        received: list[bytes] = []

        async def script(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await reader.read(65536):
                    received.append(data)
            received.append(b"end")

        async with upstream(script) as peer:
            with pytest.raises(BodyTooLarge):
                await peer.forward(request(CHUNKED, max_body=15), client)
            assert peer.record.status == 0
            await until(lambda: received[-1:] == [b"end"])
        assert b"0\r\n\r\n" not in b"".join(received)

    play(scene)


@pytest.mark.parametrize("reused", [False, True])
def test_a_whole_body_that_is_too_large(reused: bool) -> None:
    """The limit holds as well where the body is there at once; nothing of the request is sent (R7)."""

    async def scene() -> None:
        async with upstream(answering(OK, OK)) as peer:
            if reused:
                await peer.forward(GET, FakeClient())
            client = client_with(b"a" * 20)()
            with pytest.raises(BodyTooLarge):
                await peer.forward(request(CHUNKED, max_body=15), client)
            assert (client.answer, peer.record.status) == (b"", 0)
            client = FakeClient()
            await peer.forward(GET, client)
            assert client.answer == OK

    play(scene)


@pytest.mark.parametrize("when", ["connecting", "waiting", "uploading", "downloading"])
def test_the_client_goes(when: str) -> None:
    """A client that goes takes its exchange with it: the upstream's connection is closed (R125, F41)."""

    async def scene() -> None:
        client = FakeClient(b"some")
        reached, closed = asyncio.Event(), asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if when != "connecting":
                await reader.readuntil(b"\r\n\r\n")
            if when == "uploading":
                await reader.readuntil(b"some")
            if when == "downloading":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
                await client.got(b"ok")
            reached.set()
            with suppress(ConnectionError):
                await reader.read()
            closed.set()

        async with upstream(script) as peer:
            ask = request(length(100)) if when == "uploading" else GET
            exchange = asyncio.ensure_future(peer.forward(ask, client))
            if when != "connecting":
                await reached.wait()
            else:
                await until(lambda: peer.pool._connecting == 1)
            exchange.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchange
            await until(lambda: peer.pool.counts() == {"idle": 0, "active": 0})
            if when != "connecting":
                await closed.wait()

    play(scene)


def test_a_poisoned_connection() -> None:
    """A response that nobody asked for is not the answer to the next request (R118)."""

    async def scene() -> None:
        poison = asyncio.Event()
        served: list[int] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(len(served))
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            if served == [0]:
                await poison.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            with suppress(ConnectionError):
                await reader.read()

        async with upstream(script) as peer:
            await peer.forward(GET, FakeClient())
            assert peer.pool.counts() == {"idle": 1, "active": 0}
            poison.set()
            await until(lambda: peer.pool.counts() == {"idle": 0, "active": 0})
            client = FakeClient()
            await peer.forward(GET, client)
            assert client.answer == OK
            assert served == [0, 1]

    play(scene)


# A second sending, after a connection that turned out to be closed (RFC 9110 §9.2.2, RFC 9112 §9.3.1).


def dying(*, after: int, answered: bytes = b"") -> Script:
    """Answers `after` requests, then closes on the next one, having said `answered`."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(after):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answered)

    return script


async def warm_up(peer: Scene, connections: int = 1) -> None:
    """Leaves that many idle connections in the pool."""
    held = [await peer.pool.acquire() for _ in range(connections)]
    for connection in held:
        connection.start(GET, b"", finished=True)
        while not response_of(connection).complete:
            await connection.wait()
        peer.pool.release(connection)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_a_stale_connection(method: str) -> None:
    """An idempotent request whose kept connection was closed under it is sent again, on a fresh one (R126, F29)."""

    async def scene() -> None:
        client = FakeClient()
        answer = OK.removesuffix(b"ok") if method == "HEAD" else OK

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK if peer.connections == 1 else answer)
            if peer.connections == 1:
                await reader.readuntil(b"\r\n\r\n")
            else:
                await reader.read()

        async with upstream(script) as peer:
            await warm_up(peer)
            await peer.forward(request(method=method), client)
            assert client.answer == answer
            assert client.persistent
            assert peer.connections == 2
            assert not peer.record.replayed

    play(scene)


@pytest.mark.parametrize(
    "ask, answered",
    [
        (request(method="POST"), b""),
        (request(method="PATCH"), b""),
        (request(method="PROPFIND"), b""),
        (request(method="GET"), b"HTTP/1.1 2"),
        (request(method="GET"), b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_what_is_not_sent_again(ask: OutboundRequest, answered: bytes) -> None:
    """What may have changed something, or was answered in part, is sent once (R94, R126)."""

    async def scene() -> None:
        async with upstream(dying(after=1, answered=answered)) as peer:
            await warm_up(peer)
            with pytest.raises(UpstreamIncomplete):
                await peer.forward(ask, FakeClient())
            assert peer.connections == 1

    play(scene)


def test_a_fresh_connection_is_not_tried_again() -> None:
    """A loss on a fresh connection is the upstream's failure, not an old connection's (R126)."""

    async def scene() -> None:
        async with upstream(dying(after=0)) as peer:
            with pytest.raises(UpstreamIncomplete):
                await peer.forward(request(method="GET"), FakeClient())
            assert peer.connections == 1

    play(scene)


def test_one_silent_retry() -> None:
    """A request that ends every connection it meets is sent twice, not once for each idle connection (R126, F29)."""
    killed: list[bytes] = []

    async def scene() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if peer.connections <= 5:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
            killed.append(await reader.readuntil(b"\r\n\r\n"))

        async with upstream(script) as peer:
            await warm_up(peer, connections=5)
            with pytest.raises(UpstreamIncomplete):
                await peer.forward(request(method="GET"), FakeClient())
        assert len(killed) == 2

    play(scene)


@pytest.mark.parametrize("keep, served", [(1000, True), (3, False)])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_body_on_a_stale_connection(at_once: bool, keep: int, served: bool) -> None:
    """A body that was kept is sent again whole; one that was too large to keep is not (R94)."""
    received: list[bytes] = []

    async def scene() -> None:
        client = client_with(b"body")() if at_once else FakeClient(b"bo", b"dy", b"")

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if peer.connections == 1:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
            received.append(await reader.readuntil(b"body"))
            if peer.connections == 2:
                writer.write(OK)
                await reader.read()

        async with upstream(script) as peer:
            await warm_up(peer)
            if served:
                await peer.forward(request(length(4), method="PUT"), client, keep)
                assert client.answer == OK
                assert peer.record.bytes_in == 4
                assert received == [HEAD + length(4) + b"\r\nbody"] * 2
            else:
                with pytest.raises(UpstreamIncomplete):
                    await peer.forward(request(length(4), method="PUT"), client, keep)
                assert peer.connections == 1

    play(scene)


def test_a_body_that_was_asked_for_on_a_stale_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that the client has sent after its 100 is not asked for again (R28, R94)."""
    monkeypatch.setattr(module, "CONTINUE_PATIENCE", 0.01)
    received: list[bytes] = []

    async def scene() -> None:
        client = FakeClient(b"body", b"", b"", b"")

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if peer.connections == 1:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
            await reader.readuntil(b"\r\n\r\n")
            received.append(await reader.readexactly(4))
            if peer.connections == 2:
                writer.write(OK)
                await reader.read()

        async with upstream(script) as peer:
            await warm_up(peer)
            await peer.forward(request(EXPECT, method="PUT", expects_continue=True), client)
            assert client.answer == CONTINUE + OK
            assert received == [b"body"] * 2

    play(scene)


# A second sending, with another token, after a 401 (RFC 6750 §3.1, RFC 9110 §15.5.2).

REFUSED = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 2\r\n'
REPLAYED = b"Proxy-Status: thg-proxy; received-status=401\r\n"
SECOND = b"HTTP/1.1 200 OK\r\n" + REPLAYED + b"Content-Length: 2\r\n\r\nok"


def renewed(framing: bytes = b"", **known: Any) -> OutboundRequest:
    return request(framing, added=b"X-Token: 2\r\n", token=b"s3cr3t-2", **known)


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_another_token(method: str) -> None:
    """A refused token is replaced and the request sent once more, by any method; the answer says so (R93, R94)."""

    async def scene() -> None:
        client = FakeClient()
        client.renewed = renewed(method=method)
        async with upstream(answering(REFUSED + b"\r\nno", OK)) as peer:
            await peer.forward(request(method=method), client)
            assert client.answer == SECOND
            assert (client.renewals, client.persistent, peer.record.replayed) == ([True], True, True)
            assert (peer.record.status, peer.record.bytes_out) == (200, 2)
            assert (peer.connections, peer.pool.counts()) == (1, {"idle": 1, "active": 0})

    play(scene)


@pytest.mark.parametrize(
    "framing, framed", [(length(4), b"body"), (CHUNKED, b"4\r\nbody\r\n0\r\n\r\n"), (CHUNKED, b"0\r\n\r\n")]
)
@pytest.mark.parametrize("at_once", [True, False])
def test_another_token_with_a_body(framing: bytes, framed: bytes, at_once: bool) -> None:
    """The body that was kept goes with it, framed as before (R94)."""
    body = b"body" if b"body" in framed else b""

    async def scene() -> None:
        client = client_with(body)() if at_once else FakeClient(*([body] if body else []), b"")
        client.renewed = renewed(framing)
        received: list[bytes] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in (REFUSED + b"\r\nno", OK):
                received.append((await reader.readuntil(b"\r\n\r\n")) + await reader.readexactly(len(framed)))
                writer.write(answer)
            await reader.read()

        async with upstream(script) as peer:
            await peer.forward(request(framing), client)
            assert client.answer == SECOND
            assert peer.record.bytes_in == len(body)
        assert received == [HEAD + framing + b"\r\n" + framed, HEAD + framing + b"X-Token: 2\r\n\r\n" + framed]

    play(scene)


NONCE_WANTED = (
    b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: DPoP error="use_dpop_nonce"\r\n'
    b"DPoP-Nonce: rs-1\r\nContent-Length: 2\r\n\r\nno"
)
BOUND = ResponseRules(withheld=[b"dpop-nonce"])


def proved(number: int, **known: Any) -> OutboundRequest:
    return request(added=b"DPoP: proof-%d\r\n" % number, response_rules=BOUND, **known)


def recording(received: list[bytes], *answers: bytes) -> Script:
    """Gives one answer to each request without a body, and keeps the requests."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            received.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
        await reader.read()

    return script


def test_another_proof() -> None:
    """A proof without the nonce is made again, with it and with the same token; the nonce stays here (R105)."""

    async def scene() -> None:
        client = FakeClient()
        client.proved = proved(2)
        received: list[bytes] = []
        async with upstream(recording(received, NONCE_WANTED, OK)) as peer:
            await peer.forward(proved(1), client)
            assert client.answer == SECOND
            assert (client.nonces, client.renewals, peer.record.replayed) == ([b"rs-1"], [], True)
        assert received == [proved(1).head, proved(2).head]

    play(scene)


def test_nonce_that_changes_all_the_time() -> None:
    """A request is sent twice at most, and the second refusal is the client's, without the nonce (R95, R105)."""

    async def scene() -> None:
        client = FakeClient()
        client.proved = proved(2)
        received: list[bytes] = []
        second = NONCE_WANTED.replace(b"rs-1", b"rs-2")
        async with upstream(recording(received, NONCE_WANTED, second)) as peer:
            await peer.forward(proved(1), client)
            assert client.answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            assert b"rs-2" not in client.answer
            assert (client.nonces, client.renewals) == ([b"rs-1", b"rs-2"], [])
        assert len(received) == 2

    play(scene)


def test_token_that_is_refused_after_the_nonce() -> None:
    """A token whose refusal comes second is reported, so that it is replaced for the next request (R93, R95, R105)."""

    async def scene() -> None:
        client = FakeClient()
        client.proved, client.renewed = proved(2), proved(3)
        received: list[bytes] = []
        async with upstream(recording(received, NONCE_WANTED, REFUSED + b"\r\nno")) as peer:
            await peer.forward(proved(1), client)
            assert client.answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            assert client.renewals == [False]
        assert len(received) == 2

    play(scene)


def test_nonce_for_a_body_that_is_gone() -> None:
    """A body that was not kept is not sent again; the nonce is known for the next request (R94, R105)."""

    async def scene() -> None:
        client = FakeClient(b"body", b"")
        sent = request(length(4), response_rules=BOUND)

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\nbody")
            writer.write(NONCE_WANTED)
            await reader.read()

        async with upstream(script) as peer:
            await peer.forward(sent, client, keep=3)
            assert client.answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            assert (client.nonces, client.renewals, peer.record.replayed) == ([b"rs-1"], [], False)

    play(scene)


def test_nonce_in_any_response() -> None:
    """A nonce is taken from a response that is no refusal, too (RFC 9449 §8.2, R105)."""

    async def scene() -> None:
        client = FakeClient()
        answer = b"HTTP/1.1 200 OK\r\nDPoP-Nonce: rs-7\r\nContent-Length: 2\r\n\r\nok"
        async with upstream(recording([], answer)) as peer:
            await peer.forward(proved(1), client)
            assert client.answer == OK
            assert (client.nonces, peer.record.replayed) == ([b"rs-7"], False)

    play(scene)


def test_nonce_without_proofs() -> None:
    """With a Bearer token the field is the upstream's own affair, and a 401 is about the token (R37, R93, R105)."""

    async def scene() -> None:
        client = FakeClient()
        async with upstream(recording([], NONCE_WANTED)) as peer:
            await peer.forward(request(), client)
            assert b"\r\nDPoP-Nonce: rs-1\r\n" in client.answer
            assert (client.nonces, client.renewals) == ([], [True])

    play(scene)


def test_proof_after_a_lost_connection() -> None:
    """A kept connection that is closed takes the proof with it: the next one is another (RFC 9449 §11.1, R105)."""

    async def scene() -> None:
        client = FakeClient()
        received: list[bytes] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)
            if len(received) == 1:
                # The answer to the second request on the first connection is its end.
                received.append(await reader.readuntil(b"\r\n\r\n"))

        async with upstream(script) as peer:
            await peer.forward(proved(1, method="GET"), client)
            client.proved = proved(3, method="GET")
            await peer.forward(proved(2, method="GET"), client)
        assert received == [proved(number).head for number in (1, 2, 3)]

    play(scene)


def test_another_token_after_expect() -> None:
    """A body that the client has sent after its 100 is not asked for again (R28, R94)."""

    async def scene() -> None:
        client = FakeClient()
        client.renewed = renewed(EXPECT, expects_continue=True)

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in (REFUSED + b"\r\nno", OK):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                if answer != OK:
                    await client.got(CONTINUE)
                    client.send(b"body", b"")
                assert await reader.readexactly(4) == b"body"
                writer.write(answer)
            await reader.read()

        async with upstream(script) as peer:
            await peer.forward(request(EXPECT, expects_continue=True), client)
            assert client.answer == CONTINUE + SECOND

    play(scene)


@pytest.mark.parametrize(
    "refused",
    [
        REFUSED + b"\r\nno",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=a\r\nContent-Length: 2\r\n\r\nno",
    ],
)
def test_no_other_token(refused: bytes) -> None:
    """Where there is no other token to try, the upstream's 401 is the answer, unchanged (R63, R95)."""

    async def scene() -> None:
        client = FakeClient()
        async with upstream(answering(refused)) as peer:
            await peer.forward(GET, client)
            assert client.answer == refused
            assert (client.renewals, peer.record.replayed) == ([True], False)

    play(scene)


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 401 U\r\nWWW-Authenticate: Bearer error="insufficient_scope"\r\nContent-Length: 2\r\n\r\nno',
        b'HTTP/1.1 403 F\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 2\r\n\r\nno',
        b"HTTP/1.1 407 P\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 503 S\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\nno",
    ],
)
def test_answers_that_refuse_no_token(answer: bytes) -> None:
    """Only a 401 says that the token is no good, and not that it allows too little (R93, R96, F35)."""

    async def scene() -> None:
        client = FakeClient()
        client.renewed = renewed()
        async with upstream(answering(answer, OK)) as peer:
            await peer.forward(GET, client)
            assert client.answer == answer
            assert client.renewals == []

    play(scene)


def test_one_other_token() -> None:
    """An upstream that refuses the second token, too, has the last word; no third is tried (R93, R95, F12)."""

    async def scene() -> None:
        client = FakeClient()
        client.renewed = renewed()
        async with upstream(answering(REFUSED + b"\r\nno", REFUSED + b"\r\nno", OK)) as peer:
            await peer.forward(GET, client)
            head, _, body = client.answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 401 ")
            assert REPLAYED.strip() in head.split(b"\r\n")
            assert body == b"no"
            assert client.renewals == [True]

    play(scene)


@pytest.mark.parametrize("refused", [REFUSED + b"\r\nno", REFUSED.replace(b"Content-Length: 2\r\n", b"") + b"\r\nno"])
def test_a_body_that_is_not_kept(refused: bytes) -> None:
    """A body too large to keep is not sent twice: the token is renewed for others, the 401 relayed (R94)."""

    async def scene() -> None:
        client = FakeClient(b"bo", b"dy", b"")
        client.renewed = renewed(length(4))

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\nbody")
            writer.write(refused)

        async with upstream(script) as peer:
            await peer.forward(request(length(4)), client, 3)
            assert client.answer.startswith(b"HTTP/1.1 401 ")
            assert (client.renewals, peer.record.replayed, peer.connections) == ([False], False, 1)

    play(scene)


def test_a_refusal_during_the_upload() -> None:
    """A 401 before the end of the body is the answer: what has not been read can't be sent again (R94, F33)."""

    async def scene() -> None:
        client = FakeClient(b"some")
        client.renewed = renewed(length(100))

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"some")
            writer.write(REFUSED + b"\r\nno")
            await reader.read()

        async with upstream(script) as peer:
            await peer.forward(request(length(100)), client)
            assert client.answer == REFUSED + b"Connection: close\r\n\r\nno"
            assert (client.renewals, client.persistent) == ([False], False)

    play(scene)


def test_a_refusal_with_an_endless_body() -> None:
    """The body of a 401 that is not relayed is not waited for (R93)."""

    async def scene() -> None:
        client = FakeClient()
        client.renewed = renewed()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if peer.connections == 1:
                writer.write(b"HTTP/1.1 401 U\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n")
            else:
                writer.write(OK)
            with suppress(ConnectionError):
                await reader.read()

        async with upstream(script) as peer:
            await peer.forward(GET, client)
            assert client.answer == SECOND
            assert peer.pool.counts()["idle"] == 1

    play(scene)


class Waiting(FakeClient):
    """Whose token is long in coming."""

    def __init__(self) -> None:
        super().__init__()
        self.token_came = asyncio.Event()

    async def renew(self, *, replayable: bool) -> OutboundRequest | None:
        await self.token_came.wait()
        return await super().renew(replayable=replayable)


@pytest.mark.parametrize("another", [True, False])
def test_waiting_for_another_token_holds_no_connection(another: bool) -> None:
    """While a refused request waits for a token, others are served on its connection; then it is answered (R93)."""

    async def scene() -> None:
        client, other = Waiting(), FakeClient()
        client.renewed = renewed() if another else None
        async with upstream(answering(REFUSED + b"\r\nno", OK, OK), max_connections=1) as peer:
            exchange = asyncio.ensure_future(peer.forward(GET, client))
            await until(lambda: peer.pool.counts() == {"idle": 1, "active": 0})
            await peer.forward(GET, other)
            assert other.answer == OK
            client.token_came.set()
            await exchange
            assert client.answer == (SECOND if another else REFUSED + b"\r\nno")
            assert peer.connections == 1

    play(scene)


def test_both_second_sendings() -> None:
    """A kept connection that is closed, and then a token that is refused: each is met once (R93, R126)."""

    async def scene() -> None:
        client = FakeClient()
        client.renewed = renewed(method="GET")

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in (OK,) if peer.connections == 1 else (REFUSED + b"\r\nno", OK):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
            await reader.readuntil(b"\r\n\r\n")

        async with upstream(script) as peer:
            await warm_up(peer)
            await peer.forward(request(method="GET"), client)
            assert client.answer == SECOND
            assert (peer.connections, client.renewals) == (2, [True])

    play(scene)


# After a 101 (RFC 9110 §7.8, RFC 6455 §4).

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)


def handshake() -> OutboundRequest:
    return request(method="GET", opens_tunnel=True)


def head_lines(answer: bytes) -> set[bytes]:
    return set(answer.partition(b"\r\n\r\n")[0].split(b"\r\n"))


@pytest.mark.parametrize("early", [b"", b"\x81\x05hello"])
def test_a_tunnel(early: bytes) -> None:
    """After the 101 both sides exchange bytes, those at once behind it included, until the upstream closes (R59)."""

    async def scene() -> None:
        client = FakeClient()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SWITCH + early)
            assert await reader.readexactly(4) == b"ping"
            writer.write(b"pong")

        async with upstream(script) as peer:
            exchange = asyncio.ensure_future(peer.forward(handshake(), client))
            while client.tunnel is None:
                client.wrote.clear()
                await client.wrote.wait()
            client.tunnel.write(b"ping")
            await exchange
            assert head_lines(client.answer) == head_lines(SWITCH)
            assert client.answer.partition(b"\r\n\r\n")[2] == early + b"pong"
            assert (peer.record.status, client.persistent) == (101, False)
            assert (peer.record.bytes_in, peer.record.bytes_out) == (4, len(early) + 4)
            await until(lambda: peer.pool.counts() == {"idle": 0, "active": 0})

    play(scene)


def test_a_tunnel_that_is_refused() -> None:
    """A handshake that gets another answer is an exchange like any other (R59)."""

    async def scene() -> None:
        client = FakeClient()
        async with upstream(answering(OK)) as peer:
            await peer.forward(handshake(), client)
            assert client.answer == OK
            assert client.tunnel is None
            assert peer.pool.counts() == {"idle": 1, "active": 0}

    play(scene)


def test_the_client_leaves_the_tunnel() -> None:
    """A client that goes closes the upstream's side (R59, R125)."""

    async def scene() -> None:
        client = FakeClient()
        closed = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SWITCH)
            with suppress(ConnectionError):
                await reader.read()
            closed.set()

        async with upstream(script) as peer:
            exchange = asyncio.ensure_future(peer.forward(handshake(), client))
            await until(lambda: client.tunnel is not None)
            exchange.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchange
            await closed.wait()

    play(scene)


def test_the_client_closes_the_tunnel() -> None:
    """A client that closes ends the exchange in peace, and all that it has sent arrives (R59)."""
    size = 20_000_000

    async def scene() -> None:
        client = FakeClient()
        closed = asyncio.Event()
        received: list[int] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SWITCH)
            await closed.wait()
            received.append(len(await reader.read()))

        async with upstream(script) as peer:
            exchange = asyncio.ensure_future(peer.forward(handshake(), client))
            await until(lambda: client.tunnel is not None)
            assert client.tunnel is not None
            client.tunnel.write(b"a" * size)
            client.tunnel.end()
            await exchange
            closed.set()
            await until(lambda: received == [size])
            await until(lambda: peer.pool.counts() == {"idle": 0, "active": 0})

    play(scene)


def test_the_upstream_tears_the_tunnel() -> None:
    """A tunnel whose upstream is lost is told from one that ended (R59, F31)."""

    async def scene() -> None:
        client = FakeClient()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SWITCH)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        async with upstream(script) as peer:
            with pytest.raises(UpstreamIncomplete):
                await peer.forward(handshake(), client)

    play(scene)


def test_a_full_tunnel() -> None:
    """Each side is paused while the other takes nothing, and goes on afterwards (R59, R123)."""
    size = 20_000_000

    async def scene() -> None:
        client = FakeClient()
        go_on = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SWITCH)
            await go_on.wait()
            assert len(await reader.readexactly(size)) == size
            writer.write(b"b" * size)

        async with upstream(script) as peer:
            exchange = asyncio.ensure_future(peer.forward(handshake(), client))
            await until(lambda: client.tunnel is not None)
            assert client.tunnel is not None
            client.tunnel.write(b"a" * size)
            assert not client.reading
            go_on.set()
            await until(lambda: client.reading)
            await client.got(b"bbbb")
            client.tunnel.pause_reading()
            (connection,) = peer.pool._open
            assert not connection._transport.is_reading()
            client.tunnel.resume_reading()
            await exchange
            assert client.written.endswith(b"b" * size)

    play(scene)
