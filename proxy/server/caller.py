"""What the kernel knows of a caller."""

import asyncio
import select
import socket
import struct
import sys

# struct ucred: pid, uid, gid
_CREDENTIALS = struct.Struct("3i")


def is_allowed(transport: asyncio.BaseTransport, uids: tuple[int, ...]) -> bool:
    """Is the calling process one of these users? The kernel knows (unix(7), SO_PEERCRED); no list: everybody is."""
    if not uids:
        return True
    peer = transport.get_extra_info("socket")
    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid in uids


def is_gone(transport: asyncio.BaseTransport) -> bool:
    """Was the connection reset, or a Unix socket closed? One that only ended its sending side is there (poll(2))."""
    if sys.platform == "win32":
        return False
    poll = select.poll()
    # Asked for nothing, it reports what can't be declined: errors and hang-ups.
    poll.register(transport.get_extra_info("socket"), 0)
    return bool(poll.poll(0))
