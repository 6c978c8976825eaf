"""What a connection learns of its end."""

import asyncio
import fcntl
import socket
import struct
import termios
import time

import aiofastnet
import pytest

from proxy.loop import loop_factory

_RESET = struct.pack("ii", 1, 0)


class Listener(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = 0
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@pytest.mark.parametrize("size", [0, 1000, 30_000])
@pytest.mark.parametrize("resets", [True, False])
def test_the_end_behind_data(size: int, resets: bool) -> None:
    """A connection that ends together with its last bytes is seen to end, by a reset or in peace (R125, F31)."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            _, protocol = await aiofastnet.create_connection(loop, Listener, *server.getsockname())
            peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        peer.sendall(bytes(size))
        if resets:
            while _unsent(peer):
                time.sleep(0.001)  # noqa: ASYNC251 - the loop is kept from reading until all has come
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        peer.close()
        error = await asyncio.wait_for(protocol.lost, 10)
        assert isinstance(error, ConnectionResetError) == resets
        assert protocol.received == size

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scene())


def _unsent(peer: socket.socket) -> int:
    """Bytes that the other side's kernel has not taken (tcp(7), SIOCOUTQ)."""

    return int(struct.unpack("i", fcntl.ioctl(peer, termios.TIOCOUTQ, bytes(4)))[0])
