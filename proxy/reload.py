"""The configuration in force, and another one for a running proxy: all of it, or nothing."""

import asyncio
from collections.abc import Callable

import msgspec

from proxy.background import in_background
from proxy.config import Loaded
from proxy.errors import ConfigError, ProxyError
from proxy.identity import Identity
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.plane import DataPlane
from proxy.settings import OAuth, Settings
from proxy.tokens import TokenSource

# What a running process can't change.
_FIXED = ("listen", "admin", "workers")


class Reload:
    """Gives `plane` the configuration that `load` reads. `settings` are those in force, obeyed with `identity`."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        plane: DataPlane,
        settings: Settings,
        identity: Identity,
        *,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self.settings = settings
        self._load = load
        self._plane = plane
        self._identity = identity
        self._metrics = metrics
        self._log = log
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def tokens(self) -> TokenSource:
        """In force, like the settings."""
        return self._identity.tokens

    async def close(self) -> None:
        """Ends the token, and what is left of earlier ones."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._identity.close()

    async def run(self) -> None:
        """What is wrong with the new configuration is logged, and leaves the old one in force."""
        try:
            # A file system can hang.
            loaded = await in_background(self._load)
            settings = self._applicable(loaded.settings)
            use = self._plane.prepare(settings)
            identity = await self._identity_for(settings.oauth)
        except ConfigError as exc:
            self._failed("; ".join(exc.problems))
        except ProxyError as exc:
            self._failed(exc.detail)
        else:
            await use(identity.tokens)
            self._replaced(settings, identity)
            self._metrics.config_reloads.labels("ok").inc()
            self._log.info("reloaded", config=loaded.origin)

    def _failed(self, reason: str) -> None:
        self._metrics.config_reloads.labels("failed").inc()
        self._log.error("reload_failed", reason=reason, effect="the old configuration stays in force")

    def _applicable(self, settings: Settings) -> Settings:
        """The new settings, but for those that need a restart."""
        fixed = {name: getattr(self.settings, name) for name in _FIXED}
        changed = [name for name, value in fixed.items() if getattr(settings, name) != value]
        if changed:
            self._log.warning("reload_needs_restart", sections=", ".join(changed))
        return msgspec.structs.replace(settings, **fixed)

    async def _identity_for(self, oauth: OAuth) -> Identity:
        """The one there is, if it is still the right one; else a new one that has proved to work.

        Certificates can be others in files of the same name. Raises Unavailable where there is a token to lose and no
        new one comes.
        """
        if oauth == self.settings.oauth and not oauth.tls.files:
            self.tokens.reconsider()
            return self._identity
        # A keyring can ask somebody for its password.
        client_id = await in_background(oauth.clients[0].client_id.read)
        identity = Identity(oauth, client_id, self._metrics, self._log)
        identity.tokens.start()
        if self.tokens.current() is not None:
            try:
                await identity.tokens.acquire()
            except BaseException:
                await identity.close()
                raise
        return identity

    def _replaced(self, settings: Settings, identity: Identity) -> None:
        self.settings = settings
        self._log.obey(settings.log)
        if identity is not self._identity:
            retiring = asyncio.get_running_loop().create_task(self._identity.retire())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
            self._identity = identity
