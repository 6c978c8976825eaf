"""Lines on their way out: to files, to pipes that are read, and to what can't be written."""

import asyncio
import io
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.log_writer import QUEUE_SIZE, QueueWriter, Writer, writer_for


def notice(count: int) -> bytes:
    return b"%d missing\n" % count


def finished(writer: Writer) -> int:
    """How many lines were dropped, when all have been tried."""
    if isinstance(writer, QueueWriter):
        writer.close()
    return writer.dropped


@contextmanager
def broken_pipe() -> Iterator[TextIO]:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        yield stream


@contextmanager
def closed_file() -> Iterator[TextIO]:
    with Path(os.devnull).open("w") as stream:
        stream.close()
        yield stream


@contextmanager
def closed_memory() -> Iterator[TextIO]:
    with io.StringIO() as stream:
        stream.close()
        yield stream


FULL_DISK = Path("/dev/full")


@pytest.mark.parametrize(
    "opened",
    [
        pytest.param(
            lambda: FULL_DISK.open("w"),
            id="full disk",
            marks=pytest.mark.skipif(not FULL_DISK.exists(), reason="/dev/full is Linux's"),
        ),
        pytest.param(broken_pipe, id="broken pipe"),
        pytest.param(closed_file, id="closed file"),
        pytest.param(closed_memory, id="closed memory"),
        pytest.param(nullcontext, id="no stderr at all"),
    ],
)
def test_line_that_cannot_be_written_is_counted(opened: Callable[[], AbstractContextManager[TextIO | None]]) -> None:
    """What can't be written harms nobody: each line is dropped and counted (R166, F47)."""
    with opened() as stream:
        writer = writer_for(stream, notice)
        writer.write(b"first\n")
        writer.write(b"second\n")
        assert finished(writer) == 2


def test_file_is_written_line_by_line(tmp_path: Path) -> None:
    """A line is in the file when the call returns: a crash that follows is explained."""
    path = tmp_path / "log"
    with path.open("w") as stream:
        writer_for(stream, notice).write(b"request\n")
        assert path.read_bytes() == b"request\n"


def test_memory_is_written_line_by_line() -> None:
    """So it is with a stream that is no file at all."""
    stream = io.StringIO()
    writer_for(stream, notice).write("é\n".encode())
    assert stream.getvalue() == "é\n"


def test_line_that_a_full_disk_tore_is_not_continued(tmp_path: Path) -> None:
    """Half a line that fitted on the disk stays by itself: the next one is a line of its own (R151, R166, F47)."""
    path = tmp_path / "log"
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with path.open("w") as stream:
        writer = writer_for(stream, notice)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
        try:
            writer.write(b"torn line\n")
            writer.write(b"lost line\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        writer.write(b"whole line\n")
        writer.write(b"another\n")
    assert path.read_bytes() == b"torn\nwhole line\n2 missing\nanother\n"


class Pipe:
    """A pipe from a writer to a reader, who reads when the test says so."""

    def __init__(self, *, blocking: bool = True) -> None:
        reader, writer = os.pipe()
        os.set_blocking(writer, blocking)
        self.source, self.stream = os.fdopen(reader, "rb"), os.fdopen(writer, "w")

    def close(self) -> None:
        self.source.close()
        self.stream.close()

    def lines(self, last: bytes) -> list[bytes]:
        """All that come, up to and with `last`."""
        return [*iter(self.source.readline, last), last]


@pytest.mark.parametrize("blocking", [True, False])
def test_pipe_gets_every_line_in_order(blocking: bool) -> None:
    """A burst waits in the queue and comes out whole and in order, also where a pipe takes less at a time (R166)."""
    lines = [b"%d %s\n" % (number, b"x" * (number % 97)) for number in range(9_000)]
    with closing(Pipe(blocking=blocking)) as pipe, closing(QueueWriter(pipe.stream, notice)) as writer:
        for line in lines:
            writer.write(line)
        assert pipe.lines(lines[-1]) == lines
        assert writer.dropped == 0


@pytest.mark.parametrize("blocking", [True, False])
def test_reader_who_stops_is_not_waited_for(blocking: bool) -> None:
    """When the queue is full the newest lines are dropped and counted, and nobody waits. The reader who comes back
    finds the older lines whole and in order, then how many are missing, then what is written from then on (R166, F47).
    """
    sent = [b"%05d %s\n" % (number, b"x" * 100) for number in range(20_000)]
    with closing(Pipe(blocking=blocking)) as pipe, closing(QueueWriter(pipe.stream, notice)) as writer:
        for line in sent:
            writer.write(line)
        dropped = writer.dropped
        assert len(sent) > dropped > 0
        *received, _told = pipe.lines(notice(dropped))
        writer.write(b"after\n")

        assert pipe.lines(b"after\n") == [b"after\n"]
    assert len(received) == len(sent) - dropped
    assert received == sorted(received)
    first = QUEUE_SIZE // len(sent[-1])
    assert received[:first] == sent[:first]


def test_missing_lines_are_told_in_their_place() -> None:
    """That lines are missing is told after the lines that came before them, wherever the reader stopped (F47)."""
    large = b"x" * (QUEUE_SIZE - 1) + b"\n"
    with closing(Pipe()) as pipe, closing(QueueWriter(pipe.stream, notice)) as writer:
        writer.write(large)  # more than the pipe takes: the thread stops in the middle of it
        dropped = -1
        while dropped != writer.dropped:  # until there is room for a second one: the first is on its way
            dropped = writer.dropped
            writer.write(large)
        writer.write(b"lost\n")
        received = pipe.lines(notice(dropped + 1))

    assert received == [large, large, notice(dropped + 1)]


def test_two_processes_may_share_a_pipe() -> None:
    """What goes into a pipe goes in pieces that it takes whole: nobody's line ends up inside another's (R151)."""
    texts = [letter * 300 + b"\n" for letter in (b"a", b"b", b"c")]
    with closing(Pipe()) as pipe:
        writers = [QueueWriter(pipe.stream, notice) for _ in texts]
        for _ in range(1_000):
            for writer, text in zip(writers, texts, strict=True):
                writer.write(text)
        received = [pipe.source.readline() for _ in range(3_000)]
        for writer in writers:
            writer.close()
    assert {text: received.count(text) for text in texts} == dict.fromkeys(texts, 1_000)


@given(st.lists(st.integers(0, 9_000), max_size=30))
def test_lines_of_any_length(lengths: list[int]) -> None:
    """However long the lines are, what comes out is what went in; closing writes what still waits."""
    lines = [b"x" * length + b"\n" for length in lengths]
    received: list[bytes] = []
    with closing(Pipe()) as pipe:
        reader = threading.Thread(target=lambda: received.extend(pipe.source))
        reader.start()
        writer = QueueWriter(pipe.stream, notice)
        for line in lines:
            writer.write(line)
        writer.close()
        pipe.stream.close()
        reader.join()
    assert received == lines


LAST_WORDS = """
import sys
from proxy.log_writer import writer_for
writer = writer_for(sys.stderr, lambda count: b"")
for number in range(int(sys.argv[1])):
    writer.write(b"%d" % number + b" " * 100 + b"\\n")
"""


def test_last_words() -> None:
    """A process that ends has written its last line (R166)."""
    done = subprocess.run([sys.executable, "-c", LAST_WORDS, "100"], capture_output=True, check=True)
    assert [int(line) for line in done.stderr.splitlines()] == list(range(100))


LAST_WORDS_SOON = """
import asyncio, sys
from proxy.log_writer import writer_for
async def main():
    writer_for(sys.stderr, lambda count: b"").write_soon(b"last\\n")
asyncio.run(main())
"""


def test_last_words_that_are_not_urgent(tmp_path: Path) -> None:
    """A process that ends at once has written them, too (R166)."""
    path = tmp_path / "log"
    with path.open("wb") as stream:
        subprocess.run([sys.executable, "-c", LAST_WORDS_SOON], stderr=stream, check=True)
    assert path.read_bytes() == b"last\n"


def test_no_last_words() -> None:
    """A process whose reader has stopped ends all the same (R166, F47)."""
    with subprocess.Popen([sys.executable, "-c", LAST_WORDS, "5000"], stderr=subprocess.PIPE) as process:
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        process.stderr.close()


def test_lines_that_are_not_urgent(tmp_path: Path) -> None:
    """They are written a moment later, together and in order, at the latest with the next one that is urgent."""
    path = tmp_path / "log"

    async def story(stream: TextIO) -> None:
        writer = writer_for(stream, notice)
        writer.write_soon(b"1\n")
        writer.write_soon(b"2\n")
        assert path.read_bytes() == b""
        writer.write(b"3\n")
        assert path.read_bytes() == b"1\n2\n3\n"
        writer.write_soon(b"4\n")
        while path.read_bytes() != b"1\n2\n3\n4\n":  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0)

    with path.open("w") as stream:
        asyncio.run(asyncio.wait_for(story(stream), 10))


@pytest.mark.skipif(not FULL_DISK.exists(), reason="/dev/full is Linux's")
def test_lines_that_are_not_urgent_and_are_lost() -> None:
    """Each of them is counted."""

    async def story(stream: TextIO) -> None:
        writer = writer_for(stream, notice)
        for _ in range(3):
            writer.write_soon(b"line\n")
        writer.flush()
        assert finished(writer) == 3

    with FULL_DISK.open("w") as stream:
        asyncio.run(story(stream))
