"""W3C Trace Context: what the caller says of the trace that a request belongs to, and what the upstream is told of it.

Words in quotes are headings of the Recommendation, https://www.w3.org/TR/trace-context-1/.
"""

import re
from typing import NamedTuple

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"

# "version": ff is forbidden, and 00 ends behind the flags. A later one may go on behind another hyphen ("Versioning of
# traceparent"), but not with a comma, which is where two fields were joined.
_TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<parent>(?!0{16})[0-9a-f]{16})"
    rb"-(?P<flags>[0-9a-f]{2})(?:-[^,]*)?",
    re.DOTALL,
)
_SAMPLED = 0x01

# "list-members": a key, perhaps with a tenant before an @, and a value, whose last character is no space.
_KEY = rb"[a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13}"
_MEMBER = re.compile(rb"(?:%b)=[ -+\x2d-<>-~]{0,255}[!-+\x2d-<>-~]" % _KEY)
_MAX_MEMBERS = 32
_OWS = b" \t"

# The half of a trace id that decides, as in other implementations: they agree on which traces are sampled.
_DECIDING = (1 << 64) - 1


class TraceContext(NamedTuple):
    """Ids in hexadecimal digits. `parent_id`: of the caller's span, empty in a trace that begins here. `state`: the
    value of `tracestate`, empty where there is none.
    """

    trace_id: bytes
    parent_id: bytes
    is_sampled: bool
    state: bytes


def incoming(traceparent: bytes | None, tracestate: bytes | None) -> TraceContext | None:
    """What the two fields say, each with its lines joined by commas; None where a trace has to begin here (R168).

    Without a good `traceparent`, `tracestate` means nothing; a bad `tracestate` is dropped alone ("Tracestate Header").
    """
    match = _TRACEPARENT.fullmatch(traceparent.strip(_OWS)) if traceparent is not None else None
    if match is None:
        return None
    is_sampled = bool(int(match["flags"], 16) & _SAMPLED)
    return TraceContext(match["trace"], match["parent"], is_sampled, _good_state(tracestate or b""))


def _good_state(state: bytes) -> bytes:
    """As it is, or nothing where a part of it is not well-formed."""
    members = [member for part in state.split(b",") if (member := part.strip(_OWS))]
    keys = {member.partition(b"=")[0] for member in members}
    is_good = 0 < len(members) == len(keys) <= _MAX_MEMBERS and all(map(_MEMBER.fullmatch, members))
    return state.strip(_OWS) if is_good else b""


def beginning(trace_id: int, fraction: float) -> TraceContext:
    """A new trace, which is one of the `fraction` that are sampled, or not."""
    return TraceContext(b"%032x" % trace_id, b"", (trace_id & _DECIDING) < fraction * (_DECIDING + 1), b"")


def outgoing(context: TraceContext, span_id: bytes) -> bytes:
    """The finished lines that name our span as the parent of what the upstream does.

    `sampled` is the only flag that is known here; the others must be zero ("Other Flags").
    """
    flags = _SAMPLED if context.is_sampled else 0
    traceparent = b"traceparent: 00-%b-%b-%02x\r\n" % (context.trace_id, span_id, flags)
    return traceparent + b"tracestate: %b\r\n" % context.state if context.state else traceparent
