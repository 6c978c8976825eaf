"""The way through an egress proxy: a socket that leads to the upstream (RFC 9110 §9.3.6)."""

import asyncio
import socket
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection

from proxy.core.connect import MAX_ANSWER, connect_request, final_status, is_tunnel
from proxy.errors import UpstreamUnreachable

# RFC 8305 §5: the recommended delay before the next address is tried beside the first.
HAPPY_EYEBALLS_DELAY = 0.25


async def open_tunnel(egress_proxy: str, host: str, port: int) -> socket.socket:
    """Raises UpstreamUnreachable for what the egress proxy answers; OSError, or UnicodeError, where it can't."""
    loop = asyncio.get_running_loop()
    hop = urlsplit(egress_proxy)
    addresses = await loop.getaddrinfo(hop.hostname, hop.port, type=socket.SOCK_STREAM)
    sock = await start_connection(addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY, loop=loop)
    try:
        await loop.sock_sendall(sock, connect_request(host, port))
        await _wait_for_tunnel(loop, sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def _wait_for_tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    received = b""
    try:
        while (status := final_status(received)) is None:
            data = await loop.sock_recv(sock, MAX_ANSWER - len(received))
            if not data:
                raise ConnectionAbortedError
            received += data
    except ValueError as exc:
        raise UpstreamUnreachable(
            "upstream.egress_proxy does not answer as an HTTP proxy does.", proxy_status="http_protocol_error"
        ) from exc
    if not is_tunnel(status):
        raise _refusal(status)


def _refusal(status: int) -> UpstreamUnreachable:
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return UpstreamUnreachable(
            "upstream.egress_proxy wants credentials, and this proxy has none for it.",
            proxy_status="http_request_denied",
        )
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return UpstreamUnreachable(
            "upstream.egress_proxy does not allow a connection to the upstream.", proxy_status="http_request_denied"
        )
    return UpstreamUnreachable(
        "upstream.egress_proxy could not connect to the upstream.", proxy_status="destination_unavailable"
    )
