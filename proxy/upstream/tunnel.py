"""After a 101: bytes both ways, unchanged, each side paused while the other is full (RFC 9110 §7.8)."""

from typing import Protocol

from proxy.upstream.connection import TunnelEnd, UpstreamConnection


class TunnelClient(TunnelEnd, Protocol):
    """What a tunnel needs of the client's connection."""

    def open_tunnel(self, other: TunnelEnd) -> None:
        """From here on all that the client sends goes to `other`."""


async def tunnel(client: TunnelClient, connection: UpstreamConnection) -> None:
    """Returns when the upstream has closed; the client's end is its task's cancellation."""
    connection.open_tunnel(client)
    client.open_tunnel(connection)
    await connection.wait_closed()
