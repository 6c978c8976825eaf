"""How a connection to the upstream is made: to its host, or through an egress proxy."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import aiofastnet

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.errors import UpstreamTls as UpstreamTlsError
from proxy.settings import Upstream
from proxy.tls import client_context
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.egress import HAPPY_EYEBALLS_DELAY, open_tunnel

# The metric's `result` of a failure, by its Proxy-Status type.
RESULTS: Mapping[str, str] = {
    "tls_certificate_error": "tls",
    "tls_protocol_error": "tls",
    "dns_error": "dns",
    "connection_refused": "refused",
    "connection_timeout": "timeout",
    "connection_terminated": "network",
    "destination_ip_unroutable": "network",
    "http_request_denied": "proxy_refused",
    "destination_unavailable": "proxy_refused",
    "http_protocol_error": "proxy_protocol",
}


class Dialer:
    """Makes connections to the origin of `upstream.url`. Raises ConfigError."""

    def __init__(self, settings: Upstream) -> None:
        url = urlsplit(settings.url)
        self._timeout = settings.connect_timeout
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = client_context(settings.tls, "upstream.tls") if url.scheme == "https" else None
        self._name = (settings.tls.server_name or self._host) if self._tls else None
        self._egress_proxy = settings.egress_proxy

    async def dial(self, connection: UpstreamConnection) -> None:
        """Connects it. Raises UpstreamError, with a `proxy_status` that is in RESULTS."""
        try:
            async with asyncio.timeout(self._timeout):
                if self._egress_proxy is None:
                    await self._connect(
                        connection,
                        host=self._host,
                        port=self._port,
                        happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY,
                        all_errors=True,
                    )
                else:
                    await self._through(self._egress_proxy, connection)
        except (OSError, ExceptionGroup, UnicodeError) as exc:
            raise _failure(exc) from exc

    async def _through(self, egress_proxy: str, connection: UpstreamConnection) -> None:
        """The name of the upstream is resolved by the egress proxy. TLS is with the upstream, as without one."""
        try:
            sock = await open_tunnel(egress_proxy, self._host, self._port)
        except (OSError, UnicodeError) as exc:
            raise _failure(exc, "No connection to upstream.egress_proxy could be made, or it was lost.") from exc
        try:
            await self._connect(connection, sock=sock)
        except Exception:
            # After a cancellation its transport has it, and closes it.
            sock.close()
            raise

    async def _connect(self, connection: UpstreamConnection, **to: Any) -> None:
        try:
            await aiofastnet.create_connection(
                asyncio.get_running_loop(), lambda: connection, ssl=self._tls, server_hostname=self._name, **to
            )
        except asyncio.CancelledError:
            # In the moment in which the handshake is done, aiofastnet leaves a transport that goes on reading: for half
            # a minute from a descriptor that may be another's by then.
            with suppress(AttributeError):  # it has no transport yet
                connection.abort()
            raise


# Exception, error and its Proxy-Status type; the first that matches.
_FAILURES: tuple[tuple[type[Exception], type[UpstreamError], str], ...] = (
    (ssl.SSLCertVerificationError, UpstreamTlsError, "tls_certificate_error"),
    (ssl.SSLError, UpstreamTlsError, "tls_protocol_error"),
    (socket.gaierror, UpstreamUnreachable, "dns_error"),
    # A label that IDNA can't encode.
    (UnicodeError, UpstreamUnreachable, "dns_error"),
    (ConnectionRefusedError, UpstreamUnreachable, "connection_refused"),
    (TimeoutError, UpstreamTimeout, "connection_timeout"),
    (ConnectionError, UpstreamUnreachable, "connection_terminated"),
    (OSError, UpstreamUnreachable, "destination_ip_unroutable"),
)


def _failure(exc: Exception, detail: str | None = None) -> UpstreamError:
    """The answer for a failed connect."""
    while isinstance(exc, ExceptionGroup):
        # One error an address; the last tried is as good as any.
        exc = exc.exceptions[-1]
    for kind, error, proxy_status in _FAILURES:
        if isinstance(exc, kind):
            return error(detail, proxy_status=proxy_status)
    raise exc
