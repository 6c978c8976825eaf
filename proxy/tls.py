"""TLS contexts: towards the upstream and the identity provider, and for our own clients."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.errors import ConfigError
from proxy.settings import ClientTls, ServerTls


def client_context(tls: ClientTls, key: str) -> ssl.SSLContext:
    """TLS 1.2 at least, chain and name verified. Raises ConfigError, with `key` as the configuration names `tls`.

    Not ssl.create_default_context, which writes session keys to $SSLKEYLOGFILE (R150).
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    with _named(key):
        if tls.ca_file:
            context.load_verify_locations(tls.ca_file)
        else:
            context.load_default_certs()
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


def server_context(tls: ServerTls, key: str) -> ssl.SSLContext | None:
    """For a listener; None where no certificate is configured. With a client CA, clients must have a certificate of it.

    Raises ConfigError, as `client_context`.
    """
    if tls.cert_file is None:
        return None
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    with _named(key):
        context.load_cert_chain(tls.cert_file, tls.key_file)
        if tls.client_ca_file:
            context.load_verify_locations(tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigError([f"{key}: a file can't be loaded: {exc.strerror or type(exc).__name__}"]) from exc
