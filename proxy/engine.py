"""What one configuration makes for requests to go through; a reload replaces it."""

from typing import TYPE_CHECKING, Protocol

from proxy.admission import Admission
from proxy.credential import Credential
from proxy.log import Log
from proxy.settings import Settings, Tracing
from proxy.upstream.pool import UpstreamPool

if TYPE_CHECKING:
    from proxy.otlp import Exporter
    from proxy.tracing import Tracer


class Tokens(Protocol):
    """What a request needs of the token: `proxy.tokens` says what each of these does."""

    def current(self) -> Credential | None: ...

    async def acquire(self) -> Credential: ...

    async def replace(self, generation: int, *, wait: bool) -> Credential | None: ...


class Engine:
    """Where a request goes, and as whom. A request that has begun keeps the engine that it began with."""

    __slots__ = ("admission", "exporter", "pool", "settings", "tokens", "tracer")

    def __init__(
        self, settings: Settings, tokens: Tokens, pool: UpstreamPool, exporter: "Exporter | None" = None
    ) -> None:
        self.settings = settings
        self.admission = Admission(settings)
        self.tokens = tokens
        self.pool = pool
        self.exporter = exporter
        self.tracer = None if exporter is None else _tracer(settings, exporter)


def open_exporter(tracing: Tracing, log: Log) -> "Exporter | None":
    """Where spans go; None where nothing is traced."""
    if tracing.otlp_endpoint is None:
        return None
    # The packages of the extra `otel` cost 7 MB and 0.1 s, which only those pay who trace.
    from proxy.otlp import Exporter  # noqa: PLC0415 - as said

    return Exporter(tracing.otlp_endpoint, log)


def _tracer(settings: Settings, exporter: "Exporter") -> "Tracer":
    from proxy.tracing import Tracer  # noqa: PLC0415 - as for `open_exporter`

    return Tracer(settings, exporter)
