"""What the tests put into stores."""

import asyncio
import io
import json
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from proxy.core.grant import TokenResponse
from proxy.core.secret import Secret
from proxy.core.stored import Shared, StoredToken, store_key
from proxy.log import Log
from proxy.loop import loop_factory

# Never to be seen in a log, an error or a repr.
SECRET = "canary-s3cr3t"
PASSWORD = "canary-p4ss:w@rd/"

KEY = store_key(provider="https://idp.example", client_id=Secret("id"), scope=None, audience=None, resource=None)
OTHER_KEY = store_key(provider="https://idp.example", client_id=Secret("id"), scope="a", audience=None, resource=None)

T = TypeVar("T")


def shared(token: str = "canary-t0ken", lifetime: float = 3600) -> Shared:
    """A token that is asked for at this moment."""
    now = time.time()
    return Shared(StoredToken(TokenResponse(Secret(token), lifetime, None, None, 0.0), now, "primary"), now)


def token_of(known: Shared) -> str:
    return known.token.response.access_token.reveal() if known.token else ""


def run(work: Coroutine[Any, Any, T]) -> T:
    """On the loop that the proxy runs on."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(work)


class Lines:
    """A log that writes to memory."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.log = Log(self._stream, "debug", "json")

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self._lines()]

    @property
    def reasons(self) -> list[str]:
        return [line["reason"] for line in self._lines() if "reason" in line]

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    def _lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.text.splitlines()]
