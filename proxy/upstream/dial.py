"""How a connection to the upstream is made: to its host, or through an egress proxy."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
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

    async def dial(self, new: Callable[[], UpstreamConnection]) -> UpstreamConnection:
        """Raises UpstreamError, with a `proxy_status` that is in RESULTS."""
        try:
            async with asyncio.timeout(self._timeout):
                if self._egress_proxy is None:
                    return await self._to_host(new)
                return await self._through(self._egress_proxy, new)
        except (OSError, ExceptionGroup, UnicodeError) as exc:
            raise _failure(exc) from exc

    async def _to_host(self, new: Callable[[], UpstreamConnection]) -> UpstreamConnection:
        _, connection = await aiofastnet.create_connection(
            asyncio.get_running_loop(),
            new,
            self._host,
            self._port,
            ssl=self._tls,
            server_hostname=self._name,
            happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY,
            all_errors=True,
        )
        return connection

    async def _through(self, egress_proxy: str, new: Callable[[], UpstreamConnection]) -> UpstreamConnection:
        """The name of the upstream is resolved by the egress proxy. TLS is with the upstream, as without one."""
        try:
            sock = await open_tunnel(egress_proxy, self._host, self._port)
        except (OSError, UnicodeError) as exc:
            raise _failure(exc, "No connection to upstream.egress_proxy could be made, or it was lost.") from exc
        try:
            _, connection = await aiofastnet.create_connection(
                asyncio.get_running_loop(), new, sock=sock, ssl=self._tls, server_hostname=self._name
            )
        except Exception:
            # After a cancellation a transport still has the socket, and closes it itself.
            sock.close()
            raise
        return connection


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
