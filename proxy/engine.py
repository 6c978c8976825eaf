"""What one configuration makes for requests to go through; a reload replaces it."""

import asyncio
from typing import TYPE_CHECKING

from proxy.admission import Admission
from proxy.core.secret import Secret
from proxy.core.stored import store_key
from proxy.errors import SecretUnreadable
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.settings import OAuth, Settings, Tracing
from proxy.stores import TokenStore, open_store
from proxy.tokens import TokenSource
from proxy.upstream.pool import UpstreamPool

if TYPE_CHECKING:
    from proxy.otlp import Exporter
    from proxy.tracing import Tracer


class Engine:
    """Where a request goes, and as whom. A request that has begun keeps the engine that it began with."""

    __slots__ = ("admission", "exporter", "pool", "settings", "tokens", "tracer")

    def __init__(
        self, settings: Settings, tokens: TokenSource, pool: UpstreamPool, exporter: "Exporter | None" = None
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


class Identity:
    """Whom requests are sent as: the token, and all that obtains it. Raises ConfigError or SecretUnreadable."""

    def __init__(self, oauth: OAuth, metrics: Metrics, log: Log) -> None:
        self._wait = oauth.refresh.wait
        self._provider = Provider(oauth)
        self._store = _store(oauth, log)
        self.tokens = TokenSource(oauth, self._provider, metrics, log, store=self._store)

    async def close(self) -> None:
        await self.tokens.stop()
        await self._provider.close()
        await self._store.close()

    async def retire(self) -> None:
        """Closes it when no request can wait for its token any more."""
        self.tokens.retire()
        try:
            await asyncio.sleep(self._wait)
        finally:
            await self.close()


def _store(oauth: OAuth, log: Log) -> TokenStore:
    """For the tokens of the first client; those of the others stand in for them."""
    client = oauth.clients[0]

    def secret() -> Secret | None:
        try:
            return client.client_secret.read()
        except SecretUnreadable:
            return None

    key = store_key(
        provider=oauth.token_url or oauth.issuer or "",
        client_id=client.client_id.read(),
        scope=oauth.scope,
        audience=oauth.audience,
        resource=oauth.resource,
    )
    return open_store(oauth.store, key=key, secret=secret, log=log)
