"""The way to a server: its name, a connection, an egress proxy."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from proxy.core.connect import MAX_ANSWER, authority, connect_request, final_status, is_tunnel
from proxy.doctor.peer import Peer
from proxy.doctor.record import Failed, Finding

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def resolve(peer: Peer) -> Finding[list[str]]:
    """The addresses of the first hop."""
    host, port = peer.first_hop
    look_up = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    remedy = f"Check the host of {peer.first_hop_key}, and the name servers of this machine (/etc/resolv.conf)."
    try:
        found = await asyncio.wait_for(look_up, peer.timeout)
    except TimeoutError:
        raise Failed(f"{host} is not resolved within {peer.timeout}", remedy) from None
    except OSError as exc:
        raise Failed(f"{host} can't be resolved: {exc.strerror}", remedy) from exc
    except UnicodeError as exc:
        raise Failed(f"{host} is not a name that DNS can have", remedy) from exc
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return Finding(addresses, (f"{host}: {', '.join(addresses)}",))


async def connect(peer: Peer, addresses: list[str]) -> Finding[str]:
    """The first of the addresses that accepts a connection; all are tried, since the proxy may come to use any."""
    failures = dict(zip(addresses, await asyncio.gather(*(_try(peer, each) for each in addresses)), strict=True))
    found = tuple(f"{address} port {peer.first_hop[1]}: {why or 'connected'}" for address, why in failures.items())
    for address, why in failures.items():
        if why is None:
            return Finding(address, found)
    raise Failed(
        f"no connection: {failures[addresses[0]]}",
        f"Check host and port of {peer.first_hop_key}, whether the server runs, and the firewalls on the way.",
        found,
    )


async def _try(peer: Peer, address: str) -> str | None:
    """Why there is no connection; None where there is one."""
    try:
        async with asyncio.timeout(peer.timeout), connection(peer, address):
            return None
    except TimeoutError:
        return f"no answer within {peer.timeout}"
    except OSError as exc:
        # asyncio's own text repeats the address.
        return os.strerror(exc.errno).lower() if exc.errno else type(exc).__name__


@asynccontextmanager
async def connection(peer: Peer, address: str) -> AsyncIterator[Streams]:
    """To the first hop, at one of its addresses. Raises OSError."""
    reader, writer = await asyncio.open_connection(address, peer.first_hop[1])
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def open_tunnel(peer: Peer, address: str) -> Finding[bool]:
    """What the egress proxy says to CONNECT."""
    try:
        async with asyncio.timeout(peer.timeout), connection(peer, address) as streams:
            await pass_egress_proxy(peer, streams)
    except TimeoutError:
        raise Failed(f"{peer.first_hop_key} does not answer within {peer.timeout}", _no_proxy(peer)) from None
    except OSError as exc:
        raise Failed(f"{peer.first_hop_key} closes the connection", _no_proxy(peer)) from exc
    return Finding(value=True, found=(f"{peer.first_hop_key} connects to {authority(peer.host, peer.port)}",))


async def pass_egress_proxy(peer: Peer, streams: Streams) -> None:
    """From the first hop to the server itself (RFC 9110 §9.3.6). Raises Failed, or OSError."""
    reader, writer = streams
    writer.write(connect_request(peer.host, peer.port))
    received = b""
    try:
        while (status := final_status(received)) is None:
            data = await reader.read(MAX_ANSWER - len(received))
            if not data:
                raise ConnectionAbortedError
            received += data
    except ValueError as exc:
        raise Failed(f"{peer.first_hop_key} does not answer as an HTTP proxy does", _no_proxy(peer)) from exc
    if not is_tunnel(status):
        raise Failed(f"{peer.first_hop_key} answers with status {status}", _remedy(peer, status))


def _no_proxy(peer: Peer) -> str:
    return f"Check host and port of {peer.first_hop_key}: is it an HTTP proxy, and one that is spoken to without TLS?"


def _remedy(peer: Peer, status: int) -> str:
    target = authority(peer.host, peer.port)
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return f"Let that proxy admit this machine to {target} without credentials: none are sent to it."
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"Let that proxy allow CONNECT to {target}."
    return f"Check {peer.key}, and that {target} can be reached from that proxy."
