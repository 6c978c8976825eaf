"""The log's lines, read as a user or a log collector would read them."""

import asyncio
import errno
import io
import json
import logging
import os
import pty
import re
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import settings
from proxy.core.secret import Secret
from proxy.core.text import MAX_TEXT
from proxy.log import Level, Log, Style, capture_standard_logging, log_for

HOSTILE = [
    "/a\r\nFAKE level=error",
    "/\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x7f\x00\x08",
    "\u202egpj.exe",
    "\u2066isolate\u2069",
    "\u2028line\u2029paragraph",
    "\udcff\ud800",
    "\ufeffbom\u200b",
]
STYLES: list[Style] = ["json", "console"]


class Lines:
    """A log that writes to memory."""

    def __init__(self, style: Style = "json", level: Level = "debug", **common: object) -> None:
        self.stream = io.StringIO()
        self.log = Log(self.stream, level, style, common=common)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def event(self) -> Any:
        """The one JSON line."""
        (line,) = self.text.splitlines()
        return json.loads(line)


def logged(style: Style, **fields: object) -> str:
    lines = Lines(style)
    lines.log.info("request", **fields)
    return lines.text


def test_json_line_has_time_level_event_then_fields() -> None:
    """A JSON line begins with time (RFC 3339, UTC, milliseconds), level and event; the fields follow as they are."""
    before = datetime.now(UTC).replace(microsecond=0)
    lines = Lines()
    lines.log.warning("token refresh failed", client="primary", status=503, wait_ms=1.5, replayed=False, code=None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines.event["time"])
    assert before <= datetime.fromisoformat(lines.event["time"]) <= datetime.now(UTC)
    assert list(lines.event.items())[1:] == [
        ("level", "warning"),
        ("event", "token refresh failed"),
        ("client", "primary"),
        ("status", 503),
        ("wait_ms", 1.5),
        ("replayed", False),
        ("code", None),
    ]


@pytest.mark.parametrize("style", STYLES)
def test_entry(style: Style) -> None:
    """What has a line of its own is written like any other event."""

    class Greeting:
        def fields(self) -> dict[str, object]:
            return {"to": "world", "times": 2}

        def json(self) -> bytes:
            return b'"to":"world","times":2'

    async def story() -> str:
        lines = Lines(style, "info", worker=2)
        lines.log.info("greeting", **Greeting().fields())
        lines.log.entry("greeting", Greeting())
        lines.log.info("end")
        return lines.text

    first, second, _ = asyncio.run(story()).splitlines()
    moment = re.compile(r"\d\d:\d\d:\d\d(\.\d{3})?")
    assert moment.sub("", first) == moment.sub("", second)


def test_fields_of_every_line() -> None:
    """What is common to all lines of a process stands on each, before its own fields."""
    stream = io.StringIO()
    log = log_for(settings.Log(level="info"), stream, worker=2)
    log.info("one", status=200)
    log.warning("two")
    one, two = (json.loads(line) for line in stream.getvalue().splitlines())
    assert list(one.items())[2:] == [("event", "one"), ("worker", 2), ("status", 200)]
    assert two["worker"] == 2


def test_console_line_is_short_and_aligned() -> None:
    """A console line has time, level and event in columns, then the fields that have a value."""
    lines = Lines("console")
    lines.log.info("request", method="GET", status=200, replayed=False, code="", reason=None)
    lines.log.warning("token refresh failed", reason='he said "no"', empty="a=b")
    first, second = lines.text.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d info    request                  method=GET status=200 replayed=false", first)
    assert second.endswith(r' warning token refresh failed     reason="he said \"no\"" empty="a=b"')


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("value", [*HOSTILE, HOSTILE[0].encode(), b"\xff\x1b[2J\r\n"])
def test_hostile_text_stays_in_its_line(style: Style, value: str | bytes) -> None:
    """Line ends, escape sequences, bidi controls and surrogates are escaped: one event, one printable line (R151)."""
    text = logged(style, path=value)
    assert text.endswith("\n")
    assert text[:-1].isprintable()


TEXT = st.text(st.characters(), max_size=400)
VALUES = st.one_of(
    *(TEXT, st.binary(max_size=400), TEXT.map(Secret), TEXT.map(ValueError), st.lists(TEXT | st.binary(), max_size=3)),
    *(st.none(), st.booleans(), st.integers(-(2**80), 2**80), st.floats()),
)
NAMES = st.from_regex(r"[a-z_]{1,20}", fullmatch=True).filter(lambda name: name not in ("time", "level", "event"))


@given(style=st.sampled_from(STYLES), event=TEXT, fields=st.dictionaries(NAMES, VALUES, max_size=15))
def test_any_value_stays_in_its_place(style: Style, event: str, fields: dict[str, object]) -> None:
    """Whatever an event and its values are: one line, printable, not long, and in JSON all fields are told apart and
    printable when they are read back (R151).
    """
    lines = Lines(style)
    lines.log.info(event, **fields)
    assert lines.text.endswith("\n")
    assert lines.text[:-1].isprintable()
    # At most each character of a value is escaped once more.
    assert len(lines.text) <= (2 * MAX_TEXT + 30) * (len(fields) + 1)
    if style == "json":
        assert list(lines.event) == ["time", "level", "event", *fields]
        texts = [value for value in lines.event.values() if isinstance(value, str)]
        assert all(text.isprintable() and len(text) <= MAX_TEXT for text in texts)


def test_event_name_is_escaped_too() -> None:
    """Not even the name of an event can end a line (R151)."""
    lines = Lines()
    lines.log.error("a\nb")
    assert lines.event["event"] == r"a\nb"


@pytest.mark.parametrize("value", ["x" * 1_000_000, b"x" * 1_000_000, "\x1b" * 1_000_000])
def test_long_text_is_cut(value: str | bytes) -> None:
    """A peer's text takes at most 256 characters, counted after escaping, and shows that it was cut (R151)."""
    lines = Lines()
    lines.log.info("request", agent=value)
    assert len(lines.event["agent"]) == 256
    assert lines.event["agent"].endswith("…")


def test_text_of_the_full_length_is_kept() -> None:
    """256 characters are not too many."""
    lines = Lines()
    lines.log.info("request", path="é" * 256)
    assert lines.event["path"] == "é" * 256


@pytest.mark.parametrize("style", STYLES)
def test_secret_prints_as_stars(style: Style) -> None:
    """A secret is never in a line, also not inside another value (R145)."""
    text = logged(style, secret=Secret("CANARY"), inside=[Secret("CANARY")])
    assert "CANARY" not in text
    assert "***" in text


@pytest.mark.parametrize("style", STYLES)
def test_exception_prints_as_its_type(style: Style) -> None:
    """The text of an exception can be a peer's or hold a header, so only its type is written (R128, R145)."""
    text = logged(style, error=ValueError("CANARY"))
    assert "CANARY" not in text
    assert "ValueError" in text


@pytest.mark.parametrize("level, written", [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level_decides_what_is_written(level: Level, written: int) -> None:
    """Only the configured level and those above it are written, and `enabled` says the same beforehand."""
    lines = Lines(level=level)
    levels: list[Level] = ["debug", "info", "warning", "error"]
    for each in levels:
        getattr(lines.log, each)("event")
    assert [json.loads(line)["level"] for line in lines.text.splitlines()] == levels[-written:]
    assert [lines.log.enabled(each) for each in levels] == [each in levels[-written:] for each in levels]


class Disk(io.StringIO):
    """A stream that takes nothing while it is full."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


@pytest.mark.parametrize("level, told", [("warning", [2]), ("error", [])])
def test_missing_lines_are_told(level: Level, told: list[int]) -> None:
    """When lines are written again a warning says how many were not, where warnings are wanted (R166, F47)."""
    disk = Disk()
    log = Log(disk, level)
    log.error("first")
    log.error("second")
    assert log.dropped == 2
    disk.full = False
    log.error("third")
    log.error("fourth")
    lines = [json.loads(line) for line in disk.getvalue().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "log_lines_dropped"] == ["third", "fourth"]
    assert [line["count"] for line in lines if line["event"] == "log_lines_dropped"] == told
    assert log.dropped == 2


@pytest.fixture
def terminal() -> Iterator[tuple[io.TextIOWrapper, Callable[[], str]]]:
    """A stream that is a terminal, and what it shows."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream:
        yield stream, lambda: os.read(master, 65536).decode()
    os.close(master)


Terminal = tuple[io.TextIOWrapper, Callable[[], str]]


def test_auto_is_console_in_colour_on_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal `auto` writes for a person, the level in colour."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream, shown = terminal
    log_for(settings.Log(), stream).info("request", status=200)
    assert re.fullmatch(r"\d\d:\d\d:\d\d \x1b\[32minfo\x1b\[0m    request +status=200\r\n", shown())


@pytest.mark.parametrize("value, coloured", [("1", False), ("", True)])
def test_no_color_is_respected(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, value: str, coloured: bool) -> None:
    """`NO_COLOR` with any value but the empty one turns colour off (no-color.org)."""
    monkeypatch.setenv("NO_COLOR", value)
    stream, shown = terminal
    log_for(settings.Log(), stream).info("request")
    assert ("\x1b[" in shown()) is coloured


@pytest.mark.parametrize("configured, is_json", [("auto", True), ("json", True), ("console", False)])
def test_format_off_a_terminal(configured: Literal["auto", "json", "console"], is_json: bool) -> None:
    """Off a terminal `auto` is JSON, and the console style has no colour."""
    stream = io.StringIO()
    log_for(settings.Log(format=configured), stream).error("request")
    assert stream.getvalue().startswith("{") is is_json
    assert "\x1b" not in stream.getvalue()


def test_json_is_json_on_a_terminal(terminal: Terminal) -> None:
    """Who asks for JSON gets it anywhere."""
    stream, shown = terminal
    log_for(settings.Log(format="json"), stream).info("request")
    assert json.loads(shown())["event"] == "request"


@pytest.fixture
def captured() -> Iterator[Lines]:
    """The standard library's logging and warnings go to these lines."""
    root, lines = logging.getLogger(), Lines()
    handlers, level, show = root.handlers[:], root.level, warnings.showwarning
    capture_standard_logging(lines.log)
    try:
        yield lines
    finally:
        root.handlers[:], warnings.showwarning = handlers, show
        root.setLevel(level)


def test_library_error_is_one_line_without_its_values(captured: Lines) -> None:
    """A library's error leaves its logger, its words, the exception's type and where it was raised (R145, R151)."""
    try:
        int("CANARY\r\nFAKE")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "CANARY")
    assert "CANARY" not in captured.text
    at = captured.event.pop("at")
    assert re.fullmatch(r"tests/test_log\.py:\d+", at)
    captured.event.pop("time")
    assert {name: captured.event[name] for name in ("level", "event", "logger", "message", "exception")} == {
        "level": "error",
        "event": "library_message",
        "logger": "aiohttp.server",
        "message": "Error handling request from %s",
        "exception": "ValueError",
    }


@pytest.mark.parametrize(
    "message, kept",
    [
        ("socket.send() raised.", "socket.send"),
        (
            "Task exception was never retrieved\nfuture: <Task exception=ValueError('CANARY')>",
            "Task exception was never retrieved",
        ),
        ("Exception in callback Protocol.data_received(b'CANARY')", "Exception in callback Protocol.data_received"),
        ("bad header: 'CANARY'", "bad header:"),
        ("'CANARY' is bad", ""),
    ],
)
def test_message_is_kept_up_to_its_first_value(captured: Lines, message: str, kept: str) -> None:
    """Where a library has put values into its message, what they are is not known: they are left out (R145)."""
    logging.getLogger("asyncio").warning(message)
    assert (captured.event["level"], captured.event["message"]) == ("warning", kept)


def test_exception_that_was_never_raised(captured: Lines) -> None:
    """A library can log one that it has only made: it comes from nowhere."""
    logging.getLogger("asyncio").error("CANCELLED", exc_info=ValueError("CANARY"))
    assert (captured.event["exception"], captured.event["at"]) == ("ValueError", "")
    assert "CANARY" not in captured.text


def test_library_chatter_is_not_logged(captured: Lines) -> None:
    """Below a warning the libraries say nothing."""
    logging.getLogger("aiohttp.access").info("GET /?CANARY")
    logging.getLogger("asyncio").debug("CANARY")
    assert captured.text == ""


def test_exception_that_nobody_awaited_is_one_line(captured: Lines) -> None:
    """The loop's own report of a lost exception keeps its rule: one line, no text of the exception (R145, R151)."""

    async def main() -> None:
        def fail() -> None:
            raise ValueError("CANARY")

        asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert "CANARY" not in captured.text
    assert captured.event["exception"] == "ValueError"


def test_python_warning_is_one_line(captured: Lines) -> None:
    """A warning of Python goes the same way, with its category and its place (R151)."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # `catch_warnings` puts the interpreter's own display back.
        capture_standard_logging(captured.log)
        warnings.warn("unclosed transport <CANARY>", ResourceWarning, stacklevel=1)
    assert captured.event["kind"] == "ResourceWarning"
    assert captured.event["message"] == "unclosed transport"
    assert captured.event["at"].startswith("tests/test_log.py:")
    assert "CANARY" not in captured.text


def test_capturing_again_replaces(captured: Lines) -> None:
    """After a second call, as on a reload, a message is written once, by the newer log."""
    newer = Lines()
    capture_standard_logging(newer.log)
    logging.getLogger("aiohttp").warning("hello")
    assert captured.text == ""
    assert newer.event["message"] == "hello"
