"""Who may be served, decided from the request head alone."""

from collections.abc import Iterable

_MAX_PORT_DIGITS = 5


def host_names(configured: Iterable[str]) -> frozenset[bytes]:
    """`policy.allowed_hosts` in the form that `host_allowed` looks up: no port, an IPv6 address in brackets."""
    return frozenset(name.lower().encode() for name in configured)


def host_allowed(host: bytes, allowed: frozenset[bytes]) -> bool:
    """Is `host`, a Host field or an authority, exactly one of `allowed`, with any port or none?

    Names are compared as they are written, so that neither a trailing dot nor another spelling of an address passes:
    a page that rebinds its name to this machine must not be served (R134).
    """
    host = host.lower()
    if host in allowed:
        return True
    name, _, port = host.rpartition(b":")
    return name in allowed and port.isdigit() and len(port) <= _MAX_PORT_DIGITS
