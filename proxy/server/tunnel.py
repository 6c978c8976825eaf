"""The client's side of a tunnel."""

from proxy.upstream.connection import TunnelEnd


class ToTunnel:
    """In place of aiohttp's WebSocket reader: hands on what the client sends."""

    def __init__(self, other: TunnelEnd) -> None:
        self._other = other

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._other.write(data)
        return False, b""

    def feed_eof(self) -> None:
        """The connection's task is cancelled, which ends the other side."""
