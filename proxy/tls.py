"""TLS towards the upstream and the identity provider."""

import ssl

from proxy.errors import ConfigError
from proxy.settings import ClientTls


def client_context(tls: ClientTls, key: str) -> ssl.SSLContext:
    """TLS 1.2 at least, chain and name verified. Raises ConfigError, with `key` as the configuration names `tls`.

    Not ssl.create_default_context, which writes session keys to $SSLKEYLOGFILE (R150).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        if tls.ca_file:
            context.load_verify_locations(tls.ca_file)
        else:
            context.load_default_certs()
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError as exc:
        raise ConfigError([f"{key}: a file can't be loaded: {exc.strerror or type(exc).__name__}"]) from exc
    return context
