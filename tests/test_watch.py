"""Files that change, on a real file system."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import watch
from proxy.watch import FileWatch


def _rename(file: Path) -> None:
    new = file.with_name("new")
    new.write_text("two")
    new.replace(file)


def _write_in_place(file: Path) -> None:
    with file.open("r+") as opened:
        opened.write("two")


def _swap_the_link(file: Path) -> None:
    """As Kubernetes does: ..data leads to another directory."""
    root = file.parent.parent
    (root / "2").mkdir()
    (root / "2" / file.name).write_text("two")
    (root / "..tmp").symlink_to("2")
    (root / "..tmp").replace(root / "..data")


def _keep_size_and_time(file: Path) -> None:
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "secret").write_text("one")
    (tmp_path / "..data").symlink_to("1")
    return tmp_path / "..data" / "secret"


def changes(file: Path, change: Callable[[Path], None]) -> list[list[str]]:
    """What the watch has told when `change` has been made and looked at."""
    told: list[list[str]] = []

    async def tell(paths: list[str]) -> None:
        told.append(paths)
        heard.set()

    async def main() -> None:
        watching = asyncio.get_running_loop().create_task(FileWatch([str(file), "/dev/null"], tell).run())
        await asyncio.sleep(0)
        change(file)
        await asyncio.wait_for(heard.wait(), 30)
        watching.cancel()
        await asyncio.wait({watching})

    heard = asyncio.Event()
    asyncio.run(main())
    return told


@pytest.mark.parametrize("change", [_rename, _write_in_place, _swap_the_link, _keep_size_and_time, Path.unlink])
def test_change_is_told(mounted: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Renaming, writing in place, another target of a link, removal: each is told, once, with its path (R100, F46)."""
    monkeypatch.setattr(watch, "INTERVAL", 0.01)
    assert changes(mounted, change) == [[str(mounted)]]


def test_file_is_told_of_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may come later than the proxy."""
    monkeypatch.setattr(watch, "INTERVAL", 0.01)
    assert changes(tmp_path / "secret", Path.touch)


HANGING = """
import asyncio, threading
from proxy import watch

async def main():
    looks = threading.Event()

    def hang(path):
        looks.set()
        threading.Event().wait()

    watching = watch.FileWatch(["secret"], print)
    watch.INTERVAL, watch._signature = 0, hang
    task = asyncio.get_running_loop().create_task(watching.run())
    while not looks.is_set():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})

asyncio.run(main())
print("ended")
"""


def test_process_ends() -> None:
    """A file system that hangs does not keep the process from ending (R162)."""
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, check=True, timeout=30)
    assert (done.stdout, done.stderr) == ("ended\n", "")
