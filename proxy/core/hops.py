"""How far a request may go (RFC 9110 §7.6.2). Of the methods that are served, OPTIONS alone may be limited."""

import re

from proxy.core.headers import MessageFields

FIELD = b"max-forwards"
_NUMBER = re.compile(rb"0*([0-9]{1,9})")
_LINE = re.compile(rb"max-forwards:", re.IGNORECASE)
# What a number of more digits counts as.
_MANY = 10**9


def hops_left(method: str, fields: MessageFields) -> int | None:
    """How many times the request may be forwarded, or None where nothing, or nonsense, is said."""
    value = fields.noted.get(FIELD)
    if method != "OPTIONS" or value is None or not value.isdigit():
        return None
    match = _NUMBER.fullmatch(value)
    return _MANY if match is None else int(match[1])


def with_hops(fields: MessageFields, hops: int) -> MessageFields:
    """The fields with another number in them."""
    lines = [b"Max-Forwards: %d\r\n" % hops if _LINE.match(line) else line for line in fields.lines]
    return fields._replace(lines=lines)
