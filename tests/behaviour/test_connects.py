"""What a client sees when no connection to the upstream can be made, and that it is served as soon as one can."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.demo.certificates import CertificateAuthority
from tests.behaviour.running import Launcher, ask, problem, until
from tests.peers import OK, TIMEOUT, MuteTls, Reader, Upstream, blackhole


@contextmanager
def closed_port() -> Iterator[tuple[int, socket.socket]]:
    """A port that refuses connections, and stays nobody else's; its socket can be made to listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1], sock


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_refused(launch: Launcher, method: bytes) -> None:
    """Nobody listens: 502 after one attempt, and the token is kept; as soon as somebody does, 200 (F25, R129)."""
    with closed_port() as (port, sock):
        proxy = launch(f"http://127.0.0.1:{port}")
        assert problem(ask(proxy, method)) == (502, b"connection_refused")
        assert proxy.metric("thg_proxy_upstream_connects_total", result="refused") == 1
        assert proxy.metric("thg_proxy_token_generation") == 1
        assert proxy.is_ready
        sock.listen()
        answering = threading.Thread(target=answer_once, args=(sock,))
        answering.start()
        assert ask(proxy, method).status == 200
        answering.join(TIMEOUT)


def answer_once(listener: socket.socket) -> None:
    with closing(listener.accept()[0]) as sock:
        reader = Reader(sock)
        reader.body(reader.head())
        sock.sendall(OK)


def test_no_answer_to_a_connect(launch: Launcher) -> None:
    """A connect that nobody answers is 504 after upstream.connect_timeout, and takes no place then (F26, R129)."""
    with blackhole() as port:
        proxy = launch(f"http://127.0.0.1:{port}", "upstream.connect_timeout=300ms", "upstream.max_connections=1")
        for _ in range(3):
            assert problem(ask(proxy)) == (504, b"connection_timeout")
        assert proxy.metric("thg_proxy_upstream_connects_total", result="timeout") == 3
        assert proxy.metric("thg_proxy_requests_in_flight") == 0


@pytest.mark.parametrize("host", ["nonexistent.invalid", "a..b.invalid"])
def test_no_such_host(launch: Launcher, host: str) -> None:
    """A name that has no address is 502 (F27, R129)."""
    proxy = launch(f"https://{host}", "upstream.connect_timeout=15s")
    assert problem(ask(proxy)) == (502, b"dns_error")


# TLS

Fault = Callable[[CertificateAuthority, Path], ssl.SSLContext]


def _old(authority: CertificateAuthority, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = authority.server_context("localhost")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    return context


def _self_signed(_authority: CertificateAuthority, directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = directory / "self-signed.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def _unknown(_authority: CertificateAuthority, directory: Path) -> ssl.SSLContext:
    return CertificateAuthority(directory).server_context("localhost")


TLS_FAULTS: dict[str, tuple[Fault, tuple[int, bytes]]] = {
    "expired": (lambda ca, _: ca.server_context("localhost", expired=True), (502, b"tls_certificate_error")),
    "wrong name": (lambda ca, _: ca.server_context("other.example"), (502, b"tls_certificate_error")),
    "unknown CA": (_unknown, (502, b"tls_certificate_error")),
    "self-signed": (_self_signed, (502, b"tls_certificate_error")),
    "TLS 1.0": (lambda ca, _: _old(ca, ssl.TLSVersion.TLSv1), (502, b"tls_protocol_error")),
    "TLS 1.1": (lambda ca, _: _old(ca, ssl.TLSVersion.TLSv1_1), (502, b"tls_protocol_error")),
    "silence": (lambda _, __: MuteTls(ssl.PROTOCOL_TLS_SERVER), (504, b"connection_timeout")),
}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")  # an old server is what is wanted
@pytest.mark.parametrize("fault", TLS_FAULTS)
def test_tls(launch: Launcher, authority: CertificateAuthority, tmp_path: Path, fault: str) -> None:
    """An upstream that can't prove who it is, or speaks no good TLS, gets not a byte of a request (F36, R41, R68)."""
    make, expected = TLS_FAULTS[fault]
    with Upstream(tls=make(authority, tmp_path)) as upstream:
        proxy = launch(upstream, f"upstream.tls.ca_file={authority.ca_file}", "upstream.connect_timeout=1s")
        assert problem(ask(proxy)) == expected
        assert problem(ask(proxy, b"POST")) == expected
        assert upstream.raw_bytes == b""
        assert proxy.is_ready


def test_another_certificate(launch: Launcher, authority: CertificateAuthority, tmp_path: Path) -> None:
    """A certificate that is replaced in passing counts for the next connection, be it a bad or a good one (F36)."""
    context = authority.server_context("localhost")
    bad, good = CertificateAuthority(tmp_path).issue("localhost"), authority.issue("localhost")
    with Upstream(tls=context) as upstream:
        proxy = launch(upstream, f"upstream.tls.ca_file={authority.ca_file}")
        assert ask(proxy).status == 200
        context.load_cert_chain(bad.cert_file, bad.key_file)
        assert ask(proxy).status == 200  # on the connection that is there
        upstream.drop_connections()
        until(lambda: proxy.metric("thg_proxy_upstream_connections", state="idle") == 0)
        assert problem(ask(proxy)) == (502, b"tls_certificate_error")
        context.load_cert_chain(good.cert_file, good.key_file)
        assert ask(proxy).status == 200
        assert len(upstream.requests) == 3
