"""Whatever bytes a client sends: upstream arrives nothing, or one whole request of ours for each answer."""

from pathlib import Path

import pytest
from hypothesis import given

from tests.fuzz import grammar, oracle
from tests.fuzz.profile import tries
from tests.fuzz.stage import Stage
from tests.fuzz.upstream import Counting

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # see Stage._left
CORPUS = sorted((Path(__file__).parent / "corpus" / "requests").iterdir())

_GONE = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"http2-settings"),
        *(b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization"),
        *(b"cookie", b"forwarded", b"x-real-ip", b"x-forwarded-for", b"content_length", b"x_forwarded_for"),
    }
)


async def sent(stage: Stage, pieces: list[bytes]) -> None:
    upstream = Counting()
    stage.hears = upstream.hears
    client = await stage.connect()
    for piece in pieces:
        client.send(piece)
        await stage.settle()
    assert not upstream.broken, upstream.broken
    raw = b"".join(pieces)
    for request in upstream.requests:
        judge(request, raw, stage)
    compare(upstream.requests, oracle.requests(raw), bytes(client.received), ended=client.finished)


def judge(request: oracle.Request, raw: bytes, stage: Stage) -> None:
    """Is it a request as only the proxy makes them, for a target that the client named?"""
    assert request.values(b"authorization") == [b"Bearer " + stage.tokens.token]
    assert request.values(b"host") == [stage.authority]
    assert request.version == b"1.1"
    assert len(request.values(b"content-length")) + len(request.values(b"transfer-encoding")) <= 1
    assert request.values(b"via")[-1].endswith(b" thg-proxy")
    assert request.target in raw or b"OPTIONS http" in raw or b"?" in request.target or request.target == b"/"
    hop_by_hop = {name for name, _ in request.fields} & _GONE
    assert not hop_by_hop or (
        hop_by_hop == {b"connection", b"upgrade"}
        and request.values(b"connection") == [b"Upgrade"]
        and request.values(b"upgrade") == [b"websocket"]
    )


def compare(arrived: list[oracle.Request], meant: list[oracle.Request], answer: bytes, *, ended: bool) -> None:
    """Are the answers those to the client's requests, in their order, and the requests what h11 reads in its bytes?"""
    methods = [request.method for request in meant] + [b"GET"] * 3
    reading = oracle.responses(answer, methods, ended=ended)
    assert set(reading.interim) <= {100}
    # A request whose body is nonsense in the same piece is answered as nonsense is: with a body, were it a HEAD.
    assert not reading.rest or (ended and reading.rest.startswith(b'{"type": "urn:thg-proxy:bad_request"'))
    served = [(number, response) for number, response in enumerate(reading.responses) if response.values(b"x-served")]
    assert [response.values(b"x-served") for _, response in served] == [[b"%d" % k] for k in range(len(served))]
    assert len(served) <= len(arrived) <= len(served) + 1
    for (number, _), request in zip(served, arrived, strict=False):
        assert number < len(meant), f"h11 reads no such request: {request}"
        assert (request.method, request.body) == (meant[number].method, meant[number].body)
        assert meant[number].target.endswith(request.target) or request.target in (b"/", b"*")


@tries(1200)
@given(grammar.requests, grammar.cuts)
def test_any_request(stage: Stage, raw: bytes, cuts: list[float]) -> None:
    """Exactly one Authorization and Host, ours; no field of one hop; the client's target; h11 reads the same requests
    in the client's bytes as arrive upstream (R1-R17, R29, R30, R34, R37, R46-R48, R65).
    """
    stage.run(sent(stage, grammar.pieces(raw, cuts)))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_known_request(stage: Stage, path: Path) -> None:
    """The same for bytes that are worth keeping, whole and byte by byte (R1-R17, R29, R30)."""
    raw = path.read_bytes()
    stage.run(sent(stage, [raw]))
    stage.run(sent(stage, [raw[at : at + 1] for at in range(len(raw))]))
