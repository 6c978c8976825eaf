"""Whatever an upstream answers: the client sees one well-formed response, or a cut one on a connection that ends."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamError
from proxy.upstream.response import Response
from tests.fuzz import grammar, oracle
from tests.fuzz.profile import tries
from tests.fuzz.stage import Peer, Stage
from tests.outbound import outbound

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # see Stage._left
CORPUS = sorted((Path(__file__).parent / "corpus" / "responses").iterdir())

# The proxy drops interim responses whatever is in them, and llhttp takes any line ends before a response; h11 does not.
_BEFORE = re.compile(rb"(?:[\r\n]*HTTP/1\.[01] 1(?!01)\d\d.*?\r\n\r\n)*[\r\n]*", re.DOTALL)
_SECOND = b"HTTP/1.1 200 OK\r\nX-Second: yes\r\nContent-Length: 6\r\n\r\nsecond"
_methods = st.sampled_from([b"GET", b"GET", b"HEAD"])


def read(pieces: list[bytes], method: bytes, *, ended: bool) -> tuple[Response, UpstreamError | None]:
    """What the proxy reads in the pieces. As on a connection, nothing is read after the end."""
    response = Response(outbound(method=method.decode()))
    try:
        for piece in pieces:
            if not response.complete:
                response.feed(piece)
        if ended:
            response.end()
    except UpstreamError as error:
        return response, error
    return response, None


def meant(raw: bytes, method: bytes, *, ended: bool) -> oracle.Reading:
    """What h11 reads there."""
    before = _BEFORE.match(raw)
    assert before is not None
    return oracle.responses(raw[before.end() :], [method], ended=ended)


@tries(3000)
@given(grammar.responses, _methods, st.booleans())
def test_reading(raw: bytes, method: bytes, ended: bool) -> None:
    """What the proxy takes for a whole response h11 does, too, with the same status and body (R116-R121)."""
    response, error = read([raw], method, ended=ended)
    if not response.complete:
        return
    reading = meant(raw, method, ended=ended)
    assert len(reading.responses) == 1, reading.error
    assert reading.responses[0].complete, reading.error
    assert (response.status, response.take()) == (reading.responses[0].status, reading.responses[0].body)
    if response.keep_alive and error is None:
        assert not reading.rest.strip(b"\r\n"), f"the connection would be used again after {reading.rest!r}"


@tries(1000)
@given(grammar.responses, _methods, grammar.cuts)
def test_reading_in_pieces(raw: bytes, method: bytes, cuts: list[float]) -> None:
    """Where the network cuts makes no difference to what is read (R115-R121)."""
    whole, error = read([raw], method, ended=True)
    cut, cut_error = read(grammar.pieces(raw, cuts), method, ended=True)
    assert (cut.complete, cut.status, cut.reason, cut.fields.lines) == (
        *(whole.complete, whole.status, whole.reason, whole.fields.lines),
    )
    if whole.complete:
        assert cut.take() == whole.take()
    else:
        assert type(cut_error) is type(error)


async def relayed(stage: Stage, pieces: list[bytes], method: bytes, *, resets: bool) -> None:
    """The upstream answers with `pieces`, and ends the connection; a second request follows in any case."""
    first: list[Peer] = []

    def hears(peer: Peer) -> None:
        if b"/second " in peer.received:
            assert peer not in first, "the connection was used again"
            peer.send(_SECOND)
        elif peer.received.endswith(b"\r\n\r\n"):
            first.append(peer)

    stage.hears = hears
    client = await stage.connect()
    client.send(b"%b /first HTTP/1.1\r\nHost: localhost\r\n\r\n" % method)
    await stage.until(lambda: first, "the request arrives")
    for piece in pieces:
        first[0].send(piece)
        await stage.settle()
    first[0].abort() if resets else first[0].finish()
    await stage.settle()
    client.send(b"GET /second HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await stage.settle()
    judge(bytes(client.received), b"".join(pieces), method, ended=client.ended)


def judge(answer: bytes, raw: bytes, method: bytes, *, ended: bool) -> None:
    reading = oracle.responses(answer, [method, b"GET"], ended=ended)
    assert not reading.rest, "more than was asked for"
    assert not reading.interim
    if not reading.responses:
        return
    first, *others = reading.responses
    assert not first.values(b"x-second")
    assert first.complete or ended, "cut, and the connection goes on"
    assert b"canary-1" not in b"".join(value for _, value in first.fields)
    if first.complete and not first.values(b"proxy-status"):
        expected = meant(raw, method, ended=True).responses[0]
        assert expected.complete
        assert (first.status, first.body) == (expected.status, expected.body)
    for second in others:
        assert second.values(b"x-second") or second.values(b"proxy-status")
        assert not second.complete or second.values(b"proxy-status") or second.body == b"second"


@tries(600)
@given(grammar.responses, _methods, grammar.cuts, st.booleans())
def test_any_response(stage: Stage, raw: bytes, method: bytes, cuts: list[float], resets: bool) -> None:
    """One response for one request, whole only where the upstream's was; a second request gets its own answer
    (R115-R122, P4).
    """
    stage.run(relayed(stage, grammar.pieces(raw, cuts), method, resets=resets))


@pytest.mark.parametrize("method", [b"GET", b"HEAD"], ids=bytes.decode)
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_known_response(stage: Stage, path: Path, method: bytes) -> None:
    """The same for bytes that are worth keeping, cut in two at every place (R115-R122, P4)."""
    raw = path.read_bytes()
    for at in range(len(raw) + 1):
        stage.run(relayed(stage, [raw[:at], raw[at:]], method, resets=False))
