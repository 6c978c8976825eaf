"""What one configuration makes for requests to go through; a reload replaces it."""

from typing import Protocol

from proxy.admission import Admission
from proxy.credential import Credential
from proxy.settings import Settings
from proxy.upstream.pool import UpstreamPool


class Tokens(Protocol):
    """What a request needs of the token: `proxy.tokens` says what each of these does."""

    def current(self) -> Credential | None: ...

    async def acquire(self) -> Credential: ...

    async def replace(self, generation: int, *, wait: bool) -> Credential | None: ...


class Engine:
    """Where a request goes, and as whom. A request that has begun keeps the engine that it began with."""

    __slots__ = ("admission", "pool", "settings", "tokens")

    def __init__(self, settings: Settings, tokens: Tokens, pool: UpstreamPool) -> None:
        self.settings = settings
        self.admission = Admission(settings)
        self.tokens = tokens
        self.pool = pool
