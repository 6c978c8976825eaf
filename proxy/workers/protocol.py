"""What parent and worker say to each other: messages, each behind its length.

A worker reads what strangers send; so its parent believes it no more than a peer: whatever is not a message ends it.
"""

from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

import msgspec

from proxy.core.lifecycle import Now
from proxy.core.secret import Secret
from proxy.core.text import one_line
from proxy.errors import ProxyError
from proxy.metrics import Counts
from proxy.record import RequestRecord
from proxy.settings import Duration, Settings, Size

_LENGTH = 4
# Much more than a configuration with its rules, or the last requests with their paths.
MAX_MESSAGE = 16 << 20

# The number of a question whose answer nobody waits for.
NOBODY = 0

T = TypeVar("T")


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


# From the parent.


class Start(_Message, frozen=True):
    """The first. `number`: of the worker, from 1; `sockets`: for each worker, the descriptors it was started with."""

    number: int
    sockets: tuple[tuple[int, ...], ...]


class Configure(_Message, frozen=True):
    """To be obeyed by requests that begin from now on, with tokens of `source`; answered by Configured."""

    version: int
    source: int
    settings: Settings


class Lend(_Message, frozen=True):
    """A token of `source`. `until`: it is never sent later, by either clock, whatever becomes of the parent."""

    source: int
    token: Secret
    generation: int
    until: Now


class Watch(_Message, frozen=True):
    """Whose sockets are to be accepted on, from now on: its own, and those of workers that are not there."""

    numbers: tuple[int, ...]


class Answer(_Message, frozen=True):
    """To Acquire or Refused; the token comes before it. `code`: of the error, if it is one."""

    question: int
    code: str = ""
    retry_after: float = 1.0


class Tell(_Message, frozen=True):
    """A Report is wanted now."""

    question: int


class Drain(_Message, frozen=True):
    """No more connections; end when the requests in flight have ended, or their time has."""


class Hurry(_Message, frozen=True):
    """End now."""


# From a worker.


class Serving(_Message, frozen=True):
    """It is configured, and can watch."""


class Configured(_Message, frozen=True):
    """`problem`: what kept it from that; the old configuration stays in force."""

    version: int
    problem: str = ""


class Acquire(_Message, frozen=True):
    """A request waits for a token of `source`."""

    question: int
    source: int


class Refused(_Message, frozen=True):
    """The API did not take the token of `generation`."""

    question: int
    source: int
    generation: int


class Forget(_Message, frozen=True):
    """Nobody waits for the answer any more."""

    question: int


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """A request that is over, with what is shown of it and no more (R152)."""

    method: str
    target: str
    started: float
    request_id: str
    status: int
    code: str
    outcome: str
    duration: float
    token_wait: float
    connect: float
    ttfb: float
    bytes_in: int
    bytes_out: int
    replayed: bool

    @classmethod
    def of(cls, record: RequestRecord) -> Self:
        known = {name: getattr(record, name) for name in cls.__struct_fields__}
        return cls(**known | {"target": one_line(str(record.fields()["path"]))})

    def record(self) -> RequestRecord:
        record = RequestRecord(self.method, self.target, self.started)
        for name in self.__struct_fields__:
            setattr(record, name, getattr(self, name))
        return record


class Report(_Message, frozen=True):
    """What was counted since the last one, and how things are now. `answers`: the last question of a Tell."""

    answers: int
    counts: Counts
    recent: list[Ended]
    lines_dropped: int
    in_flight: int
    connections: dict[str, int]
    lag: float
    descriptors: tuple[int, int] | None


ToWorker = Start | Configure | Lend | Watch | Answer | Tell | Drain | Hurry
ToParent = Serving | Configured | Acquire | Refused | Forget | Report


class NotUnderstood(ProxyError):
    """What came is no message."""

    code = "not_understood"


def encode(message: ToWorker | ToParent) -> bytes:
    data = (_lender if isinstance(message, Lend) else _encoder).encode(message)
    return len(data).to_bytes(_LENGTH) + data


class Messages(Generic[T]):
    """Messages of `kind`, out of the pieces in which they come."""

    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kind, dec_hook=_from_plain).decode
        self._pieces = bytearray()

    def feed(self, piece: bytes) -> Iterator[T]:
        """Those that are complete with this piece. Raises NotUnderstood."""
        self._pieces += piece
        while len(self._pieces) >= _LENGTH:
            size = int.from_bytes(self._pieces[:_LENGTH])
            if size > MAX_MESSAGE:
                raise NotUnderstood
            if len(self._pieces) < _LENGTH + size:
                return
            data = bytes(self._pieces[_LENGTH : _LENGTH + size])
            del self._pieces[: _LENGTH + size]
            yield self._message(data)

    def _message(self, data: bytes) -> T:
        try:
            message: T = self._decode(data)
        except (msgspec.MsgspecError, ValueError, TypeError):
            # Without its cause, which holds what came.
            raise NotUnderstood from None
        return message


def _to_plain(value: object) -> object:
    """The types of a configuration, in those of msgpack. No secret is among them."""
    match value:
        case Duration():
            return float(value)
        case Size():
            return int(value)
    raise NotImplementedError(type(value).__name__)


def _with_token(value: object) -> object:
    return value.reveal() if isinstance(value, Secret) else _to_plain(value)


def _from_plain(kind: type[Any], value: Any) -> Any:
    return kind(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_plain)
_lender = msgspec.msgpack.Encoder(enc_hook=_with_token)
