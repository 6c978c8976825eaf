"""Listening sockets for an address of the configuration."""

import errno
import socket
import sys
from pathlib import Path

from proxy.settings import Address

BACKLOG = 1024
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# SO_BINDTOIFINDEX (Linux 5.0; without CAP_NET_RAW 5.7), which Python does not name, and an interface that is not there.
_BIND_TO_INTERFACE, _NO_INTERFACE = 62, 2**31 - 1
# Seconds in which a handshake that has begun ends: two ways through this machine, or through a network.
_HANDSHAKE_HERE, _HANDSHAKE = 0.02, 0.1


def listen(address: Address, unix_mode: int) -> list[socket.socket]:
    """One socket, or one for each address of a host name; `unix_mode` are the permissions of a Unix socket.

    Raises OSError.
    """
    if address.path is not None:
        return [_listen_at_path(address.path, unix_mode)]
    return _listen_at_host(address.host, address.port)


def listen_together(address: Address, unix_mode: int, count: int) -> list[list[socket.socket]]:
    """As `listen`, for each of `count` processes. What they share is a Unix socket, or the port (SO_REUSEPORT).

    Raises OSError.
    """
    if address.path is not None or count == 1:
        return [listen(address, unix_mode)] * count
    if address.port:
        # Another program of this user that shares its port would get a part of the connections, and say nothing.
        for probe in _listen_at_host(address.host, address.port):
            probe.close()
    first = _listen_at_host(address.host, address.port, is_shared=True)
    return [first, *([_beside(listening) for listening in first] for _ in range(count - 1))]


def address_of(listening: socket.socket) -> Address:
    """With the port that the kernel has chosen where it was left to it (0)."""
    name = listening.getsockname()
    return Address(path=name) if isinstance(name, str) else Address(*name[:2])


def _listen_at_host(host: str, port: int, *, is_shared: bool = False) -> list[socket.socket]:
    opened: list[socket.socket] = []
    missing: OSError | None = None
    for family, _, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        try:
            opened.append(socket.create_server((where[0], port), family=family, backlog=BACKLOG, reuse_port=is_shared))
            port = address_of(opened[0]).port
        except OSError as exc:
            if exc.errno not in _NO_SUCH_ADDRESS:
                raise
            # `localhost` can have an IPv6 address on a machine that has no IPv6.
            missing = exc
    if missing is not None and not opened:
        raise missing
    return opened


def _beside(listening: socket.socket) -> socket.socket:
    """Another one at the same address."""
    return socket.create_server(listening.getsockname(), family=listening.family, backlog=BACKLOG, reuse_port=True)


def _listen_at_path(path: str, mode: int) -> socket.socket:
    claim(path)
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(path)
    # Nobody can connect before `listen`, so that the mode holds for everybody (R133).
    Path(path).chmod(mode)
    opened.listen(BACKLOG)
    return opened


def refuse(listening: socket.socket) -> float:
    """Nobody can connect from here on, as if it were closed; who has begun to is in its queue in so many seconds.

    Those are reset where a socket just closes. Linux looks for a listener on the interface by which a connection comes,
    but goes on with handshakes that have begun. Where there is no such way nobody is refused, and there is no wait.
    """
    address = address_of(listening)
    try:
        if address.path is not None:
            listening.shutdown(socket.SHUT_RD)
            return 0.0
        if sys.platform != "linux":
            return 0.0
        listening.setsockopt(socket.SOL_SOCKET, _BIND_TO_INTERFACE, _NO_INTERFACE)
    except OSError:
        return 0.0
    return _HANDSHAKE_HERE if address.is_loopback else _HANDSHAKE


def close(listening: socket.socket) -> None:
    """With the file of a Unix socket."""
    name = listening.getsockname()
    listening.close()
    if isinstance(name, str):
        remove_dead(name)


def claim(path: str) -> None:
    """Makes way for a Unix socket: a dead one is removed. Raises OSError if the path is in use."""
    remove_dead(path)
    if Path(path).exists():
        raise OSError(errno.EADDRINUSE, path)


def remove_dead(path: str) -> None:
    """Removes a Unix socket that nobody listens on."""
    if _is_dead(path):
        # Workers that end together all find it dead.
        Path(path).unlink(missing_ok=True)


def _is_dead(path: str) -> bool:
    """Is it a socket that nobody listens on?"""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)
        is_refused = probe.connect_ex(path) == errno.ECONNREFUSED
    # The kernel refuses a file of another kind in the same way.
    return is_refused and Path(path).is_socket()
