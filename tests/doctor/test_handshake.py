"""What is wrong with TLS is told apart, towards the provider as towards the API."""

import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Never

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.doctor.reports import Doctor, Report
from tests.peers import MuteTls, Upstream

Serving = Callable[[CertificateAuthority, Path], ssl.SSLContext | None]

CA = "CN=thg-proxy demo CA"


def with_files(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def good(authority: CertificateAuthority, _path: Path) -> ssl.SSLContext:
    return authority.server_context("localhost")


def expired(authority: CertificateAuthority, _path: Path) -> ssl.SSLContext:
    return authority.server_context("localhost", expired=True)


def of_others(authority: CertificateAuthority, _path: Path) -> ssl.SSLContext:
    return authority.server_context("a.example", "127.0.0.2")


def of_another_ca(_authority: CertificateAuthority, path: Path) -> ssl.SSLContext:
    return CertificateAuthority(path).server_context("localhost")


def with_another_ca(_authority: CertificateAuthority, path: Path) -> ssl.SSLContext:
    """The server shows the whole chain, the CA's own certificate included."""
    another = CertificateAuthority(path)
    issued = another.issue("localhost")
    chain = path / "chain.pem"
    chain.write_bytes(issued.cert_file.read_bytes() + another.ca_file.read_bytes())
    return with_files(chain, issued.key_file)


def self_signed(_authority: CertificateAuthority, path: Path) -> ssl.SSLContext:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "box")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(2))
    certificate, key_file = path / "box.pem", path / "box.key"
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    formats = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *formats))
    return with_files(certificate, key_file)


def old(authority: CertificateAuthority, _path: Path) -> ssl.SSLContext:
    context = authority.server_context("localhost")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.deprecated_call():
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def wants_a_certificate(authority: CertificateAuthority, _path: Path) -> ssl.SSLContext:
    context = authority.server_context("localhost")
    context.load_verify_locations(authority.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


class _Closing(ssl.SSLContext):
    """A server that takes connections and closes them."""

    def wrap_socket(self, *_: Any, **_options: Any) -> Never:
        raise ConnectionAbortedError


def closing(_authority: CertificateAuthority, _path: Path) -> ssl.SSLContext:
    return _Closing(ssl.PROTOCOL_TLS_SERVER)


def mute(_authority: CertificateAuthority, _path: Path) -> ssl.SSLContext:
    return MuteTls(ssl.PROTOCOL_TLS_SERVER)


# How the server behaves, then the cause, the remedy and the certificates that are shown.
FAULTS: dict[Serving, tuple[str, str, list[str]]] = {
    expired: (
        r"a certificate has expired",
        r"must renew it, unless the clock of this machine is wrong: it says \d{4}-\d\d-\d\d \d\d:\d\d UTC",
        [rf"CN=localhost, issued by {CA}, until [\d-]+ \(expired\)"],
    ),
    of_others: (
        r"the certificate is not for localhost, but for a\.example, 127\.0\.0\.2",
        r"Check the host of \w+\.\w+",
        [rf"CN=a\.example, issued by {CA}, until .*"],
    ),
    of_another_ca: (
        rf"no CA that is trusted here has signed the certificate: the last issuer is {CA}",
        r"a file for \w+\.tls\.ca_file",
        [rf"CN=localhost, issued by {CA}, until .* days left\)"],
    ),
    with_another_ca: (
        rf"no CA that is trusted here has signed the certificate: the last issuer is {CA}",
        r"a file for \w+\.tls\.ca_file",
        [rf"CN=localhost, issued by {CA}, until .*", rf"{CA}, issued by {CA}, until .*"],
    ),
    self_signed: (
        r"the certificate is signed by itself",
        r"a file for \w+\.tls\.ca_file",
        [r"CN=box, issued by CN=box, until [\d-]+ \(1 day left\)"],
    ),
    old: (r"the server speaks no TLS from version 1\.2 on", r"Whoever runs localhost must enable it", []),
    wants_a_certificate: (r"the handshake failed: .*", r"set \w+\.tls\.cert_file", []),
    closing: (r"the connection was closed in the handshake", r"speaks TLS at port \d+", []),
    mute: (r"the handshake is not complete within 1s", r"speaks TLS at port \d+", []),
}


def check(report: Report, step: str, expected: tuple[str, str, list[str]]) -> None:
    cause, remedy = report.failure(step)
    assert re.fullmatch(expected[0], cause)
    assert re.search(expected[1], remedy)
    shown = report.steps[step]["found"]
    assert len(shown) == len(expected[2])
    assert all(map(re.fullmatch, expected[2], shown))


@pytest.mark.parametrize("serving", FAULTS)
def test_upstream(doctor: Doctor, authority: CertificateAuthority, tmp_path: Path, serving: Serving) -> None:
    """Each fault has its cause and its remedy, with the certificates that the server shows; nothing is sent (R41)."""
    with Upstream(tls=serving(authority, tmp_path)) as upstream:
        report = doctor(
            f"upstream.url=https://localhost:{upstream.port}",
            f"upstream.tls.ca_file={authority.ca_file}",
            "upstream.connect_timeout=1s",
        )
    check(report, "upstream TLS", FAULTS[serving])
    assert not upstream.requests


@pytest.mark.parametrize("serving", FAULTS)
def test_provider(doctor: Doctor, authority: CertificateAuthority, tmp_path: Path, serving: Serving) -> None:
    """The same towards the provider; no secret is sent to a server that is not the right one (F14)."""
    with Upstream(tls=serving(authority, tmp_path)) as provider:
        report = doctor(
            f"oauth.token_url=https://localhost:{provider.port}/token",
            f"oauth.tls.ca_file={authority.ca_file}",
            "oauth.timeout=1s",
        )
    check(report, "token endpoint TLS", FAULTS[serving])
    assert not provider.requests


def test_good(doctor: Doctor, authority: CertificateAuthority, tmp_path: Path) -> None:
    """A good handshake is told with its protocol, and with the days that the certificates have left."""
    with Upstream(tls=good(authority, tmp_path)) as upstream:
        report = doctor(f"upstream.url=https://localhost:{upstream.port}", f"upstream.tls.ca_file={authority.ca_file}")
    assert report.exit_code == 0
    agreed, certificate = report.found("upstream TLS")
    assert agreed == "TLSv1.3, TLS_AES_256_GCM_SHA384"
    assert re.fullmatch(rf"CN=localhost, issued by {CA}, until [\d-]+ \(364 days left\)", certificate)


def test_server_name(doctor: Doctor, authority: CertificateAuthority, tmp_path: Path) -> None:
    """The name that the certificate must be for is the one that is configured."""
    with Upstream(tls=of_others(authority, tmp_path)) as upstream:
        report = doctor(
            f"upstream.url=https://localhost:{upstream.port}",
            f"upstream.tls.ca_file={authority.ca_file}",
            "upstream.tls.server_name=a.example",
        )
    assert report.exit_code == 0


def test_plain(doctor: Doctor, provider: DemoProvider) -> None:
    """A port for plain http is told from a TLS server that fails."""
    report = doctor(f"upstream.url=https://127.0.0.1:{provider.port}")
    cause, remedy = report.failure("upstream TLS")
    assert cause == "what answers does not speak TLS"
    assert remedy == f"Check upstream.url: is {provider.port} a port for https?"


def test_client_certificate(doctor: Doctor, authority: CertificateAuthority, tmp_path: Path) -> None:
    """A server that wants a certificate gets the configured one."""
    own = authority.issue("client")
    with Upstream(tls=wants_a_certificate(authority, tmp_path)) as upstream:
        report = doctor(
            f"upstream.url=https://localhost:{upstream.port}",
            f"upstream.tls.ca_file={authority.ca_file}",
            f"upstream.tls.cert_file={own.cert_file}",
            f"upstream.tls.key_file={own.key_file}",
        )
    assert report.exit_code == 0


def test_certificate_is_asked_for_late(doctor: Doctor, authority: CertificateAuthority, tmp_path: Path) -> None:
    """In TLS 1.3 a client learns only after the handshake that its certificate is missed: the request tells."""
    context = wants_a_certificate(authority, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    with Upstream(tls=context) as upstream:
        report = doctor(f"upstream.url=https://localhost:{upstream.port}", f"upstream.tls.ca_file={authority.ca_file}")
    cause, remedy = report.failure("upstream request")
    assert cause.startswith("upstream_incomplete: ")
    assert "upstream.tls" in remedy
