"""CONNECT to an egress proxy: what is asked, and what its answer says (RFC 9110 §9.3.6)."""

import re
from http import HTTPStatus

# Bytes of an answer, interim ones included.
MAX_ANSWER = 8 << 10

_VERSION = b"HTTP/1."
_END = b"\r\n\r\n"
# RFC 9112 §4 and §5. A reason may be missing with the space before it, as some proxies write it.
_HEAD = re.compile(
    rb"HTTP/1\.[01] (?P<status>[1-5][0-9]{2})(?: [\t -~\x80-\xff]*)?\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n){0,100}"
    rb"\r\n"
)


def authority(host: str, port: int) -> str:
    """`host`: an IPv6 address without brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connect_request(host: str, port: int) -> bytes:
    target = authority(host, port)
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


def final_status(received: bytes) -> int | None:
    """The status of the final answer in all that was received; None while more has to come.

    The tunnel begins behind the head of a 2xx, whatever its fields say of a body, and nobody has a word in it before
    the client. Raises ValueError for what no HTTP proxy would answer.
    """
    begin = 0
    while (end := received.find(_END, begin)) >= 0:
        head = _HEAD.fullmatch(received, begin, end + len(_END))
        if head is None:
            raise ValueError("a malformed head")
        status, begin = int(head["status"]), head.end()
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            raise ValueError("another protocol, which nobody asked for")
        if is_tunnel(status) and len(received) > begin:
            raise ValueError("bytes in the tunnel before those of the client")
        if status >= HTTPStatus.OK:
            return status
    if not received.startswith(_VERSION[: len(received) - begin], begin):
        raise ValueError("no HTTP")
    if len(received) >= MAX_ANSWER:
        raise ValueError("a head without an end")
    return None


def is_tunnel(status: int) -> bool:
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
