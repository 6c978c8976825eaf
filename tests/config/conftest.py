"""Reading a configuration the way that a command does, from a file in a directory of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from proxy.config import Loaded, load
from proxy.errors import ConfigError

CREDENTIALS = {"THG_CLIENT_ID": "id", "THG_CLIENT_SECRET": "s3cr3t"}
TOKEN_URL = {"THG_PROXY__OAUTH__TOKEN_URL": "https://idp.example/token"}
ENVIRON = CREDENTIALS | TOKEN_URL

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a text as `-c thg.yaml`, with credentials and a token URL in the environment."""
    monkeypatch.chdir(tmp_path)

    def loaded(text: str | bytes, *overrides: str, environ: Mapping[str, str] = ENVIRON) -> Loaded:
        Path("thg.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load("thg.yaml", overrides, environ)

    return loaded


@pytest.fixture
def problems(load_text: Load) -> Problems:
    """What is wrong with a text; an empty list where it can be used."""

    def found(text: str | bytes, *overrides: str, environ: Mapping[str, str] = ENVIRON) -> list[str]:
        try:
            load_text(text, *overrides, environ=environ)
        except ConfigError as exc:
            return list(exc.problems)
        return []

    return found
