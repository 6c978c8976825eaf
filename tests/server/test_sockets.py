"""Sockets that listen, and the files of those in the file system."""

import errno
import os
import select
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.server import sockets as module
from proxy.server.sockets import address_of, claim, close, listen, listen_together, refuse
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


@pytest.mark.parametrize("count", [1, 3])
def test_one_port_for_several(count: int) -> None:
    """Each process has a socket of its own for each address, and all of them have the port that the kernel chose."""
    together = listen_together(Address("localhost", 0), 0o600, count)
    assert len(together) == count
    assert len({address_of(listening).port for each in together for listening in each}) == 1
    hosts = [[address_of(listening).host for listening in each] for each in together]
    assert hosts == [hosts[0]] * count
    for listening in (listening for each in together for listening in each):
        close(listening)


def test_connections_are_shared_out() -> None:
    """The kernel gives each connection to one of them."""
    (first,), (second,) = listen_together(Address("127.0.0.1", 0), 0o600, 2)
    with first, second, ExitStack() as callers:
        for listening in (first, second):
            listening.settimeout(0)
            while not select.select([listening], [], [], 0)[0]:
                callers.enter_context(socket.create_connection(first.getsockname()))


def test_a_shared_port_in_use() -> None:
    """A second proxy on the port is told so: it would take away connections, and nobody would know why."""
    ((first,), (second,)) = listen_together(Address("127.0.0.1", 0), 0o600, 2)
    with first, second, pytest.raises(OSError, match="in use"):
        listen_together(address_of(first), 0o600, 2)


def test_one_unix_socket_for_several(tmp_path: Path) -> None:
    """There can be one at a path, which all of them share."""
    (first,), (second,) = listen_together(Address(path=str(tmp_path / "socket")), 0o600, 2)
    assert first is second
    close(first)


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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a socket that listens can't refuse")
@pytest.mark.parametrize("place", ["127.0.0.1", "::1", "unix"])
def test_refuse(tmp_path: Path, place: str) -> None:
    """From then on nobody can connect; who has connected is still in the queue (R162)."""
    address = Address(path=str(tmp_path / "socket")) if place == "unix" else Address(place, 0)
    (listening,) = listen(address, 0o600)
    name = listening.getsockname()
    with socket.socket(listening.family) as early, socket.socket(listening.family) as late:
        early.connect(name)
        assert refuse(listening) <= 0.1
        with pytest.raises(ConnectionRefusedError):
            late.connect(name)
        early.sendall(b"first")
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.recv(5) == b"first"
    close(listening)


def test_a_system_without_a_way_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """There everybody can still connect, and nobody waits for nothing."""
    monkeypatch.setattr(module, "_BIND_TO_INTERFACE", 9999)
    (listening,) = listen(Address("127.0.0.1", 0), 0o600)
    with listening:
        assert refuse(listening) == 0
        socket.create_connection(listening.getsockname()).close()
