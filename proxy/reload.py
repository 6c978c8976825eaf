"""Another configuration for a running proxy: all of it, or nothing."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from proxy.config import Loaded
from proxy.engine import Engine, Identity, open_exporter
from proxy.errors import ConfigError, ProxyError
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.server.serving import Serving
from proxy.settings import OAuth, Settings, Tracing
from proxy.upstream.pool import UpstreamPool

if TYPE_CHECKING:
    from proxy.otlp import Exporter

# What a running process can't change.
_FIXED = ("listen", "admin", "workers")


class Reload:
    """Gives `serving` the engine of the configuration that `load` reads."""

    def __init__(
        self, load: Callable[[], Loaded], serving: Serving, identity: Identity, *, metrics: Metrics, log: Log
    ) -> None:
        self._load = load
        self._serving = serving
        self._identity = identity
        self._exporter = serving.engine.exporter
        self._metrics = metrics
        self._log = log
        self._retiring: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends the token and the spans, and what is left of earlier ones."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._identity.close()
        await self.send_last_spans(0)

    async def send_last_spans(self, until: float) -> None:
        """Waits for the collector, until that moment of the loop's clock at the latest."""
        if self._exporter is not None:
            await self._exporter.close(until)

    async def run(self) -> None:
        """What is wrong with the new configuration is logged, and leaves the old one in force."""
        try:
            # A file system can hang.
            loaded = await asyncio.to_thread(self._load)
            settings = self._applicable(loaded.settings)
            pool = UpstreamPool(settings.upstream, self._metrics.traffic)
            identity = await self._identity_for(settings.oauth)
        except ConfigError as exc:
            self._failed("; ".join(exc.problems))
        except ProxyError as exc:
            self._failed(exc.detail)
        else:
            exporter = self._exporter_for(settings.tracing)
            self._replace(Engine(settings, identity.tokens, pool, exporter), identity)
            self._metrics.config_reloads.labels("ok").inc()
            self._log.info("reloaded", config=loaded.origin)

    def _failed(self, reason: str) -> None:
        self._metrics.config_reloads.labels("failed").inc()
        self._log.error("reload_failed", reason=reason, effect="the old configuration stays in force")

    def _applicable(self, settings: Settings) -> Settings:
        """The new settings, but for those that need a restart."""
        old = self._serving.engine.settings
        fixed = {name: getattr(old, name) for name in _FIXED}
        changed = [name for name, value in fixed.items() if getattr(settings, name) != value]
        if changed:
            self._log.warning("reload_needs_restart", sections=", ".join(changed))
        return msgspec.structs.replace(settings, **fixed)

    async def _identity_for(self, oauth: OAuth) -> Identity:
        """The one there is, if it is still the right one; else a new one that has proved to work.

        Certificates can be others in files of the same name. Raises Unavailable where there is a token to lose and no
        new one comes.
        """
        current = self._serving.engine
        if oauth == current.settings.oauth and not oauth.tls.files:
            current.tokens.reconsider()
            return self._identity
        identity = Identity(oauth, self._metrics, self._log)
        identity.tokens.start()
        if current.tokens.current() is not None:
            try:
                await identity.tokens.acquire()
            except BaseException:
                await identity.close()
                raise
        return identity

    def _exporter_for(self, tracing: Tracing) -> "Exporter | None":
        """There is never another one: requests that have begun end in spans, too."""
        if self._exporter is None:
            self._exporter = open_exporter(tracing, self._log)
        elif tracing.otlp_endpoint is not None:
            self._exporter.send_to(tracing.otlp_endpoint)
        return self._exporter if tracing.otlp_endpoint is not None else None

    def _replace(self, engine: Engine, identity: Identity) -> None:
        old, self._serving.engine = self._serving.engine, engine
        old.pool.retire()
        self._log.obey(engine.settings.log)
        if identity is not self._identity:
            retiring = asyncio.get_running_loop().create_task(self._identity.retire())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
            self._identity = identity
