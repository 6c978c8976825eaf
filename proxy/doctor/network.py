"""The way to a server: its name, a connection."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.doctor.peer import Peer
from proxy.doctor.record import Failed, Finding

_MAX_CONNECT_ANSWER = 8192

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
    reader, writer = await asyncio.open_connection(address, peer.first_hop[1], limit=_MAX_CONNECT_ANSWER)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def pass_egress_proxy(peer: Peer, streams: Streams) -> None:
    """From the first hop to the server itself (RFC 9110 §9.3.6)."""
    reader, writer = streams
    authority = f"[{peer.host}]:{peer.port}" if ":" in peer.host else f"{peer.host}:{peer.port}"
    writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        head = b""
    status = head[9:12].decode("ascii", "replace")
    if not status.startswith("2"):
        answer = f"status {status}" if status.isdigit() else "no HTTP"
        raise Failed(
            f"{peer.first_hop_key} does not connect to {authority}: it answers with {answer}",
            f"Check {peer.first_hop_key}, and what that proxy allows.",
        )
