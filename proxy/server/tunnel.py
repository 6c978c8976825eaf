"""The client's side of a tunnel."""

from proxy.upstream.tunnel import FarSide


class ToTunnel:
    """In place of aiohttp's WebSocket reader: hands on what the client sends."""

    def __init__(self, other: FarSide) -> None:
        self._other = other

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._other.write(data)
        return False, b""

    def feed_eof(self) -> None:
        """The connection has told of its end, or its task is cancelled."""
