"""Where `thg-proxy init` writes: a configuration, and a secret beside it."""

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from proxy.config.sources import read_file, user_file
from proxy.errors import ConfigError


class Place:
    """`config`, `secret`: absolute paths."""

    def __init__(self, path: str | None, environ: Mapping[str, str]) -> None:
        """`path`: of the configuration; None: the user's own. Raises ConfigError where nothing can be written."""
        name = path or user_file(environ)
        if name is None:
            raise ConfigError(["neither XDG_CONFIG_HOME nor HOME is set: say by -c FILE what to write"])
        self._environ = environ
        self.config = Path(name).absolute()
        self.secret = self.config.with_name(f"{self.config.name}.secret")
        if fault := self._fault():
            raise ConfigError([f"{self.config}: {fault}"])

    @property
    def taken(self) -> list[Path]:
        """What would be replaced."""
        return [path for path in (self.config, self.secret) if os.path.lexists(path)]

    @property
    def is_usual(self) -> bool:
        """Is the configuration the one that is read where nothing else is said?"""
        try:
            file = read_file(None, self._environ)
        except ConfigError:
            return False
        return file is not None and Path(file.name).absolute() == self.config

    def write(self, files: Mapping[Path, str], *, replace: bool) -> None:
        """For this user only, from the first byte on. Each file is complete when it is there.

        Raises OSError where they can't be written, before one of them is there; FileExistsError for one that is there
        already, unless they are to `replace` it.
        """
        with _undisturbed(), ExitStack() as stack:
            # The outermost first; each is for this user only, as the XDG Base Directory Specification wants it.
            for directory in [path for path in reversed(self.config.parents) if not path.exists()]:
                directory.mkdir(mode=0o700)
            written = [(stack.enter_context(_staged(path, text)), path) for path, text in files.items()]
            for temporary, path in written:
                # A link, unlike a renamed file, takes the place of nothing.
                (os.replace if replace else os.link)(temporary, path)

    def _fault(self) -> str | None:
        if self.config.is_dir():
            return "is a directory"
        nearest = next(path for path in self.config.parents if os.path.lexists(path))
        if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
            return f"can't be written: {nearest} is no directory that this user may write to"
        return None


@contextmanager
def _staged(path: Path, text: str) -> Iterator[str]:
    """The name of a finished file in the directory of `path`; gone at the end, if it has not been renamed."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C comes too late for what takes a moment."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
