"""A client's secret while it changes: the new one is proved before the old one is dropped (R100)."""

from functools import partial

from proxy.background import in_background
from proxy.core.client_auth import ClientCredentials
from proxy.errors import SecretUnreadable
from proxy.log import Log
from proxy.secret import SecretRef
from proxy.settings import Client, OAuth


def read_credentials(oauth: OAuth, client: Client) -> ClientCredentials:
    """What the client shows the provider, as its sources give it now. Raises SecretUnreadable."""
    secret = client.client_secret.read() if oauth.needs_client_secret else None
    return ClientCredentials(client.client_id.read(), secret, client.key_id)


class RotatingSecret:
    """What one client of `oauth` shows the provider: as its sources give it now, and what was accepted before."""

    def __init__(self, oauth: OAuth, client: Client, log: Log) -> None:
        self._oauth = oauth
        self._client = client
        self._log = log
        # An assertion is another one each time it is read, and only the newest is good.
        self._lasting = oauth.auth_method != "federated"
        self._proved: ClientCredentials | None = None
        self._latest: ClientCredentials | None = None
        self._doubted: ClientCredentials | None = None
        self._fault: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files that hold what lasts."""
        if not self._lasting:
            return ()
        return tuple(path for source in self._sources if (path := source.file()) is not None)

    async def offers(self) -> list[ClientCredentials]:
        """What to show, one after another until the provider accepts one. Raises SecretUnreadable."""
        try:
            newest = await self._read()
        except SecretUnreadable as exc:
            if self._proved is None:
                raise
            self._report_fault(exc.detail)
            return [self._proved]
        self._fault = None
        if self._proved is None or newest == self._proved:
            return [newest]
        # What was refused once may have been new to the provider, too.
        return [self._proved, newest] if newest == self._doubted else [newest, self._proved]

    async def is_news(self) -> bool:
        """Is there something to show that the provider has neither accepted nor refused?"""
        try:
            newest = await self._read()
        except SecretUnreadable as exc:
            self._report_fault(exc.detail)
            return False
        self._fault = None
        return newest not in (self._proved, self._doubted)

    def accepted(self, shown: ClientCredentials) -> None:
        """The provider knows these credentials."""
        if not self._lasting:
            return
        if self._latest is not None and shown != self._latest:
            self._log.info("secret_changed", client=self._client.name)
        self._proved = self._latest = shown
        if shown == self._doubted:
            self._doubted = None

    def refused(self, shown: ClientCredentials) -> None:
        """The provider does not accept these credentials."""
        if shown == self._proved:
            self._proved = None
        elif self._proved is not None and shown != self._doubted:
            self._log.warning("secret_refused", client=self._client.name, effect="the old secret stays in use")
        self._doubted = shown

    async def _read(self) -> ClientCredentials:
        if not any(source.may_hang() for source in self._sources):
            return read_credentials(self._oauth, self._client)
        return await in_background(partial(read_credentials, self._oauth, self._client))

    @property
    def _sources(self) -> tuple[SecretRef, ...]:
        client = self._client
        return (client.client_id, client.client_secret) if self._oauth.needs_client_secret else (client.client_id,)

    def _report_fault(self, fault: str) -> None:
        if fault != self._fault:
            self._log.warning(
                "secret_unreadable", client=self._client.name, reason=fault, effect="the old secret stays in use"
            )
        self._fault = fault
