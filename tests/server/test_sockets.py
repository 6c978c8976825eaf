"""Sockets that listen, and the files of those in the file system."""

import errno
import os
import socket
from pathlib import Path

import pytest

from proxy.server.sockets import address_of, claim, close, listen
from proxy.settings import Address


def test_host_and_port() -> None:
    """One socket that listens at the address."""
    (listening,) = listen(Address("127.0.0.1", 0), 0o600)
    with listening, socket.create_connection(listening.getsockname()):
        listening.accept()[0].close()


def test_addresses(tmp_path: Path) -> None:
    """A socket tells where it listens, with the port that the kernel has chosen."""
    (chosen,) = listen(Address("127.0.0.1", 0), 0o600)
    (named,) = listen(Address(path=str(tmp_path / "socket")), 0o600)
    assert address_of(chosen) == Address("127.0.0.1", chosen.getsockname()[1])
    assert address_of(named) == Address(path=str(tmp_path / "socket"))
    for listening in (chosen, named):
        close(listening)


def test_a_name_with_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name is all of its addresses that this machine has: `localhost` without IPv6 is one (F51)."""

    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(family, None, None, None, (host, 0)) for family, host in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    addresses = [(socket.AF_INET6, "2001:db8::1"), (socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.2")]
    opened = listen(Address("localhost", 0), 0o600)
    assert [address_of(listening).host for listening in opened] == ["127.0.0.1", "127.0.0.2"]
    assert len({address_of(listening).port for listening in opened}) == 1
    for listening in opened:
        listening.close()
    addresses = addresses[:1]
    with pytest.raises(OSError, match=rf"Errno ({errno.EADDRNOTAVAIL}|{errno.EAFNOSUPPORT})\b"):
        listen(Address("localhost", 0), 0o600)


def test_a_port_in_use() -> None:
    """A port that is taken is an error with its reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        listen(Address(*taken.getsockname()), 0o600)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_permissions(tmp_path: Path, mode: int) -> None:
    """A Unix socket has the permissions that were asked for, whatever the umask (R133)."""
    path = tmp_path / "socket"
    mask = os.umask(0)
    try:
        (listening,) = listen(Address(path=str(path)), mode)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == mode
    close(listening)
    assert not path.exists()


def test_a_dead_socket_makes_way(tmp_path: Path) -> None:
    """A socket that nobody listens on is replaced."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    claim(str(path))
    assert not path.exists()
    claim(str(path))


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    """A socket that somebody listens on, be it busy, and a file of another kind are left alone."""
    live, file = tmp_path / "live", tmp_path / "file"
    file.write_text("precious")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(str(live))
        listening.listen(0)
        waiting.connect(str(live))
        for path in (live, file):
            with pytest.raises(OSError, match=f"Errno {errno.EADDRINUSE}"):
                claim(str(path))
    assert live.is_socket()
    assert file.read_text() == "precious"


def test_a_successor_keeps_its_socket(tmp_path: Path) -> None:
    """Closing removes the own socket, and not that of whoever has taken its place."""
    path = tmp_path / "socket"
    (first,) = listen(Address(path=str(path)), 0o600)
    path.unlink()
    (second,) = listen(Address(path=str(path)), 0o600)
    close(first)
    assert path.is_socket()
    close(second)
    assert not path.exists()
