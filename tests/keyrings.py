"""Keyrings in all their moods, for PYTHON_KEYRING_BACKEND=tests.keyrings.NAME."""

import threading
from typing import ClassVar

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked


class Shelf(KeyringBackend):
    """Keeps what it is given, in this process. Nobody recommends it."""

    priority = 0.5
    entries: ClassVar[dict[tuple[str, str], str]] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password


class Forgetful(Shelf):
    def set_password(self, service: str, username: str, password: str) -> None:
        """Does nothing, as keyring's own null backend."""


class Locked(Shelf):
    """Asks for its password, and is dismissed."""

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 - its form is given
        raise KeyringLocked("dismissed")

    def set_password(self, service: str, username: str, password: str) -> None:  # noqa: ARG002 - its form is given
        raise KeyringLocked("dismissed")


class Broken(Shelf):
    """Fails with what it has read in the error."""

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 - its form is given
        raise UnicodeDecodeError("utf-8", b"c4n4ry\xff", 6, 7, "c4n4ry")


class Asking(Shelf):
    """Asks for its password until `answered` is set. `questions`: how many are open, or were."""

    answered = threading.Event()
    questions: ClassVar[list[str]] = []

    def get_password(self, service: str, username: str) -> str | None:
        self.questions.append(username)
        self.answered.wait()
        return super().get_password(service, username)
