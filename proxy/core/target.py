"""The request target: from what the client sent to what the upstream gets, byte for byte (RFC 9112 §3.2)."""

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from proxy.errors import BadTarget

_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
# What is encoded more often than this is encoded to get past somebody.
_MAX_DECODINGS = 4
_PARENT_SEGMENT = re.compile(rb"(?:^|/)\.\.(?:[/;\x00]|$)")
_BACKSLASH_IS_SLASH = bytes.maketrans(b"\\", b"/")
_IGNORED_CONTROLS = bytes(range(0x01, 0x20))


class Target(NamedTuple):
    """`authority` is what an absolute-form says in place of Host (RFC 9112 §3.2.2), else None."""

    authority: bytes | None
    origin_form: bytes


def parse_target(method: str, raw: str) -> Target:
    """The forms that a gateway accepts: origin, absolute, and asterisk for OPTIONS. Raises BadTarget."""
    try:
        target = raw.encode("ascii")
    except UnicodeEncodeError:
        raise BadTarget from None
    if b"#" in target:
        raise BadTarget
    if target.startswith(b"/"):
        return Target(None, target)
    if target == b"*" and method == "OPTIONS":
        return Target(None, target)
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise BadTarget
    authority, rest = match.groups()
    if not rest and method == "OPTIONS":
        # RFC 9112 §3.2.4: the absolute form of the asterisk.
        return Target(authority, b"*")
    return Target(authority, rest if rest.startswith(b"/") else b"/" + rest)


def join_base(base_path: bytes, origin_form: bytes) -> bytes:
    """The target for the upstream: nothing is decoded, merged or removed (RFC 9110 §7.7, R34).

    `base_path` is empty, or starts with a slash and does not end with one. Below a base path a target that could climb
    out of it is refused, however it is written (R35). Raises BadTarget.
    """
    if not base_path:
        return origin_form
    if origin_form == b"*" or _may_climb(origin_form):
        raise BadTarget("The request target may not leave the base path of upstream.url.")
    return base_path + origin_form


def _may_climb(target: bytes) -> bool:
    """Could a server that decodes, even more than once, see a `..` segment in the path?"""
    path = target.partition(b"?")[0]
    for _ in range(_MAX_DECODINGS):
        if _PARENT_SEGMENT.search(_carelessly_read(path)):
            return True
        decoded = unquote_to_bytes(path)
        if decoded == path:
            return False
        path = decoded
    return True


def _carelessly_read(path: bytes) -> bytes:
    """Some servers take a backslash for a slash, drop tabs and line ends, or decode overlong UTF-8 (CVE-2008-2938)."""
    plain = path.replace(b"\xc0\xae", b".").replace(b"\xc0\xaf", b"/")
    return plain.translate(_BACKSLASH_IS_SLASH, _IGNORED_CONTROLS)
