"""The request target: from what the client sent to what the upstream gets, byte for byte (RFC 9112 §3.2)."""

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from proxy.errors import BadTarget

_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
# What is encoded more often than this is encoded to get past somebody.
_MAX_DECODINGS = 4
_PARENT_SEGMENT = re.compile(rb"(?:^|/)\.\.(?:[/;\x00]|$)")
# ASCII in more bytes than it needs (RFC 3629 §3), whatever a careless decoder ignores of the last one: `.` or `/`, `\`.
_OVERLONG = re.compile(rb"(?:\xc0|\xe0\x80|\xf0\x80{2}|\xf8\x80{3}|\xfc\x80{4})([./no\xae\xaf\xee\xef])")
_OVERLONG_BACKSLASH = re.compile(rb"(?:\xc1|\xe0\x81|\xf0\x80\x81|\xf8\x80{2}\x81|\xfc\x80{3}\x81)[\x1c\\\x9c\xdc]")
# Full-width dot, slash and backslash, which some servers turn into the plain ones.
_FULL_WIDTH = re.compile(rb"\xef\xbc([\x8e\x8f\xbc])")
# Of servers that decode it, as IIS did.
_WIDE = re.compile(rb"%u([0-9a-f]{4})", re.IGNORECASE)
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
        decoded = unquote_to_bytes(_WIDE.sub(_utf_8, path))
        if decoded == path:
            return False
        path = decoded
    return True


def _carelessly_read(path: bytes) -> bytes:
    """Some servers take a backslash for a slash, drop tabs and line ends, or decode overlong UTF-8 (CVE-2008-2938)."""
    plain = _OVERLONG_BACKSLASH.sub(b"/", _OVERLONG.sub(_six_bits, _FULL_WIDTH.sub(_narrow, path)))
    return plain.translate(_BACKSLASH_IS_SLASH, _IGNORED_CONTROLS)


def _six_bits(overlong: re.Match[bytes]) -> bytes:
    return bytes([overlong[1][0] & 0x3F])


def _narrow(full_width: re.Match[bytes]) -> bytes:
    return b"." if full_width[1] == b"\x8e" else b"/"


def _utf_8(wide: re.Match[bytes]) -> bytes:
    return chr(int(wide[1], 16)).encode(errors="replace")
