"""The token side without a network: a scripted provider, in a time that jumps from event to event."""

import asyncio
import io
import json
import selectors
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.background import THREAD_NAME
from proxy.core.claims import unverified_times
from proxy.core.client_auth import ClientCredentials
from proxy.core.grant import Refusal, TokenResponse
from proxy.core.secret import Secret
from proxy.credential import Credential
from proxy.errors import Unavailable
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.secret import SecretRef
from proxy.settings import Client, OAuth
from proxy.stores import TokenStore
from proxy.stores.memory import MemoryStore
from proxy.tokens import TokenSource

EPOCH = 1_800_000_000.0
DAY = 86400.0
TRANSIENT = Refusal("transient", "network", "no connection")
REJECTED = Refusal("rejected", "invalid_client", "status 401; 'invalid_client'")

Answer = TokenResponse | Refusal


def literal(text: str) -> SecretRef:
    return SecretRef("literal", "", Secret(text))


CLIENTS = (Client(client_id=literal("id"), client_secret=literal("secret")),)
TWO = OAuth(
    clients=(
        Client(client_id=literal("id"), client_secret=literal("secret")),
        Client(name="backup", client_id=literal("id2"), client_secret=literal("secret2")),
    )
)


class Clock:
    """Stands still until an event loop has nothing to do but wait; `skip` is a jump of the wall clock."""

    def __init__(self) -> None:
        self.mono = 1000.0
        self.wall = EPOCH

    def monotonic(self) -> float:
        return self.mono

    def time(self) -> float:
        return self.wall

    def advance(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds

    def skip(self, seconds: float) -> None:
        self.wall += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout != 0 and (events := self._of_threads()):
            return events
        assert timeout is not None, "everything waits, and no timer is set"
        self._clock.advance(max(0, timeout))
        return super().select(0)

    def _of_threads(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Threads work in real time, for which the clock waits."""
        while any(thread.name == THREAD_NAME for thread in threading.enumerate()):
            if events := super().select(0.01):
                return events
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(_JumpingSelector(clock))

    def time(self) -> float:
        return self._clock.monotonic()


def token(text: str = "abc", lifetime: float = 1000, scope: str | None = None, skew: float = 0) -> TokenResponse:
    return TokenResponse(Secret(text), lifetime, unverified_times(text).exp, scope, skew)


class Script(Provider):
    """A provider that answers after `latency` seconds with what stands in `answer` and `keys` by then.

    `refused`: client ids and secrets that it does not accept.
    """

    def __init__(self, clock: Clock, answer: Answer, keys: bytes | Refusal | None = None) -> None:
        self.clock = clock
        self.answer = answer
        self.keys = keys
        self.latency = 0.1
        self.refused: set[str] = set()
        self.shown: list[tuple[str, str]] = []
        self.asked: list[float] = []
        self.asked_keys: list[float] = []

    @property
    def jwks_url(self) -> str | None:
        return None if self.keys is None else "https://idp.example/jwks"

    async def request_token(self, credentials: ClientCredentials) -> Answer:
        self.asked.append(self.clock.monotonic() - 1000)
        shown = credentials.client_id.reveal(), credentials.secret
        self.shown.append(shown)
        await asyncio.sleep(self.latency)
        return self.answer if self.refused.isdisjoint(shown) else REJECTED

    def credential(self, token: Secret, generation: int) -> Credential:
        return Credential(token, generation)

    async def fetch_jwks(self) -> bytes | Refusal:
        self.asked_keys.append(self.clock.monotonic() - 1000)
        await asyncio.sleep(0.1)
        assert self.keys is not None
        return self.keys


@dataclass
class Stage:
    """A token source with everything around it."""

    answer: Answer = field(default_factory=token)
    keys: bytes | Refusal | None = None
    oauth: OAuth = field(default_factory=lambda: OAuth(clients=CLIENTS))
    chance: float = 0.5
    store: TokenStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.provider = Script(self.clock, self.answer, self.keys)
        self.metrics = Metrics()
        self.stream = io.StringIO()
        self.source = TokenSource(
            self.oauth,
            self.provider,
            self.metrics,
            Log(self.stream, "debug"),
            store=self.store,
            clock=self.clock,
            random=lambda: self.chance,
        )

    def run(self, play: Callable[["Stage"], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            try:
                await asyncio.wait_for(play(self), 100 * DAY)
            finally:
                await self.source.stop()
            assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"

        with asyncio.Runner(loop_factory=lambda: JumpingLoop(self.clock)) as runner:
            runner.run(main())

    async def until(self, seconds: float) -> None:
        """Lets the time be `seconds` after the start."""
        await asyncio.sleep(1000 + seconds - self.clock.monotonic())

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"thg_proxy_{name}", labels)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(line["level"], line["event"]) for line in self.log]


async def failure(waiting: Awaitable[Credential]) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        await waiting
    return caught.value
