"""Whom requests are sent as."""

import asyncio

from proxy.core.secret import Secret
from proxy.core.stored import store_key
from proxy.errors import SecretUnreadable
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.settings import OAuth
from proxy.stores import TokenStore, open_store
from proxy.tokens import TokenSource


class Identity:
    """The token, and all that obtains it; `client_id` is that of the first client. Raises ConfigError."""

    def __init__(self, oauth: OAuth, client_id: Secret, metrics: Metrics, log: Log) -> None:
        self._wait = oauth.refresh.wait
        self._provider = Provider(oauth)
        self._store = _store(oauth, client_id, log)
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


def _store(oauth: OAuth, client_id: Secret, log: Log) -> TokenStore:
    """For the tokens of the first client; those of the others stand in for them."""
    client = oauth.clients[0]

    def secret() -> Secret | None:
        try:
            return client.client_secret.read()
        except SecretUnreadable:
            return None

    key = store_key(
        provider=oauth.token_url or oauth.issuer or "",
        client_id=client_id,
        scope=oauth.scope,
        audience=oauth.audience,
        resource=oauth.resource,
    )
    return open_store(oauth.store, key=key, secret=secret, log=log)
