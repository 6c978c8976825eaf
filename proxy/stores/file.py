"""A token in a file: one for all processes of a machine, which outlives them.

The token can be used by whoever reads it, so the file is trusted, and written, only where nobody else can have a hand
in it. The processes take turns by flock(2) on a second file, which the kernel releases when its holder dies.
"""

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from proxy.core.stored import MAX_DOCUMENT, Shared, decode, encode
from proxy.errors import StoreUnavailable
from proxy.stores.contract import TIMEOUT, attempts

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# Why a file that there is can't be opened for reading.
_UNREADABLE = {errno.ELOOP: "is a symbolic link", errno.EACCES: "may not be read by this user"}

T = TypeVar("T")


class FileStore:
    """`path`, and beside it `path.lock`; `path.new` while it is written. `key`: the kind of token that it holds."""

    def __init__(self, path: Path, key: str) -> None:
        self._file = _TokenFile(path, key)
        # A file system can hang: it may hold this thread, but not one that the loop resolves names with. That there is
        # only one keeps the order: what is submitted last is done last.
        self._thread = ThreadPoolExecutor(1, "token-store")

    async def read(self) -> Shared:
        return await self.run(self._file.load)

    async def lock(self, wait: float) -> "_FileLock | None":
        return await attempts(self._try_lock, wait)

    async def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def run(self, work: Callable[[], T]) -> T:
        """`work` in the thread, waited for at most TIMEOUT. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(TIMEOUT):
                return await asyncio.wrap_future(self._thread.submit(work))
        except TimeoutError:
            raise StoreUnavailable(
                f"the file system of {self._file.path} does not answer within {TIMEOUT:g} s"
            ) from None
        except OSError as exc:
            raise StoreUnavailable(f"the file {self._file.path} can't be used: {exc.strerror}") from exc

    async def finish(self, work: Callable[[], None]) -> None:
        """`work` in the thread, which does it even where nobody waits for that any more."""
        await asyncio.wait({asyncio.wrap_future(self._thread.submit(work))}, timeout=TIMEOUT)

    async def _try_lock(self) -> "_FileLock | None":
        lock = _FileLock(self, self._file)
        taken = False
        try:
            taken = await self.run(lock.take)
        finally:
            if not taken:
                await lock.release()
        return lock if taken else None


class _FileLock:
    """Lost when somebody removes the lock file: the next process makes, and locks, another one."""

    def __init__(self, store: FileStore, file: "_TokenFile") -> None:
        self._store = store
        self._file = file
        self._fd: int | None = None

    async def write(self, shared: Shared) -> bool:
        return await self._store.run(partial(self._write, encode(shared)))

    async def release(self) -> None:
        await self._store.finish(self._drop)

    def take(self) -> bool:
        with self._file.directory() as directory:
            self._fd = os.open(self._file.lock_name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=directory)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return self._is_held(directory)

    def _write(self, document: bytes) -> bool:
        with self._file.directory() as directory:
            if not self._is_held(directory):
                return False
            self._file.replace(directory, document)
            return True

    def _is_held(self, directory: int) -> bool:
        if self._fd is None:
            return False
        try:
            current = os.stat(self._file.lock_name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._fd), current)

    def _drop(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class _TokenFile:
    """What blocks. It works in a directory that has been opened and looked at, whatever is renamed meanwhile."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.lock_name = f"{path.name}.lock"
        self._header = f"{key}\n".encode()

    @contextmanager
    def directory(self) -> Iterator[int]:
        """The directory of the file, as a descriptor. Raises StoreUnavailable where others can replace files in it."""
        where = self.path.parent
        try:
            fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreUnavailable(f"there is no directory {where}: create it with `mkdir -m 700 {where}`") from None
        try:
            status = os.fstat(fd)
            if status.st_uid not in (0, os.geteuid()):
                raise StoreUnavailable(f"the directory {where} belongs to another user: use one of this user's own")
            if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
                raise StoreUnavailable(f"other users can write to the directory {where}: `chmod go-w {where}`")
            yield fd
        finally:
            os.close(fd)

    def load(self) -> Shared:
        """Raises ValueError where the file is not one that `replace` has written."""
        with self.directory() as directory:
            try:
                content = self._content(directory)
                return Shared() if content is None else decode(content)
            except ValueError as exc:
                raise ValueError(f"the file {self.path} {exc}") from None

    def replace(self, directory: int, document: bytes) -> None:
        """At any moment, and after a power failure, the file is the whole old one or the whole new one."""
        new = f"{self.path.name}.new"
        # Of a process that died over it: whoever writes has the lock.
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
        with os.fdopen(fd, "wb") as file:
            file.write(self._header + document)
            file.flush()
            os.fsync(fd)
        os.replace(new, self.path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)

    def _content(self, directory: int) -> bytes | None:
        try:
            # A FIFO without a writer would block an open without O_NONBLOCK.
            fd = os.open(self.path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno not in _UNREADABLE:
                raise
            raise ValueError(_UNREADABLE[exc.errno]) from None
        try:
            _check(os.fstat(fd))
            with os.fdopen(fd, "rb", closefd=False) as file:
                content = file.read(len(self._header) + MAX_DOCUMENT + 1)
        finally:
            os.close(fd)
        if not content.startswith(self._header):
            raise ValueError("holds a token of another client, provider or scope, or none at all")
        return content.removeprefix(self._header)


def _check(status: os.stat_result) -> None:
    """Raises ValueError where somebody else may have written the file, or read it."""
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("is not a regular file")
    if status.st_uid != os.geteuid():
        raise ValueError("belongs to another user")
    if status.st_mode & _OTHERS:
        raise ValueError("may be read or written by other users")
