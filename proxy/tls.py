"""TLS contexts: towards the upstream and the identity provider, and for our own clients."""

import asyncio
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
            _load_chain(context, tls.cert_file, tls.key_file)
    return context


def server_context(tls: ServerTls, key: str) -> ssl.SSLContext | None:
    """For a listener; None where no certificate is configured. With a client CA, clients must have a certificate of it.

    Raises ConfigError, as `client_context`.
    """
    if tls.cert_file is None:
        return None
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    with _named(key):
        _load_chain(context, tls.cert_file, tls.key_file)
        if tls.client_ca_file:
            context.load_verify_locations(tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    return context


def resume_reading(transport: asyncio.Transport) -> None:
    """As the transport's own, with what aiofastnet 1.2 forgets over TLS: bytes that it had read before it was paused.

    It would hand these over behind the next ones, and not at all where none come, or only the end. Here they are first
    in the queue.
    """
    if (read_buffered := getattr(transport, "_retry_ssl_read", None)) is not None:
        asyncio.get_running_loop().call_soon(read_buffered)
    transport.resume_reading()


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load_chain(context: ssl.SSLContext, cert_file: str, key_file: str | None) -> None:
    # Without a password OpenSSL asks for one where there is a terminal; a plain key needs none and takes any.
    context.load_cert_chain(cert_file, key_file, password="")


@contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigError([f"{key}: a file can't be loaded: {exc.strerror or type(exc).__name__}"]) from exc
