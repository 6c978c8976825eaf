"""Clients that say the same again and again: a header section that is known already means what it says, where it stands
for a header section, and nothing where it only looks like one.
"""

from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz import oracle
from tests.fuzz.profile import tries
from tests.fuzz.stage import Stage
from tests.fuzz.test_requests import judge
from tests.fuzz.upstream import Counting

HOST = b"Host: localhost\r\n"


class Said(NamedTuple):
    """Some bytes of a client; `cut`: they come in two pieces, split there."""

    data: bytes
    cut: int = 0

    @property
    def pieces(self) -> list[bytes]:
        return [piece for piece in (self.data[: self.cut], self.data[self.cut :]) if piece]


def a_request(method: bytes, section: bytes, body: bytes = b"", target: bytes = b"/a") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, section, body)


EVIL = a_request(b"GET", b"Host: evil.example\r\n")
WHOLE = [
    *(a_request(method, HOST) for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS")),
    *(a_request(method, HOST + b"X-A: 1\r\n") for method in (b"GET", b"POST")),
    *(a_request(method, HOST + b"Content-Length: 20\r\n", b"GET /s HTTP/1.1\r\nHos") for method in (b"POST", b"PUT")),
    *(a_request(method, HOST + b"Content-Length: 0\r\n") for method in (b"POST", b"GET")),
    a_request(b"POST", HOST + b"Content-Length: 36\r\n", b"GET /smuggled HTTP/1.1\r\nHost: localhost"),
    a_request(b"POST", HOST + b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
    a_request(b"OPTIONS", HOST + b"Max-Forwards: 5\r\n"),
    a_request(b"GET", HOST + b"Max-Forwards: 5\r\n"),
    a_request(b"GET", HOST + b"X-A: 1\r\nX-A: 2\r\n", target=b"/a?b=c"),
    a_request(b"GET", HOST + b"Connection: X-A\r\nX-A: 1\r\n"),
    a_request(b"GET", b"Host: evil.example\r\n", target=b"http://localhost/a"),
    EVIL,
]
# As long as the body that it announces.
EVEN = b"POST /b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 57\r\n\r\n"
# What makes one who has lost count take the middle of a message for its beginning.
ODD = [
    *(b"\r\n", b"GET /b HTTP/1.1\r\nX-B: ", b"POST /b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60\r\n\r\n"),
    *(
        b"GET /b HTTP/1.1\r\n",
        b"POST /b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\nabc",
    ),
    *(b"\r\n0\r\n\r\n", b"x", b"0\r\nX-A: 1\r\n\r\n", EVEN),
]
assert b"Content-Length: %d\r\n" % len(EVEN) in EVEN
_whole = st.sampled_from(WHOLE)
said = st.lists(
    st.one_of(
        st.builds(Said, _whole),
        st.builds(Said, _whole, st.integers(1, 90)),
        st.builds(Said, st.sampled_from(ODD)),
        st.builds(lambda *both: Said(b"".join(both)), _whole, st.sampled_from([*WHOLE, *ODD])),
    ),
    min_size=2,
    max_size=6,
)


def end_to_end(request: oracle.Request) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in request.fields if name in (b"x-a", b"x-b", b"max-forwards")]


def is_for_us(request: oracle.Request) -> bool:
    """RFC 9112 §3.2.2: the authority of an absolute-form stands for Host."""
    return request.target.startswith(b"http://localhost/") or request.values(b"host") == [b"localhost"]


async def repeated(stage: Stage, story: list[Said]) -> None:
    upstream = Counting()
    stage.hears = upstream.hears
    client = await stage.connect()
    for piece in (piece for part in story for piece in part.pieces):
        client.send(piece)
        await stage.settle()
    assert not upstream.broken, upstream.broken
    raw = b"".join(part.data for part in story)
    meant = [request for request in oracle.requests(raw) if is_for_us(request)]
    for number, request in enumerate(upstream.requests):
        judge(request, raw, stage)
        assert number < len(meant), f"h11 reads no such request: {request}"
        expected = meant[number]
        target = expected.target.removeprefix(b"http://localhost")
        assert (request.method, request.target, request.body) == (expected.method, target, expected.body)
        if expected.method != b"OPTIONS" and not expected.values(b"connection"):
            assert end_to_end(request) == end_to_end(expected)


@tries(800)
@given(said)
@example([Said(WHOLE[0]), Said(b"GET /b HTTP/1.1\r\nX-B: "), Said(WHOLE[0]), Said(WHOLE[0])])
@example([Said(WHOLE[0]), Said(WHOLE[0] + b"GET /b HTTP/1.1\r\nX-B: "), Said(WHOLE[0]), Said(WHOLE[0])])
@example([Said(WHOLE[0]), Said(WHOLE[0] + ODD[2]), Said(WHOLE[0]), Said(WHOLE[0])])
@example([Said(a_request(b"GET", b"Host: evil.example\r\n", target=b"http://localhost/a")), Said(EVIL), Said(EVIL)])
@example([Said(WHOLE[0]), Said(EVIL + EVEN), Said(WHOLE[0]), Said(WHOLE[0])])
def test_any_repetition(stage: Stage, story: list[Said]) -> None:
    """What arrives upstream is what h11 reads in the client's bytes, wherever they were cut and whatever came before:
    method, target, fields and body, in their order (R1-R17, R26, R29, R30, R34, R52).
    """
    stage.run(repeated(stage, story))
