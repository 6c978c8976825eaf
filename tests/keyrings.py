"""Keyrings in all their moods, for PYTHON_KEYRING_BACKEND=tests.keyrings.NAME."""

import os
import threading
import time
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked


class Forgetful(KeyringBackend):
    """Takes everything and keeps nothing, as keyring's own null backend. Nobody recommends it."""

    priority = 0.5

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 - its form is given
        print("Nothing here.")
        return None

    def set_password(self, service: str, username: str, password: str) -> None:
        """Does nothing."""


class Locked(Forgetful):
    """Asks for its password, and is dismissed."""

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 - its form is given
        raise KeyringLocked("dismissed")

    def set_password(self, service: str, username: str, password: str) -> None:  # noqa: ARG002 - its form is given
        raise KeyringLocked("dismissed")


class Broken(Forgetful):
    """Fails with what it has read in the error."""

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 - its form is given
        raise UnicodeDecodeError("utf-8", b"c4n4ry\xff", 6, 7, "c4n4ry")


class Crashing(Forgetful):
    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 - its form is given
        os._exit(7)


class Asking(Forgetful):
    """Asks for its password for ever; $ASKING is a file that tells the process which does."""

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 - its form is given
        if "ASKING" in os.environ:
            Path(os.environ["ASKING"]).write_text(str(os.getpid()))
        threading.Event().wait()
        return None


class Held(Forgetful):
    """Answers `demo` when the file $ASKING, which it makes, has been removed."""

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 - its form is given
        asking = Path(os.environ["ASKING"])
        asking.touch()
        while asking.exists():
            time.sleep(0.01)
        return "demo"


class Telling(Forgetful):
    """Gives away the environment that it finds."""

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 - its form is given
        return "\n".join(f"{name}={value}" for name, value in os.environ.items())
