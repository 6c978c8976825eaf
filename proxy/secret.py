"""Where a secret comes from: an environment variable or a file, never the command line (R147)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable

MAX_SECRET_FILE = 64 * 1024


@dataclass(frozen=True, slots=True)
class SecretRef:
    """`{env: NAME}`, `{file: PATH}` or a literal. Read again by each `read()`, so that a rotated file is noticed."""

    kind: Literal["env", "file", "literal"]
    source: str
    literal: Secret | None = None

    form: ClassVar[str] = "{env: NAME} or {file: PATH}"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Of the configuration's form. Raises ValueError."""
        if isinstance(value, str) and value:
            return cls("literal", "", Secret(value))
        if isinstance(value, dict) and len(value) == 1:
            ((kind, source),) = value.items()
            if kind in ("env", "file") and isinstance(source, str) and source:
                return cls(kind, source)
        raise ValueError(f"must be {cls.form}")

    def file(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The path of the file that is read; None where the secret is not in a file."""
        # The convention of container images: NAME or NAME_FILE.
        if self.kind == "env" and not environ.get(self.source):
            return environ.get(f"{self.source}_FILE") or None
        return self.source if self.kind == "file" else None

    def read(self, environ: Mapping[str, str] = os.environ) -> Secret:
        """The value as it is at this moment. Raises SecretUnreadable."""
        if self.literal is not None:
            return self.literal
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
    if len(raw) > MAX_SECRET_FILE:
        raise SecretUnreadable(f"the file {path} is larger than {MAX_SECRET_FILE // 1024} KiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Without its cause: the decoder's error holds the bytes.
        raise SecretUnreadable(f"the file {path} is not UTF-8 text") from None
    # Editors and `echo` end a file with a line end, which is never part of the secret.
    text = text.rstrip("\r\n")
    if not text:
        raise SecretUnreadable(f"the file {path} is empty")
    return Secret(text)
