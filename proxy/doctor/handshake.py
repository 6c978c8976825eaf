"""The TLS handshake with a server, and what is wrong with it."""

import asyncio
import ssl
from datetime import UTC, datetime

from proxy.doctor.certificates import Certificate, shown_by
from proxy.doctor.network import connection, pass_egress_proxy
from proxy.doctor.peer import Peer
from proxy.doctor.record import Failed, Finding
from proxy.settings import ClientTls
from proxy.tls import client_context

# OpenSSL's codes of what is wrong with a certificate (x509_vfy.h).
_UNKNOWN_CA = frozenset({2, 19, 20, 21})
_SELF_SIGNED = 18
_WRONG_DATE = {9: "is not valid yet", 10: "has expired"}
_WRONG_NAME = frozenset({62, 64})

# OpenSSL's names of what comes of a server that does not speak TLS, or only versions that are too old.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})
_TOO_OLD = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"})


async def shake_hands(peer: Peer, address: str) -> Finding[bool]:
    """TLS as the proxy speaks it. What the server's certificates say is found whether they are accepted or not."""
    context = client_context(peer.tls, f"{peer.section}.tls")
    try:
        agreed, chain = await _handshake(context, peer, address)
    except ssl.SSLCertVerificationError as exc:
        raise _refused(exc, peer, await _look_at_certificates(peer, address)) from exc
    return Finding(value=True, found=(agreed, *map(str, chain)))


async def _look_at_certificates(peer: Peer, address: str) -> list[Certificate]:
    """Of a server whose certificates are not accepted: they can be seen only where nothing is verified.

    The connection ends with the handshake. Nothing is sent on it, and no certificate of ours is shown.
    """
    context = client_context(ClientTls(), f"{peer.section}.tls")
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        _, chain = await _handshake(context, peer, address)
    except Failed:
        return []
    return chain


async def _handshake(context: ssl.SSLContext, peer: Peer, address: str) -> tuple[str, list[Certificate]]:
    """Protocol and cipher, and what the server shows. Raises SSLCertVerificationError; Failed for all else."""
    try:
        async with asyncio.timeout(peer.timeout), connection(peer, address) as (reader, writer):
            if peer.is_tunnelled:
                await pass_egress_proxy(peer, (reader, writer))
            await writer.start_tls(context, server_hostname=peer.name)
            tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return f"{tls.version()}, {(tls.cipher() or ('?',))[0]}", shown_by(tls)
    except ssl.SSLCertVerificationError:
        raise
    except ssl.SSLError as exc:
        raise _broken(exc, peer) from exc
    except TimeoutError:
        raise Failed(
            f"the handshake is not complete within {peer.timeout}",
            f"Check that {peer.host} speaks TLS at port {peer.port}, and that nothing on the way drops large packets.",
        ) from None
    except OSError as exc:
        raise Failed("the connection was closed in the handshake", _other_side(peer)) from exc


def _broken(exc: ssl.SSLError, peer: Peer) -> Failed:
    reason = exc.reason or "unknown"
    if reason in _NOT_TLS:
        return Failed("what answers does not speak TLS", f"Check {peer.key}: is {peer.port} a port for https?")
    if reason in _TOO_OLD:
        return Failed("the server speaks no TLS from version 1.2 on", f"Whoever runs {peer.host} must enable it.")
    return Failed(f"the handshake failed: {reason}", _other_side(peer))


def _other_side(peer: Peer) -> str:
    return (
        f"Check that {peer.host} speaks TLS at port {peer.port}; if it wants a client certificate, set"
        f" {peer.section}.tls.cert_file and key_file."
    )


def _refused(exc: ssl.SSLCertVerificationError, peer: Peer, chain: list[Certificate]) -> Failed:
    cause, remedy = _certificate_fault(exc, peer, chain)
    return Failed(cause, remedy, tuple(map(str, chain)))


def _certificate_fault(exc: ssl.SSLCertVerificationError, peer: Peer, chain: list[Certificate]) -> tuple[str, str]:
    """Cause and remedy."""
    code, ca_file = exc.verify_code, f"{peer.section}.tls.ca_file"
    if code in _WRONG_NAME:
        names = ", ".join(chain[0].names) if chain else "others"
        return f"the certificate is not for {peer.name}, but for {names}", f"Check the host of {peer.key}."
    if code in _WRONG_DATE:
        clock = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        return (
            f"a certificate {_WRONG_DATE[code]}",
            f"Whoever runs {peer.host} must renew it, unless the clock of this machine is wrong: it says {clock}.",
        )
    if code == _SELF_SIGNED:
        return "the certificate is signed by itself", f"If it is the right one, put it into a file for {ca_file}."
    if code in _UNKNOWN_CA:
        issuer = chain[-1].issuer if chain else "unknown"
        return (
            f"no CA that is trusted here has signed the certificate: the last issuer is {issuer}",
            f"Put that CA's certificate into a file for {ca_file}, unless the server leaves out one that leads to it.",
        )
    return f"the certificate is not accepted: {exc.verify_message}", f"Ask whoever runs {peer.host}."
