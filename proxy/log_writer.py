"""How lines of the log leave the process: whole, in order, and without anybody waiting for them (R166).

A file takes a line at once. What has a reader (a pipe, a terminal, a socket) takes it when that reader pleases, so a
thread writes there what waits in a bounded queue. A line that can't be written is dropped and counted, and as soon as
lines are written again, one of them tells how many were dropped.
"""

import asyncio
import atexit
import errno
import os
import select
import stat
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TextIO

# Bytes that may wait for a reader: some 3,000 requests.
QUEUE_SIZE = 1 << 20
# Seconds that a line waits for others. To wake the thread for each would cost more than to write it.
_PAUSE = 0.01
# Seconds that the end of the process waits for the reader.
_LAST_WORDS = 1.0
# Seconds that a line which is not urgent waits for others on its way to a file.
_SOON = 0.01
# As much as a pipe takes in one piece, whoever else writes to it (pipe(7)).
_PIECE = getattr(select, "PIPE_BUF", 512)

Notice = Callable[[int], bytes]
"""Makes the line that tells how many lines are missing."""


class Writer:
    """Writes each line before `write` returns."""

    def __init__(self, stream: TextIO | None, notice: Notice) -> None:
        self._put = _put(stream)
        self._notice = notice
        self._torn = False
        self._lost = 0
        self._told = 0
        self._soon: list[bytes] = []
        # The event loop of a process that ends does not come to it.
        atexit.register(self.flush)

    @property
    def dropped(self) -> int:
        """How many lines were not written."""
        return self._lost

    def write(self, line: bytes) -> None:
        """`line` ends with the only line feed in it. Never raises."""
        self.flush()
        if self._written(line):
            self._tell()

    def write_soon(self, line: bytes) -> None:
        """As `write`, in a moment, on the running event loop: a system call for each line costs as much as the line."""
        if not self._soon:
            asyncio.get_running_loop().call_later(_SOON, self.flush)
        self._soon.append(line)

    def flush(self) -> None:
        """Writes what waits."""
        if self._soon:
            lines, self._soon = b"".join(self._soon), []
            if self._written(lines):
                self._tell()

    def _written(self, lines: bytes) -> bool:
        unwritten = self._unwritten(lines)
        self._lost += unwritten.count(b"\n")
        return not unwritten

    def _tell(self) -> None:
        missing = self.dropped - self._told
        if missing and not self._unwritten(self._notice(missing)):
            self._told += missing

    def _unwritten(self, lines: bytes) -> bytes:
        """Writes, and returns what could not be written."""
        try:
            # A disk that fills up takes half a line, to which the next one must not be glued.
            if self._torn:
                self._put(b"\n")
                self._torn = False
            while lines:
                written = self._put(lines)
                self._torn = not lines[:written].endswith(b"\n")
                lines = lines[written:]
        except (OSError, ValueError):  # ValueError: the stream is closed
            pass
        return lines


class QueueWriter(Writer):
    """Leaves the writing to a thread of its own. A process that is forked off has no such thread.

    A garbage collection can log, and can come at any moment: nothing in `write` may wait for what it interrupts.
    """

    def __init__(self, stream: TextIO | None, notice: Notice) -> None:
        super().__init__(stream, notice)
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._size = 0
        self._overflowed = 0
        self._lock = threading.RLock()
        self._closing = threading.Event()
        # A daemon, so that a reader who has stopped does not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def dropped(self) -> int:
        return self._lost + self._overflowed

    def write(self, line: bytes) -> None:
        size = len(line)
        with self._lock:
            if self._size + size > QUEUE_SIZE:
                self._overflowed += 1
                return
            self._size += size
        self._queue.put(line)

    def write_soon(self, line: bytes) -> None:
        self.write(line)

    def close(self) -> None:
        """Writes what waits, unless that takes longer than a second."""
        self._closing.set()
        self._queue.put(b"")
        self._thread.join(_LAST_WORDS)

    def _run(self) -> None:
        closing = False
        while not closing:
            first = self._queue.get()
            closing = self._closing.wait(_PAUSE)
            self._empty(first)

    def _empty(self, piece: bytes) -> None:
        """Writes what waits behind `piece`, too: as many lines at a time as go into one piece."""
        while not self._queue.empty():
            line = self._queue.get()
            if len(piece) + len(line) > _PIECE:
                self._taken(piece)
                piece = b""
            piece += line
        # What has come while the reader had stopped is older than the loss of what found no room behind it.
        if self._taken(piece) and self._queue.empty():
            self._tell()

    def _taken(self, piece: bytes) -> bool:
        size = len(piece)
        with self._lock:
            self._size -= size
        return self._written(piece)


def writer_for(stream: TextIO | None, notice: Notice) -> Writer:
    """One that nobody waits for, where waiting is possible at all. `stream` is None where there is none."""
    return QueueWriter(stream, notice) if stream is not None and _has_reader(stream) else Writer(stream, notice)


def _has_reader(stream: TextIO) -> bool:
    try:
        return not stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # it is in memory, or closed
        return False


def _put(stream: TextIO | None) -> Callable[[bytes], int]:
    """What writes some bytes to the stream, and returns how many. Raises OSError or ValueError."""
    if stream is None:
        return _put_nowhere
    try:
        stream.fileno()
    except (OSError, ValueError):
        return partial(_put_text, stream)
    return partial(_put_bytes, stream)


def _put_nowhere(_data: bytes) -> int:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _put_text(stream: TextIO, data: bytes) -> int:
    stream.write(data.decode())
    return len(data)


def _put_bytes(stream: TextIO, data: bytes) -> int:
    """Writes past Python's buffers, which keep what could not be written."""
    # Asked again each time: the number of a closed file can be a client's socket by now.
    fd = stream.fileno()
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:  # somebody who shares the pipe has made it non-blocking
            select.select([], [fd], [])
