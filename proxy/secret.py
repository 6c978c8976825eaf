"""Where a secret comes from: an environment variable, a file or the keyring, never the command line (R147)."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from proxy import keyring
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable

MAX_SECRET_FILE = 64 * 1024


@dataclass(frozen=True, slots=True)
class SecretRef:
    """`{env: NAME}`, `{file: PATH}`, `{keyring: SERVICE/NAME}` or a literal.

    Read again by each `read()`, so that a rotated file is noticed.
    """

    kind: Literal["env", "file", "keyring", "literal"]
    source: str
    literal: Secret | None = None

    form: ClassVar[str] = "{env: NAME}, {file: PATH} or {keyring: SERVICE/NAME}"
    # The last slash is the one: a service can be a URL.
    entry_pattern: ClassVar[str] = r"(.+)/([^/]+)"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Of the configuration's form. Raises ValueError."""
        if isinstance(value, str) and value:
            return cls("literal", "", Secret(value))
        if isinstance(value, dict) and len(value) == 1:
            ((kind, source),) = value.items()
            if kind in ("env", "file") and isinstance(source, str) and source:
                return cls(kind, source)
            if kind == "keyring" and isinstance(source, str) and re.fullmatch(cls.entry_pattern, source):
                return cls(kind, source)
        raise ValueError(f"must be {cls.form}")

    def file(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The path of the file that is read; None where the secret is not in a file."""
        # The convention of container images: NAME or NAME_FILE.
        if self.kind == "env" and not environ.get(self.source):
            return environ.get(f"{self.source}_FILE") or None
        return self.source if self.kind == "file" else None

    def may_hang(self, environ: Mapping[str, str] = os.environ) -> bool:
        """Is it read from what answers when it likes: a file system, a keyring?"""
        return self.kind == "keyring" or self.file(environ) is not None

    def read(self, environ: Mapping[str, str] = os.environ) -> Secret:
        """The value as it is at this moment. Raises SecretUnreadable."""
        if self.literal is not None:
            return self.literal
        if self.kind == "keyring":
            service, _, name = self.source.rpartition("/")
            return keyring.read(service, name)
        if path := self.file(environ):
            return _read_file(path)
        if value := environ.get(self.source):
            return Secret(value)
        raise SecretUnreadable(f"the environment variable {self.source} is not set (nor {self.source}_FILE)")

    def __str__(self) -> str:
        return f"{{{self.kind}: {self.source}}}" if self.literal is None else str(self.literal)


def _read_file(path: str) -> Secret:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_SECRET_FILE + 1)
    except OSError as exc:
        raise SecretUnreadable(f"the file {path} can't be read: {exc.strerror}") from exc
    return secret_in(raw, f"the file {path}")


def secret_in(raw: bytes, name: str) -> Secret:
    """The secret that was read from `name`, at most MAX_SECRET_FILE bytes and one more. Raises SecretUnreadable."""
    if len(raw) > MAX_SECRET_FILE:
        raise SecretUnreadable(f"{name} is larger than {MAX_SECRET_FILE // 1024} KiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Without its cause: the decoder's error holds the bytes.
        raise SecretUnreadable(f"{name} is not UTF-8 text") from None
    # Editors and `echo` end a file with a line end, which is never part of the secret.
    text = text.rstrip("\r\n")
    if not text:
        raise SecretUnreadable(f"{name} is empty")
    return Secret(text)
