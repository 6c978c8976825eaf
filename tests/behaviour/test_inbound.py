"""The ways into the data port: TLS, certificates of callers, Unix sockets and their users, open addresses."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proxy.demo.certificates import Certificate, CertificateAuthority
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import TIMEOUT, Client, Reader, Upstream, flood, request

PIECE = bytes(range(256)) * 4096
WHOLE = PIECE * 64


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """For the processes that are started meanwhile."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def connect_unix(path: Path) -> Client:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    sock.connect(str(path))
    return Client(sock)


# TLS


@pytest.fixture
def tls(authority: CertificateAuthority) -> tuple[str, ...]:
    """The settings of a listener with a certificate for localhost."""
    files = authority.issue("localhost", "127.0.0.1")
    return f"listen.tls.cert_file={files.cert_file}", f"listen.tls.key_file={files.key_file}"


def connect_tls(proxy: Proxy, authority: CertificateAuthority, certificate: Certificate | None = None) -> Client:
    context = ssl.create_default_context(cafile=authority.ca_file)
    if certificate is not None:
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
    sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT)
    return Client(context.wrap_socket(sock, server_hostname="localhost"))


def test_tls(launch: Launcher, upstream: Upstream, authority: CertificateAuthority, tls: tuple[str, ...]) -> None:
    """Callers can be served over TLS, by HTTP/1.1, request after request."""
    proxy = launch(upstream, *tls)
    with connect_tls(proxy, authority) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() == "TLSv1.3"
        assert {client.get().status for _ in range(10)} == {200}
        client.send(request(b"POST", b"/a", body=b"x" * 100_000))
        assert client.response().status == 200

    assert len(upstream.requests[-1].body) == 100_000


def test_plain_text_to_a_tls_port(
    launch: Launcher, upstream: Upstream, authority: CertificateAuthority, tls: tuple[str, ...]
) -> None:
    """Who speaks no TLS, or an old one, gets nothing; the log stays silent, and others are served."""
    proxy = launch(upstream, *tls, "log.level=info")
    old = ssl.create_default_context(cafile=authority.ca_file)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("AES128-SHA")
    for _ in range(20):
        with proxy.connect() as client:
            client.send(request(b"GET", b"/a"))
            assert b"HTTP/" not in client.rest()
        with proxy.connect() as client, pytest.raises(ssl.SSLError):
            old.wrap_socket(client.sock, server_hostname="localhost")
    with connect_tls(proxy, authority) as client:
        assert client.get().status == 200

    assert len(upstream.requests) == 1
    assert len(proxy.log.splitlines()) == 2


def test_stalled_handshake(
    launch: Launcher, upstream: Upstream, authority: CertificateAuthority, tls: tuple[str, ...]
) -> None:
    """A handshake must be over in listen.header_timeout, like a head; a stop does not wait for one (R155, R162)."""
    proxy = launch(upstream, *tls, "listen.header_timeout=300ms")
    with proxy.connect() as silent:
        assert silent.is_closed
    with proxy.connect() as half:
        half.send(b"\x16\x03\x01\x02\x00\x01")
        assert half.is_closed
    with connect_tls(proxy, authority) as client:
        assert client.get().status == 200
    with proxy.connect():
        assert proxy.stop() == 0


def test_certified_callers(
    launch: Launcher, upstream: Upstream, authority: CertificateAuthority, tls: tuple[str, ...], tmp_path: Path
) -> None:
    """With client_ca_file a caller needs a certificate of that authority."""
    proxy = launch(upstream, *tls, f"listen.tls.client_ca_file={authority.ca_file}")
    with connect_tls(proxy, authority, authority.issue("caller")) as client:
        assert client.get().status == 200
    for certificate in (None, CertificateAuthority(tmp_path).issue("caller")):
        answer = b""
        # With TLS 1.3 the client has finished its handshake before it is refused.
        with suppress(ssl.SSLError, ConnectionError), connect_tls(proxy, authority, certificate) as client:
            client.send(request(b"GET", b"/a"))
            answer = client.rest()
        assert answer == b""

    assert len(upstream.requests) == 1


def test_large_bodies_over_tls(
    launch: Launcher, upstream: Upstream, authority: CertificateAuthority, tls: tuple[str, ...]
) -> None:
    """Over TLS, too, a large upload waits for the API, and a large download for the client, and both arrive (R123)."""
    stalled = threading.Event()

    def take_body(reader: Reader, sock: socket.socket) -> bool:
        stalled.wait(TIMEOUT)
        assert reader.exactly(len(WHOLE)) == WHOLE
        stalled.clear()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WHOLE))
        flood(sock, WHOLE, stalled)
        return False

    upstream.take_body = take_body
    proxy = launch(upstream, *tls)
    before = proxy.metric("process_resident_memory_bytes")
    with connect_tls(proxy, authority) as client:
        client.send(request(b"POST", b"/a", b"Content-Length: %d" % len(WHOLE)))
        flood(client.sock, WHOLE, stalled)
        head = client.head()
        assert stalled.wait(TIMEOUT)
        assert proxy.metric("process_resident_memory_bytes") - before < 16 << 20
        assert head.startswith(b"HTTP/1.1 200")
        assert all(client.receive(len(PIECE)) == PIECE for _ in range(64))


def test_refusing_who_goes_on_sending_over_tls(
    launch: Launcher, upstream: Upstream, authority: CertificateAuthority, tls: tuple[str, ...]
) -> None:
    """Over TLS, too, a client that is refused while it sends gets the answer, and the end (R27, R30)."""
    proxy = launch(upstream, *tls)
    with connect_tls(proxy, authority) as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: localhost\r\nA B: c\r\n\r\n")
        until(lambda: proxy.metric("thg_proxy_request_duration_seconds_count") == 1)
        for _ in range(8):
            client.send(PIECE)
        response = client.response()
        assert client.is_closed

    assert response.status == 400


def test_unusable_certificate(launch: Launcher, upstream: Upstream, tmp_path: Path) -> None:
    """A certificate that can't be loaded is exit code 2 and a sentence that names the key (R165)."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    process = launch.spawn(
        upstream,
        f"listen.tls.cert_file={broken}",
        f"listen.tls.key_file={broken}",
    )
    _, errors = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 2
    assert b"listen.tls" in errors
    assert b"Traceback" not in errors


# Unix sockets


@pytest.mark.parametrize("mask", [0o000, 0o077])
@pytest.mark.parametrize("mode", ["0600", "0660"])
def test_mode(launch: Launcher, upstream: Upstream, tmp_path: Path, mask: int, mode: str) -> None:
    """The socket's permissions are listen.unix_mode, whatever the umask of who starts the proxy (R133)."""
    path = tmp_path / "proxy.sock"
    with umask(mask):
        launch(upstream, f"listen.address=unix:{path}", f"listen.unix_mode={mode}")
    with connect_unix(path) as client:
        assert client.get().status == 200

    assert path.stat().st_mode & 0o777 == int(mode, 8)


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_mode_of_the_admin_socket(launch: Launcher, upstream: Upstream, tmp_path: Path, mask: int) -> None:
    """Whatever the umask, and whoever may call the data port: operators are the user that runs the proxy (R133)."""
    path = tmp_path / "admin.sock"
    log = tmp_path / "log"
    with umask(mask), log.open("wb") as errors:
        process = launch.spawn(upstream, f"admin.address=unix:{path}", "listen.unix_mode=0666", stderr=errors)
    until(lambda: "listening" in log.read_text())
    with connect_unix(path) as client:
        assert client.get(b"/livez").status == 200
    mode = path.stat().st_mode & 0o777
    process.terminate()

    assert process.wait(TIMEOUT) == 0
    assert mode == 0o600
    assert not path.exists()


def test_dead_socket(launch: Launcher, upstream: Upstream, tmp_path: Path) -> None:
    """What a crash has left behind does not keep the next start from its path; a stop leaves nothing behind."""
    path = tmp_path / "proxy.sock"
    crashed = launch(upstream, f"listen.address=unix:{path}")
    crashed.expected_exit = -9
    crashed.process.kill()
    crashed.process.wait(TIMEOUT)
    assert path.is_socket()

    proxy = launch(upstream, f"listen.address=unix:{path}")
    with connect_unix(path) as client:
        assert client.get().status == 200
    assert proxy.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize("key", ["listen.address", "admin.address"])
def test_live_socket(launch: Launcher, upstream: Upstream, tmp_path: Path, key: str) -> None:
    """The socket of a proxy that runs stays its own: a second one on the path is exit code 1."""
    path = tmp_path / "first.sock"
    launch(upstream, f"listen.address=unix:{path}")
    process = launch.spawn(upstream, f"{key}=unix:{path}")
    _, errors = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 1
    assert key.encode() in errors
    assert b"Traceback" not in errors
    with connect_unix(path) as client:
        assert client.get().status == 200


@pytest.mark.parametrize("obstacle", ["file", "directory", "no directory"])
def test_path_that_is_something_else(launch: Launcher, upstream: Upstream, tmp_path: Path, obstacle: str) -> None:
    """A path that is no socket is left as it is (R165)."""
    path = tmp_path / "data"
    if obstacle == "file":
        path.write_text("precious")
    elif obstacle == "directory":
        path.mkdir()
    else:
        path = path / "proxy.sock"
    process = launch.spawn(upstream, f"listen.address=unix:{path}")
    _, errors = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 1
    assert b"listen.address" in errors
    assert b"Traceback" not in errors
    if obstacle == "file":
        assert path.read_text() == "precious"


AS_USER = """
import os, socket, sys
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(sys.stdin.buffer.read())
while data := sock.recv(65536):
    sys.stdout.buffer.write(data)
"""


def ask_as(uid: int, path: Path, *fields: bytes) -> bytes:
    """The answers to a request that a process of another user makes."""
    sent = request(b"POST", b"/a", b"Connection: close", *fields)
    arguments = [sys.executable, "-c", AS_USER, str(path), str(uid)]
    return subprocess.run(arguments, input=sent, capture_output=True, check=True, timeout=TIMEOUT).stdout


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_users(launch: Launcher, upstream: Upstream) -> None:
    """listen.allowed_uids is held against what the kernel says of the caller: others get 403 (R141)."""
    directory = Path(f"/tmp/thg-proxy-{os.getpid()}")  # pytest's own directories are closed for other users
    path = directory / "proxy.sock"
    directory.mkdir(mode=0o755)
    try:
        users = "listen.allowed_uids=[65533, 65532]"
        proxy = launch(upstream, f"listen.address=unix:{path}", "listen.unix_mode=0666", users)
        assert b" 200 OK" in ask_as(65532, path)
        assert b" 200 OK" in ask_as(65533, path)
        refused = ask_as(65534, path, b"Expect: 100-continue", b"Content-Length: 4")
        with connect_unix(path) as client:
            assert json.loads(client.get().body)["code"] == "caller_refused"
        assert proxy.stop() == 0
    finally:
        directory.rmdir()

    assert refused.startswith(b"HTTP/1.1 403 ")
    assert b"Proxy-Status: thg-proxy; error=http_request_denied\r\n" in refused
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["code"] == "caller_refused"
    assert len(upstream.requests) == 2


# Addresses that others can reach


def test_open_address(launch: Launcher, upstream: Upstream) -> None:
    """With listen.unsafe the proxy may listen for everybody; who may call is still the list of hosts (R133, R134)."""
    proxy = launch(upstream, "listen.address=0.0.0.0:0", "listen.unsafe=true")
    with proxy.connect() as client:
        assert client.get().status == 200
        client.send(request(b"GET", b"/a", host=b"0.0.0.0:%d" % proxy.port))
        assert client.response().status == 421


def test_both_families(launch: Launcher, upstream: Upstream) -> None:
    """`localhost` is every loopback address that it stands for."""
    port = launch(upstream, "listen.address=localhost:0").port
    addresses = {str(info[4][0]) for info in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    reached = set()
    for address in addresses:
        try:
            sock = socket.create_connection((address, port), timeout=TIMEOUT)
        except OSError:
            continue
        with Client(sock) as client:
            assert client.get().status == 200
        reached.add(address)

    assert "127.0.0.1" in reached
    assert reached == {address for address in addresses if can_bind(address)}


def can_bind(address: str) -> bool:
    try:
        socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET).close()
    except OSError:
        return False
    return True
