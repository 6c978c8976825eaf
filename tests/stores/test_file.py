import asyncio
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.core.stored import Shared
from proxy.errors import StoreUnavailable
from proxy.stores import file as file_module
from proxy.stores.file import FileStore
from tests.stores.conftest import Process
from tests.stores.samples import KEY, OTHER_KEY, run, shared, token_of

CANARY = "canary-t0ken"
NOBODY = 65534

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "token"


@pytest.fixture
def written(path: Path) -> Path:
    """A file as the store writes it."""
    write(path)
    return path


def write(path: Path, token: str = CANARY, key: str = KEY) -> bool:
    async def main() -> bool:
        store = FileStore(path, key)
        lock = await store.lock(0)
        assert lock is not None
        try:
            return await lock.write(shared(token))
        finally:
            await lock.release()
            await store.close()

    return run(main())


def read(path: Path, key: str = KEY) -> str:
    return token_of(run(FileStore(path, key).read()))


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    yield
    os.umask(before)


def test_mode_from_the_first_byte(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else may read the file, not even while it is written, and whatever the umask says (R154)."""
    modes = []
    fsync = os.fsync

    def seen(fd: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", seen)
    with umask(0):
        write(path)
    assert modes[0] == 0o600
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {
        "token": 0o600,
        "token.lock": 0o600,
    }


def test_power_failure(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are on the disk before they take the old file's place, and so is that they did."""
    done = []

    def seen(name: str) -> Callable[..., None]:
        step = getattr(os, name)

        def seen_step(*args: object, **kwargs: object) -> None:
            done.append(name)
            step(*args, **kwargs)

        return seen_step

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, seen(name))
    write(written)
    assert done == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("step", ["fdopen", "fsync", "replace"])
def test_a_write_that_fails(written: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A write that fails leaves the old file as it is, says why without the token, and the next one succeeds (R145)."""
    with monkeypatch.context() as patched:
        patched.setattr(os, step, disk_is_full)
        with pytest.raises(StoreUnavailable, match=f"the file {written} can't be used: No space left") as caught:
            write(written, "next")
    assert CANARY not in caught.value.detail
    assert read(written) == CANARY
    assert write(written, "next")
    assert read(written) == "next"
    assert sorted(file.name for file in written.parent.iterdir()) == ["token", "token.lock"]


def disk_is_full(*_: object, **__: object) -> None:
    raise OSError(28, os.strerror(28))


def foreign(path: Path) -> None:
    write(path, key=OTHER_KEY)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def grown(path: Path) -> None:
    # A terabyte of nothing: whoever reads all of it ends here.
    os.truncate(path, 2**40)


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbled(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 100)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def given_away(path: Path) -> None:
    os.chown(path, NOBODY, -1)


def mode(bits: int) -> Callable[[Path], None]:
    return lambda path: path.chmod(bits)


NOT_TO_BE_USED = [
    pytest.param(foreign, "holds a token of another client, provider or scope", id="foreign"),
    pytest.param(linked, "is a symbolic link", id="symlink"),
    pytest.param(given_away, "belongs to another user", id="owner", marks=only_root),
    pytest.param(mode(0o640), "may be read or written by other users", id="group"),
    pytest.param(mode(0o604), "may be read or written by other users", id="others"),
    pytest.param(mode(0o620), "may be read or written by other users", id="group writes"),
    pytest.param(fifo, "is not a regular file", id="fifo"),
    pytest.param(grown, "is larger than 32 KiB", id="large"),
    pytest.param(halved, "is not JSON", id="half"),
    pytest.param(emptied, "or none at all", id="empty"),
    pytest.param(binary, "or none at all", id="binary"),
    pytest.param(garbled, "is not what this version writes", id="version"),
]


@pytest.mark.parametrize("spoil, reason", NOT_TO_BE_USED)
def test_a_file_that_is_not_to_be_used(written: Path, spoil: Callable[[Path], None], reason: str) -> None:
    """A file that others could have read or written, or that holds something else, is not used but replaced (R154)."""
    spoil(written)
    with pytest.raises(ValueError, match=f"the file {written} .*{reason}") as caught:
        read(written)
    assert CANARY not in str(caught.value)
    assert write(written, "next")
    assert read(written) == "next"
    assert stat.S_IMODE(written.lstat().st_mode) == 0o600


def test_a_link_is_replaced_not_followed(path: Path, tmp_path: Path) -> None:
    """A link in the place of the file, of its lock or of what is being written never makes another file change."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("token", "token.new"):
        path.with_name(name).symlink_to(victim)
    assert write(path)
    path.with_name("token.lock").unlink()
    path.with_name("token.lock").symlink_to(victim)
    with pytest.raises(StoreUnavailable, match="can't be used"):
        write(path)
    assert victim.read_text() == "precious"


def test_what_a_killed_process_left(path: Path) -> None:
    """A file that was half written when its process was killed is in nobody's way."""
    path.with_name("token.new").write_text("half")
    assert write(path)
    assert not path.with_name("token.new").exists()


@pytest.mark.parametrize("bits, is_trusted", [(0o700, 1), (0o755, 1), (0o1777, 1), (0o1770, 1), (0o770, 0), (0o777, 0)])
def test_directory_that_others_can_write_to(path: Path, bits: int, is_trusted: int) -> None:
    """Where others could put a file in the place of the token's, the store refuses, and says what to do."""
    path.parent.chmod(bits)
    if is_trusted:
        assert write(path)
        return
    for work in (read, write):
        with pytest.raises(StoreUnavailable, match=f"write to the directory {path.parent}: `chmod go-w {path.parent}`"):
            work(path)


@only_root
def test_directory_of_another_user(path: Path) -> None:
    """Another user's directory is that user's to change, so no token is put into it."""
    os.chown(path.parent, NOBODY, -1)
    with pytest.raises(StoreUnavailable, match=f"the directory {path.parent} belongs to another user"):
        write(path)


@pytest.mark.parametrize("name", ["missing/token", "a-file/token"])
def test_no_directory(tmp_path: Path, name: str) -> None:
    """A directory that does not exist is not made, as its owner and mode are the operator's to choose."""
    (tmp_path / "a-file").touch()
    directory = (tmp_path / name).parent
    with pytest.raises(StoreUnavailable, match=f"no directory {directory}: create it with `mkdir -m 700 {directory}`"):
        write(tmp_path / name)


def test_a_directory_in_the_place_of_the_file(path: Path) -> None:
    """What can't be replaced is said; it is neither removed nor used."""
    path.mkdir()
    with pytest.raises(ValueError, match="is not a regular file"):
        read(path)
    with pytest.raises(StoreUnavailable, match="Is a directory"):
        write(path)


def test_a_socket_in_the_place_of_the_file(path: Path) -> None:
    """What the system has to say of a file that can't be read is passed on."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        with pytest.raises(StoreUnavailable, match=f"the file {path} can't be used: No such device or address"):
            read(path)


def test_the_lock_file_is_removed(path: Path) -> None:
    """Who removes the lock file takes the lock from its holder, whose late write is not made."""

    async def main() -> None:
        store = FileStore(path, KEY)
        late = await store.lock(0)
        path.with_name("token.lock").unlink()
        successor = await FileStore(path, KEY).lock(0)
        assert late is not None
        assert successor is not None
        assert await successor.write(shared("newer"))
        assert not await late.write(shared("older"))
        await late.release()
        assert await store.lock(0) is None
        assert await successor.write(shared("newest"))
        assert token_of(await store.read()) == "newest"

    run(main())


def test_the_lock_file_is_removed_while_it_is_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file that is gone keeps nobody out, so it is no lock."""
    flock = fcntl.flock

    def late(fd: int, operation: int) -> None:
        path.with_name("token.lock").unlink()
        flock(fd, operation)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", late)
        assert run(FileStore(path, KEY).lock(0)) is None
    assert write(path)


def test_a_holder_that_is_killed(file_url: str, process: Callable[[str], Process]) -> None:
    """The lock of a process that is killed is free at once."""
    holder, other = process(file_url), process(file_url)
    assert holder.ask("lock 0") == "True"
    other.tell("mint token")
    holder.kill()
    assert other.answer() == "token"


def test_a_file_system_that_hangs(path: Path) -> None:
    """A file system that does not answer costs a limited time, stops nothing else, and leaves no lock behind (R161)."""

    async def main() -> None:
        store = FileStore(path, KEY)
        hangs = threading.Event()
        store._thread.submit(hangs.wait)
        with pytest.raises(StoreUnavailable, match=f"the file system of {path} does not answer within 0.1 s"):
            await store.read()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.lock(0)
        hangs.set()
        assert await FileStore(path, KEY).lock(10) is not None
        assert await store.read() == Shared()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(file_module, "TIMEOUT", 0.1)
        run(main())


def test_cancelled_in_the_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is taken for somebody who is cancelled meanwhile is given back."""
    entered, goes_on = threading.Event(), threading.Event()
    flock = fcntl.flock

    def slow(fd: int, operation: int) -> None:
        flock(fd, operation)
        entered.set()
        goes_on.wait()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            patched.setattr(fcntl, "flock", slow)
            waiting = loop.create_task(FileStore(path, KEY).lock(0))
            await loop.run_in_executor(None, entered.wait)
            waiting.cancel()
            goes_on.set()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert await FileStore(path, KEY).lock(0) is not None

    run(main())
