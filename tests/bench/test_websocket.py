"""The load of the websocket case, without a proxy."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from proxy.demo.certificates import CertificateAuthority

from .measure import BenchError
from .websocket import Echo, echoing, frame

AUTHORIZATION = "Authorization: Bearer secret"


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    authority = CertificateAuthority(tmp_path)
    with echoing(authority.issue("localhost"), authority.ca_file, "secret") as server:
        yield server


@pytest.mark.parametrize("mask", [b"", b"\x01\x02\x03\x04"])
def test_frames_are_those_of_the_standard(mask: bytes) -> None:
    """Another implementation reads the message back (RFC 6455 §5.2)."""
    payload = bytes(range(256))
    reader = StreamReader()
    reader.feed_data(frame(payload, mask))
    parser = Frame.parse(reader.read_exact, mask=bool(mask))
    with pytest.raises(StopIteration) as parsed:
        next(parser)

    assert parsed.value.value == Frame(Opcode.BINARY, payload)


def test_messages_come_back(echo: Echo) -> None:
    """Clients go on exchanging messages with the server over TLS."""
    with echo.clients(f"https://localhost:{echo.port}", (AUTHORIZATION,), 3) as clients:
        for _ in range(2):
            while not clients.exchange(0.01):
                pass


def test_a_peer_that_adds_no_token_fails(echo: Echo) -> None:
    """What the server answers instead of 101 is the failure of the peer."""
    with (
        pytest.raises(BenchError, match="401 Unauthorized"),
        echo.clients(f"https://localhost:{echo.port}", (), 1),
    ):
        pass


def test_a_broken_tunnel_fails_the_run(echo: Echo) -> None:
    """A connection that ends on the way gives no figures."""

    def accept_and_hang_up(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept_and_hang_up, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with echo.clients(url, (), 1) as clients, pytest.raises(BenchError, match="1 tunnels broke"):  # noqa: PT012 - when it is noticed is open
            while True:
                clients.exchange(0.01)
        thread.join()
