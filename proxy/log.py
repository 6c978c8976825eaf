"""One event, one line: JSON for machines, aligned columns for a terminal.

Whatever a value holds, it can't end the line, move the cursor or reverse the text (R151). Logging never raises and
never waits: neither a full disk nor a reader who has stopped is a reason to stop serving (R166).
"""

import json
import logging
import os
import re
import time
import traceback
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, TextIO

import msgspec

from proxy import settings
from proxy.core.text import MAX_TEXT, one_line
from proxy.log_writer import writer_for

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["json", "console"]
_Scalar = str | int | float | bool | None

_SEVERITY = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_COLOUR = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_RESET = "\x1b[0m"
# A console value that could be taken for two, or for another field, is quoted.
_BARE = re.compile(r'[^\s"=]+')
# Where the words of a library's message end and the values, which can be a peer's, begin.
_WORDS = re.compile(r"[^\n(<{\[=\"']*")
_encode_json = msgspec.json.Encoder().encode


def _scalar(value: object) -> _Scalar:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, bytes):
        return one_line(value[: MAX_TEXT + 1].decode(errors="backslashreplace"))
    if isinstance(value, str):
        return one_line(value)
    # The text of an exception can repeat a peer's bytes, its type can't.
    return one_line(type(value).__name__ if isinstance(value, BaseException) else str(value))


def _json(now: float, level: Level, event: str, fields: dict[str, _Scalar]) -> bytes:
    begin = _json_begin(now, level, event)
    return begin + b"," + _encode_json(fields)[1:] if fields else begin + b"}"


def _json_begin(now: float, level: Level, event: str) -> bytes:
    milliseconds = int(now * 1000)
    return b'{"time":"%b.%03dZ",%b' % (_utc(milliseconds // 1000), milliseconds % 1000, _title(level, event))


@lru_cache(maxsize=1)
def _utc(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


@lru_cache(maxsize=64)
def _title(level: Level, event: str) -> bytes:
    return _encode_json({"level": level, "event": event})[1:-1]


def _console(now: float, level: Level, event: str, fields: dict[str, _Scalar]) -> bytes:
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items() if value not in (None, ""))
    return f"{clock} {level:<7} {event:<24} {shown}".rstrip().encode()


def _coloured(now: float, level: Level, event: str, fields: dict[str, _Scalar]) -> bytes:
    line = _console(now, level, event, fields).decode()
    return line.replace(level, f"{_COLOUR[level]}{level}{_RESET}", 1).encode()


def _shown(value: _Scalar) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class Entry(Protocol):
    """Something that has a line of its own."""

    def fields(self) -> dict[str, object]: ...

    def json(self) -> bytes:
        """The same as JSON, without the braces."""


class Log:
    """Writes events to `stream`, each with the fields of `common`.

    `stream` is None where the process was started with it closed.
    """

    def __init__(
        self,
        stream: TextIO | None,
        level: Level = "info",
        style: Style = "json",
        *,
        common: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self._stream = stream
        self._common = dict(common)
        self._common_json = b"".join(b"," + _encode_json({name: value})[1:-1] for name, value in common.items())
        self._writer = writer_for(stream, self._missing)
        self._use(level, style)

    def obey(self, config: settings.Log) -> None:
        """From here on; `auto` is console on a terminal and JSON elsewhere."""
        style = config.format
        if style == "auto":
            style = "console" if _is_terminal(self._stream) else "json"
        self._use(config.level, style)

    def _use(self, level: Level, style: Style) -> None:
        self._threshold = _SEVERITY[level]
        self._render = _json if style == "json" else _coloured if _wants_colour(self._stream) else _console

    @property
    def dropped(self) -> int:
        """How many lines could not be written."""
        return self._writer.dropped

    def enabled(self, level: Level) -> bool:
        """False when a line of this level would not be written, so that it need not be built."""
        return _SEVERITY[level] >= self._threshold

    def debug(self, event: str, /, **fields: object) -> None:
        self._emit("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._emit("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._emit("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._emit("error", event, fields)

    def entry(self, event: str, entry: Entry) -> None:
        """As `info`, for what comes often: the line may be written a moment later, with others, on the running loop."""
        if self.enabled("info"):
            self._writer.write_soon(self._entry_line(event, entry))

    def _entry_line(self, event: str, entry: Entry) -> bytes:
        if self._render is not _json:
            return self._line("info", event, entry.fields())
        return b"%b%b,%b}\n" % (_json_begin(time.time(), "info", event), self._common_json, entry.json())

    def _emit(self, level: Level, event: str, fields: dict[str, object]) -> None:
        if self.enabled(level):
            self._writer.write(self._line(level, event, fields))

    def _line(self, level: Level, event: str, fields: dict[str, object]) -> bytes:
        plain = {name: _scalar(value) for name, value in (self._common | fields).items()}
        return self._render(time.time(), level, one_line(event), plain) + b"\n"

    def _missing(self, count: int) -> bytes:
        return self._line("warning", "log_lines_dropped", {"count": count}) if self.enabled("warning") else b""


def log_for(config: settings.Log, stream: TextIO | None, **common: object) -> Log:
    """The log that the configuration asks for, with the fields of `common` on each line."""
    log = Log(stream, common=common)
    log.obey(config)
    return log


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _wants_colour(stream: TextIO | None) -> bool:
    return _is_terminal(stream) and not os.environ.get("NO_COLOR")


def capture_standard_logging(log: Log) -> None:
    """Sends warnings and errors of `logging` (aiohttp, asyncio) and of `warnings` through `log`, one line each.

    Only the words of a message are kept, and of an exception its type and the place where it was raised: the values in
    them, and an exception's own text, can be a peer's bytes.
    """

    def show_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
    ) -> None:
        log.warning("python_warning", kind=category.__name__, message=_words(str(message)), at=_place(filename, lineno))

    logging.basicConfig(handlers=[_Bridge(log)], level=logging.WARNING, force=True)
    warnings.showwarning = show_warning


class _Bridge(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        fields = {"logger": record.name, "message": _words(str(record.msg))}
        exc = record.exc_info[1] if record.exc_info else None
        if exc is not None:
            fields |= {"exception": type(exc).__name__, "at": _raised_at(exc)}
        write("library_message", **fields)


def _words(message: str) -> str:
    match = _WORDS.match(message)
    return match[0].strip() if match else ""


def _raised_at(exc: BaseException) -> str:
    frames = list(traceback.walk_tb(exc.__traceback__))
    if not frames:
        return ""
    frame, lineno = frames[-1]
    return _place(frame.f_code.co_filename, lineno)


def _place(filename: str, lineno: int) -> str:
    path = Path(filename)
    return f"{path.parent.name}/{path.name}:{lineno}"
