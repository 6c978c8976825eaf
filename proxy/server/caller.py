"""Who is at the other end of a Unix socket."""

import asyncio
import socket
import struct

# struct ucred: pid, uid, gid
_CREDENTIALS = struct.Struct("3i")


def is_allowed(transport: asyncio.BaseTransport, uids: tuple[int, ...]) -> bool:
    """Is the calling process one of these users? The kernel knows (unix(7), SO_PEERCRED); no list: everybody is."""
    if not uids:
        return True
    peer = transport.get_extra_info("socket")
    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid in uids
