"""The contexts, in handshakes with one another."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from proxy.demo.certificates import CertificateAuthority
from proxy.errors import ConfigError
from proxy.settings import ClientTls, ServerTls
from proxy.tls import client_context, server_context


@pytest.fixture
def other_authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


def client(authority: CertificateAuthority, *, certified: bool = False) -> ssl.SSLContext:
    files = authority.issue("caller.example") if certified else None
    return client_context(
        ClientTls(
            ca_file=str(authority.ca_file),
            cert_file=str(files.cert_file) if files else None,
            key_file=str(files.key_file) if files else None,
        ),
        "upstream.tls",
    )


def server(
    authority: CertificateAuthority, *, expired: bool = False, clients: CertificateAuthority | None = None
) -> ssl.SSLContext:
    files = authority.issue("api.example", expired=expired)
    ca_file = str(clients.ca_file) if clients else None
    tls = ServerTls(cert_file=str(files.cert_file), key_file=str(files.key_file), client_ca_file=ca_file)
    context = server_context(tls, "listen.tls")
    assert context is not None
    return context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str = "api.example") -> ssl.SSLObject:
    """A handshake in memory, and a byte each way; returns the client's side. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=name)
    theirs = server.wrap_bio(up, down, server_side=True)
    waiting = [ours, theirs]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    ours.write(b"x")
    assert theirs.read() == b"x"
    return ours


def test_handshake(authority: CertificateAuthority) -> None:
    """A chain and a name that are right: TLS 1.3, and HTTP/1.1 is what will be spoken (R41)."""
    connected = shake_hands(client(authority), server(authority))
    assert (connected.version(), connected.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")


def test_wrong_name(authority: CertificateAuthority) -> None:
    """A certificate must be for the name that was asked for (R41)."""
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client(authority), server(authority), "other.example")


def test_expired(authority: CertificateAuthority) -> None:
    """An expired certificate is none (R41)."""
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client(authority), server(authority, expired=True))


def test_unknown_authority(authority: CertificateAuthority, other_authority: CertificateAuthority) -> None:
    """`ca_file` stands in for the system's authorities, which are not trusted beside it (R41)."""
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client(authority), server(other_authority))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client_context(ClientTls(), "upstream.tls"), server(authority))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
def test_old_versions(authority: CertificateAuthority, version: ssl.TLSVersion) -> None:
    """TLS 1.2 is the oldest that is spoken, on either side (R41)."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.minimum_version = old.maximum_version = version
    files = authority.issue("api.example")
    old.load_cert_chain(files.cert_file, files.key_file)
    with pytest.raises(ssl.SSLError):
        shake_hands(client(authority), old)
    assert server(authority).minimum_version == ssl.TLSVersion.TLSv1_2


def test_certificates_of_clients(authority: CertificateAuthority, other_authority: CertificateAuthority) -> None:
    """With `client_ca_file` a client needs a certificate of that authority."""
    closed = server(authority, clients=authority)
    shake_hands(client(authority, certified=True), closed)
    with pytest.raises(ssl.SSLError):
        shake_hands(client(authority), closed)
    with pytest.raises(ssl.SSLError):
        shake_hands(client(authority, certified=True), server(authority, clients=other_authority))


def test_no_certificate() -> None:
    """A listener without a certificate speaks plain HTTP."""
    assert server_context(ServerTls(), "listen.tls") is None


def test_session_keys_are_not_written(
    authority: CertificateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$SSLKEYLOGFILE would let whoever reads it decrypt the token on the wire (R150)."""
    key_log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(key_log))
    shake_hands(client(authority), server(authority))
    assert not key_log.exists()


@pytest.mark.parametrize("fault", ["missing", "no certificate", "other key", "encrypted key"])
def test_unusable_files(authority: CertificateAuthority, tmp_path: Path, fault: str) -> None:
    """What can't be loaded is an error that names the key of the configuration; nobody is asked for a password."""
    files = authority.issue("api.example")
    cert_file, key_file = str(files.cert_file), str(files.key_file)
    if fault == "missing":
        cert_file = str(tmp_path / "nothing")
    elif fault == "no certificate":
        cert_file = __file__
    elif fault == "other key":
        key_file = str(authority.issue("api.example").key_file)
    else:
        key_file = str(tmp_path / "encrypted.key")
        key = serialization.load_pem_private_key(files.key_file.read_bytes(), password=None)
        encryption = serialization.BestAvailableEncryption(b"secret")
        Path(key_file).write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
    with pytest.raises(ConfigError, match=r"^listen\.tls: a file can't be loaded"):
        server_context(ServerTls(cert_file=cert_file, key_file=key_file), "listen.tls")
    with pytest.raises(ConfigError, match=r"^oauth\.tls: a file can't be loaded"):
        client_context(ClientTls(cert_file=cert_file, key_file=key_file), "oauth.tls")
