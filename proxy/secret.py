"""Where a secret comes from: an environment variable or a file, never the command line (R147)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable

MAX_SECRET_FILE = 64 * 1024


@dataclass(frozen=True, slots=True)
class SecretRef:
    """`{env: NAME}`, `{file: PATH}` or a literal. Read again by each `read()`, so that a rotated file is noticed."""

    kind: Literal["env", "file", "literal"]
    source: str
    literal: Secret | None = None

    @classmethod
    def parse(cls, value: object) -> Self:
        """The configuration's form; ValueError says what is accepted."""
        if isinstance(value, str) and value:
            return cls("literal", "", Secret(value))
        if isinstance(value, dict) and len(value) == 1:
            ((kind, source),) = value.items()
            if kind in ("env", "file") and isinstance(source, str) and source:
                return cls(kind, source)
        raise ValueError("must be {env: NAME} or {file: PATH}")

    def read(self, environ: Mapping[str, str] = os.environ) -> Secret:
        """The value now. Raises SecretUnreadable."""
        if self.literal is not None:
            return self.literal
        return self._from_env(environ) if self.kind == "env" else self._from_file()

    def _from_env(self, environ: Mapping[str, str]) -> Secret:
        value = environ.get(self.source, "")
        if value:
            return Secret(value)
        # The convention of container images: NAME or NAME_FILE.
        if path := environ.get(f"{self.source}_FILE", ""):
            return SecretRef("file", path).read(environ)
        raise SecretUnreadable(f"the environment variable {self.source} is not set (nor {self.source}_FILE)")

    def _from_file(self) -> Secret:
        try:
            with Path(self.source).open("rb") as file:
                raw = file.read(MAX_SECRET_FILE + 1)
        except OSError as exc:
            raise SecretUnreadable(f"the file {self.source} can't be read: {exc.strerror}") from exc
        if len(raw) > MAX_SECRET_FILE:
            raise SecretUnreadable(f"the file {self.source} is larger than {MAX_SECRET_FILE // 1024} KiB")
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            # Without `from`: the decoder's error holds the bytes.
            raise SecretUnreadable(f"the file {self.source} is not UTF-8 text") from None
        # Editors and `echo` end a file with a line end, which is never part of the secret.
        text = text.rstrip("\r\n")
        if not text:
            raise SecretUnreadable(f"the file {self.source} is empty")
        return Secret(text)

    def __str__(self) -> str:
        return f"{{{self.kind}: {self.source}}}" if self.literal is None else str(self.literal)
