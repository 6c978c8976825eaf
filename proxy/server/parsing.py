"""What aiohttp's request parser does, and does not say."""

from collections.abc import Iterator
from typing import NoReturn

from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE, _ErrInfo

from proxy.errors import BadRequest, HeaderTooLarge

_HEAD_END = b"\r\n\r\n"
# How a chunked body without trailers ends (RFC 9112 §7.1).
_PLAIN_END = b"\r\n0\r\n\r\n"
# Bytes on the wire for a byte of a body: a chunk of one byte takes six.
_CHUNK_OVERHEAD = 8
MAX_CHUNK_OVERHEAD = 16 << 10


class ChunkedWire:
    """A chunked body as it comes: its extensions, which the parser does not bound, and trailers, which it hides."""

    __slots__ = ("_overhead", "_tail")

    def __init__(self) -> None:
        self._overhead = 0
        self._tail = b""

    def next_request(self) -> None:
        self._overhead = 0

    def saw(self, data: bytes) -> None:
        self._tail = (self._tail + data[-len(_PLAIN_END) :])[-len(_PLAIN_END) :]

    @property
    def has_trailers(self) -> bool:
        """Of a chunked body that has ended."""
        return self._tail != _PLAIN_END

    def is_overlong(self, size: int, gained: int) -> bool:
        """After `size` bytes on the wire, `gained` of which were the body's (RFC 9112 §7.1.1, R11)."""
        self._overhead = max(0, self._overhead + size - gained * _CHUNK_OVERHEAD)
        return self._overhead > MAX_CHUNK_OVERHEAD


def head_ends(data: bytes) -> Iterator[int]:
    """Where heads may end in `data`, the first ones; a body can look like one, which is no harm."""
    end = 0
    for _ in range(MAX_MSG_QUEUE_SIZE):
        end = data.find(_HEAD_END, end) + len(_HEAD_END)
        if end < len(_HEAD_END):
            return
        yield end


def drops_bytes(data: bytes, payload: StreamReader, requests: int) -> bool:
    """Does something follow, in the same piece, the request to upgrade that was the last of `requests` in `data`?

    The parser stops there, and what is behind, the next request or a part of it, is lost.
    """
    is_end = payload is not EMPTY_PAYLOAD or data.endswith(_HEAD_END)
    return data.count(_HEAD_END) > requests or not is_end


def ends_http(message: RawRequestMessage) -> bool:
    """Behind CONNECT, and what looks like a WebSocket handshake, aiohttp reads no further request, tunnel or not."""
    is_handshake = bool(message.upgrade) and message.headers.get("Upgrade", "").lower() == "websocket"
    return is_handshake or message.method == "CONNECT"


def raise_parse_error(info: _ErrInfo) -> NoReturn:
    """The parser's message repeats the client's bytes, so it goes nowhere."""
    if isinstance(info.exc, LineTooLong) or "Too many headers" in info.message:
        raise HeaderTooLarge
    raise BadRequest
