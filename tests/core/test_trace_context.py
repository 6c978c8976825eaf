"""The cases of W3C's own harness (w3c/trace-context, test/test.py, STRICT_LEVEL 2), and what holds for any bytes."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.trace_context import TraceContext, beginning, incoming, outgoing

TRACE, PARENT = b"12345678901234567890123456789012", b"1234567890123456"
GOOD = b"00-" + TRACE + b"-" + PARENT + b"-01"
SPAN = b"00f067aa0ba902b7"

# lower-case letters, digits and _-*/; and all that a value may hold, spaces at its beginning
KEY_CHARACTERS = bytes(range(0x61, 0x7B)) + b"0123456789_-*/"
VALUE_CHARACTERS = bytes({*range(0x20, 0x7F)} - {*b",="})
MEMBERS = [b"bar%02d=%02d" % (number, number) for number in range(1, 34)]


@pytest.mark.parametrize(
    "traceparent",
    [
        GOOD,
        # a later version, alone and with more behind it
        b"cc-" + TRACE + b"-" + PARENT + b"-01",
        b"cc-" + TRACE + b"-" + PARENT + b"-01-what-the-future-will-be-like",
        b"01-" + TRACE + b"-" + PARENT + b"-01-",
        # optional whitespace
        b" " + GOOD,
        b"\t" + GOOD,
        GOOD + b" ",
        GOOD + b"\t",
        b"\t " + GOOD + b" \t",
    ],
)
def test_good_traceparent(traceparent: bytes) -> None:
    """The trace goes on (R168)."""
    assert incoming(traceparent, None) == TraceContext(TRACE, PARENT, is_sampled=True, state=b"")


@pytest.mark.parametrize("trace", [b"0" * 31 + b"1", b"0123456789abcdef" * 2, b"f" * 32])
@pytest.mark.parametrize("parent", [b"0" * 15 + b"1", b"0123456789abcdef", b"f" * 16])
def test_ids(trace: bytes, parent: bytes) -> None:
    """Every id but that of zeros is one (R168)."""
    assert incoming(b"00-%b-%b-00" % (trace, parent), None) == TraceContext(trace, parent, is_sampled=False, state=b"")


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        b"",
        # in two fields
        GOOD + b"," + GOOD,
        b"cc-" + TRACE + b"-" + PARENT + b"-01-x," + GOOD,
        # version
        GOOD + b".",
        GOOD + b"-what-the-future-will-be-like",
        GOOD + b"-",
        GOOD + b"\n",
        b"cc-" + TRACE + b"-" + PARENT + b"-01.what-the-future-will-be-like",
        b"ff-" + TRACE + b"-" + PARENT + b"-01",
        b".0-" + TRACE + b"-" + PARENT + b"-01",
        b"0.-" + TRACE + b"-" + PARENT + b"-01",
        b"CC-" + TRACE + b"-" + PARENT + b"-01",
        b"000-" + TRACE + b"-" + PARENT + b"-01",
        b"0000-" + TRACE + b"-" + PARENT + b"-01",
        b"0-" + TRACE + b"-" + PARENT + b"-01",
        # trace-id
        b"00-" + b"0" * 32 + b"-" + PARENT + b"-01",
        b"00-." + TRACE[1:] + b"-" + PARENT + b"-01",
        b"00-" + TRACE[:-1] + b".-" + PARENT + b"-01",
        b"00-" + TRACE[:-1] + b"A-" + PARENT + b"-01",
        b"00-" + TRACE + b"3-" + PARENT + b"-01",
        b"00-" + TRACE[:-1] + b"-" + PARENT + b"-01",
        # parent-id
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE + b"-." + PARENT[1:] + b"-01",
        b"00-" + TRACE + b"-" + PARENT[:-1] + b".-01",
        b"00-" + TRACE + b"-" + PARENT[:-1] + b"A-01",
        b"00-" + TRACE + b"-" + PARENT + b"7-01",
        b"00-" + TRACE + b"-" + PARENT[:-1] + b"-01",
        # trace-flags
        b"00-" + TRACE + b"-" + PARENT + b"-.0",
        b"00-" + TRACE + b"-" + PARENT + b"-0.",
        b"00-" + TRACE + b"-" + PARENT + b"-0A",
        b"00-" + TRACE + b"-" + PARENT + b"-001",
        b"00-" + TRACE + b"-" + PARENT + b"-1",
    ],
)
def test_bad_traceparent(traceparent: bytes | None) -> None:
    """A new trace begins, and the state of the old one is not read (R168)."""
    assert incoming(traceparent, b"foo=1") is None


@pytest.mark.parametrize("flags, is_sampled", [(b"00", False), (b"01", True), (b"02", False), (b"ff", True)])
def test_flags(flags: bytes, is_sampled: bool) -> None:
    """One bit says whether the caller samples; the others are not passed on."""
    context = incoming(GOOD[:-2] + flags, None)
    assert context is not None
    assert context.is_sampled is is_sampled
    assert outgoing(context, SPAN).endswith(b"-01\r\n" if is_sampled else b"-00\r\n")


@pytest.mark.parametrize(
    "tracestate, state",
    [
        (b"foo=1,bar=2", b"foo=1,bar=2"),
        (b"foo=1,bar=2,rojo=1,congo=2,baz=3", b"foo=1,bar=2,rojo=1,congo=2,baz=3"),
        (KEY_CHARACTERS + b"=" + VALUE_CHARACTERS, KEY_CHARACTERS + b"=" + VALUE_CHARACTERS),
        (KEY_CHARACTERS + b"@a-z0-9_-*/=" + VALUE_CHARACTERS, KEY_CHARACTERS + b"@a-z0-9_-*/=" + VALUE_CHARACTERS),
        # as short as may be, and all ends of the alphabet
        (b"a=1,0=!,9=~,t@v=+,0@z=<", b"a=1,0=!,9=~,t@v=+,0@z=<"),
        # empty members, and optional whitespace
        (b"foo=1,", b"foo=1,"),
        (b",foo=1", b",foo=1"),
        (b"foo=1 \t , \t bar=2, \t baz=3", b"foo=1 \t , \t bar=2, \t baz=3"),
        (b"foo=1\t \t,\t \tbar=2,\t \tbaz=3", b"foo=1\t \t,\t \tbar=2,\t \tbaz=3"),
        (b"\t foo=1 \t", b"foo=1"),
        # as long, and as many, as may be
        (b",".join(MEMBERS[:32]), b",".join(MEMBERS[:32])),
        (b",".join([*MEMBERS[:32], b"", b""]), b",".join([*MEMBERS[:32], b"", b""])),
        (b"foo=1," + b"z" * 256 + b"=1", b"foo=1," + b"z" * 256 + b"=1"),
        (b"foo=1," + b"t" * 241 + b"@" + b"v" * 14 + b"=1", b"foo=1," + b"t" * 241 + b"@" + b"v" * 14 + b"=1"),
        (b"foo=" + b"1" * 256, b"foo=" + b"1" * 256),
    ],
)
def test_good_tracestate(tracestate: bytes, state: bytes) -> None:
    """It goes on as it is (R168)."""
    context = incoming(GOOD, tracestate)
    assert context is not None
    assert context.state == state
    assert outgoing(context, SPAN) == b"traceparent: 00-%b-%b-01\r\ntracestate: %b\r\n" % (TRACE, SPAN, state)


@pytest.mark.parametrize(
    "tracestate",
    [
        None,
        b"",
        b" , ",
        b",".join(MEMBERS),
        b"foo=1,foo=1",
        b"foo=1,foo=2",
        b"foo =1",
        b"FOO=1",
        b"foo.bar=1",
        b"foo@=1,bar=2",
        b"@foo=1,bar=2",
        b"foo@@bar=1,bar=2",
        b"foo@bar@baz=1,bar=2",
        b"foo=1," + b"z" * 257 + b"=1",
        b"foo=1," + b"t" * 242 + b"@v=1",
        b"foo=1,t@" + b"v" * 15 + b"=1",
        b"foo=bar=baz",
        b"foo=,bar=3",
        b"foo=" + b"1" * 257,
        b"foo=a\tb",
        b"foo=a\x0b",
        b"\x0bfoo=a",
        b"foo=caf\xe9",
        b"foo=1\r\nX: y",
        b"foo",
    ],
)
def test_bad_tracestate(tracestate: bytes | None) -> None:
    """It goes no further; the trace does (R168)."""
    context = incoming(GOOD, tracestate)
    assert context == TraceContext(TRACE, PARENT, is_sampled=True, state=b"")
    assert outgoing(context, SPAN) == b"traceparent: 00-%b-%b-01\r\n" % (TRACE, SPAN)


@given(st.binary(max_size=80), st.binary(max_size=80))
@example(GOOD, b"foo=1")
def test_whatever_comes(traceparent: bytes, tracestate: bytes) -> None:
    """What is sent on is one or two well-formed fields, and is read as what it was made from."""
    context = incoming(traceparent, tracestate)
    if context is None:
        return
    fields = outgoing(context, SPAN)
    match = re.fullmatch(rb"traceparent: ([^\r\n]+)\r\n(?:tracestate: ([ -~\t]+)\r\n)?", fields)
    assert match is not None
    assert incoming(match[1], match[2]) == context._replace(parent_id=SPAN)


IDS = st.integers(1, (1 << 128) - 1)


@given(
    st.from_regex(rb"\A[0-9a-e]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?\Z"), st.lists(st.sampled_from(MEMBERS))
)
def test_what_looks_good(traceparent: bytes, members: list[bytes]) -> None:
    """Near the border between good and bad, too, the state goes on whole or not at all."""
    context = incoming(traceparent, b",".join(members))
    if context is not None:
        assert context.trace_id in traceparent
        is_good = 0 < len(members) == len(set(members)) <= 32
        assert context.state == (b",".join(members) if is_good else b"")


@given(IDS, st.floats(0, 1))
def test_new_trace(number: int, fraction: float) -> None:
    """It has the id that it was given, and all of them are sampled, or none, at the ends of the range."""
    context = beginning(number, fraction)
    assert int(context.trace_id, 16) == number
    assert re.fullmatch(rb"[0-9a-f]{32}", context.trace_id)
    assert (context.parent_id, context.state) == (b"", b"")
    assert beginning(number, 1).is_sampled
    assert not beginning(number, 0).is_sampled


@given(IDS, st.floats(0, 1), st.floats(0, 1))
def test_sampling_agrees(number: int, one: float, other: float) -> None:
    """What is sampled by few is sampled by all who sample more."""
    few, many = sorted((one, other))
    assert beginning(number, many).is_sampled or not beginning(number, few).is_sampled


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_fraction(fraction: float) -> None:
    """Of ids that are spread evenly, as many as that are sampled."""
    step = (1 << 64) // 1000
    chosen = sum(beginning((1 << 100) + number * step, fraction).is_sampled for number in range(1000))
    assert chosen == pytest.approx(1000 * fraction, abs=1)


@pytest.mark.parametrize("number, fraction", [(1 << 64, 0.0), (1 << 63, 0.5), (3 << 62, 0.75)])
def test_the_low_half_decides(number: int, fraction: float) -> None:
    """By all of its 64 bits, as elsewhere: the first id past the fraction is not sampled, the one before it is."""
    assert not beginning(number, fraction).is_sampled
    assert fraction == 0 or beginning(number - (1 << 20), fraction).is_sampled
