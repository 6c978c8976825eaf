"""Tells when the content of a file may be another."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from proxy.background import in_background

# A change counts once it has been the same for two looks in a row, so that a file is not read half-written.
INTERVAL = 1.0

_Signature = tuple[int, ...] | None


class FileWatch:
    """Looks at files, every second, through their symbolic links.

    Kubernetes changes a mounted secret by another target of a link, editors by renaming, others by writing: a look at
    the file that the path leads to tells of each, on every file system, and costs no inotify watch.
    """

    def __init__(self, paths: Iterable[str], changed: Callable[[list[str]], Awaitable[None]]) -> None:
        """`changed` is called with the paths of the files that are others than before."""
        self._paths = tuple(paths)
        self._changed = changed
        self._known = self._look()

    async def run(self) -> None:
        """Until it is cancelled, or at once where there is no file."""
        if not self._paths:
            return
        seen = self._known
        while True:
            await asyncio.sleep(INTERVAL)
            # A file system can hang.
            before, seen = seen, await in_background(self._look)
            if seen != self._known and seen == before:
                changed = [path for path in self._paths if seen[path] != self._known[path]]
                self._known = seen
                await self._changed(changed)

    def _look(self) -> Mapping[str, _Signature]:
        return {path: _signature(path) for path in self._paths}


def _signature(path: str) -> _Signature:
    """None where there is nothing to read."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size
