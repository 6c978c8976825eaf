"""The client's secret while it changes: no request fails for it, and no restart is needed."""

import base64
import json
import os
import signal
import socket
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from tests.behaviour.running import Launch, Launcher, Proxy, until
from tests.peers import Minting, Received, Upstream, http_answer
from tests.secret_service import secret_service

REFUSAL = http_answer(401, b'{"error": "invalid_client"}', b"Content-Type: application/json")


class Gate:
    """A token endpoint that knows one secret. `shown`: all that were shown to it."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.shown: list[str] = []
        self._minting = Minting()

    def __call__(self, received: Received, sock: socket.socket) -> bool:
        _, _, blob = received.values(b"Authorization")[0].partition(b" ")
        self.shown.append(unquote_plus(base64.b64decode(blob).decode()).partition(":")[2])
        if self.shown[-1] == self.secret:
            return self._minting(received, sock)
        sock.sendall(REFUSAL)
        return True


@pytest.fixture
def gate(issuer: Upstream) -> Gate:
    issuer.answer = gate = Gate("first secret")
    return gate


class Mounted:
    """A secret as Kubernetes mounts it: a link to a file behind a link to a directory that is replaced as a whole."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "secret"
        self._data = directory / "..data"
        self._versions = 0
        self.swap(b"first secret\n")
        self.path.symlink_to("..data/secret")

    def swap(self, content: bytes) -> None:
        self._versions += 1
        version = self._data.with_name(f"..version{self._versions}")
        version.mkdir()
        (version / "secret").write_bytes(content)
        link = self._data.with_name("..new")
        link.symlink_to(version.name)
        link.replace(self._data)

    def write(self, content: bytes) -> None:
        """In place, as an editor or a shell may do it."""
        self.path.write_bytes(content)

    def replace(self, content: bytes) -> None:
        """By another file of the name."""
        new = self.path.with_name("new")
        new.write_bytes(content)
        new.replace(self.path)

    def write_slowly(self, content: bytes) -> None:
        """In two pieces; what was there is gone before."""
        with self.path.open("wb") as file:
            file.write(content[:5])
            file.flush()
            os.fsync(file.fileno())
            file.write(content[5:])


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    directory = tmp_path / "mount"
    directory.mkdir()
    return Mounted(directory)


@pytest.fixture
def launch_mounted(launch_with: Launch, gate: Gate, mounted: Mounted) -> Launch:
    """As `launch_with`, with the secret in the mounted file."""

    def start(*, ready: bool = True) -> Proxy:
        client = f"[{{client_id: app, client_secret: {{file: {mounted.path}}}}}]"
        return launch_with(f"oauth.clients={client}", "oauth.refresh.min_interval=1s", ready=ready)

    return start


def test_new_secret(launch_mounted: Launch, gate: Gate, mounted: Mounted, upstream: Upstream) -> None:
    """A secret that changes, in whichever way its file does, is proved by one token request and used from then on,
    while no request fails (F46, R100).
    """
    proxy = launch_mounted()
    ways = (mounted.swap, mounted.write, mounted.write_slowly, mounted.replace)
    secrets = [f"secret by {way.__name__} =%+é" for way in ways]
    with proxy.under_load() as load:
        for number, (way, secret) in enumerate(zip(ways, secrets, strict=True), start=1):
            gate.secret = secret
            way(f"{secret}\r\n".encode("utf-8-sig"))
            until(lambda: len(proxy.log_lines("secret_changed")) == number)  # noqa: B023 - called before the next turn
        load.next()

    assert load.statuses == {200}
    assert gate.shown == ["first secret", *secrets]
    assert upstream.requests[-1].values(b"Authorization") == [f"Bearer token-{len(ways) + 1}".encode()]


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"\n")


def forbidden(path: Path) -> None:
    path.chmod(0)


def not_text(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe")


# To whom the modes of files do not apply gives that up.
OBEDIENT = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def test_unreadable_file(launch: Launcher, launch_mounted: Launch, gate: Gate, mounted: Mounted) -> None:
    """A file that holds no secret changes nothing but the log, a line for each reason; refreshes go on with the old
    secret, and a good file is taken at once (F46, R100).
    """
    launch.prefix = OBEDIENT
    proxy = launch_mounted()
    with proxy.under_load() as load:
        for number, spoil in enumerate((missing, empty, forbidden, not_text), start=1):
            spoil(mounted.path)
            until(lambda: len(proxy.log_lines("secret_unreadable")) == number)  # noqa: B023 - called before the next turn
        proxy.admin("/refresh", "POST")
        until(lambda: proxy.status()["token"]["generation"] == 2)
        assert gate.shown == ["first secret"] * 2
        gate.secret = "second secret"
        mounted.replace(b"second secret")
        until(lambda: proxy.log_lines("secret_changed"))

    assert load.statuses == {200}
    assert gate.shown == ["first secret", "first secret", "second secret"]
    assert len({line["reason"] for line in proxy.log_lines("secret_unreadable")}) == 4


def test_wrong_secret(launch_mounted: Launch, gate: Gate, mounted: Mounted) -> None:
    """A secret that the provider refuses, such as half of one, is tried once; the old one stays in use, and the right
    one is taken at once (F46, R100).
    """
    proxy = launch_mounted()
    with proxy.under_load() as load:
        mounted.write(b"second")
        until(lambda: proxy.status()["token"]["generation"] == 2)
        proxy.admin("/refresh", "POST")
        until(lambda: proxy.status()["token"]["generation"] == 3)
        assert load.next() == {200}
        gate.secret = "second secret"
        mounted.write(b"second secret")
        until(lambda: proxy.log_lines("secret_changed"))

    assert load.statuses == {200}
    assert gate.shown == ["first secret", "second", "first secret", "first secret", "second secret"]
    assert len(proxy.log_lines("secret_refused")) == 1


def test_provider_first(launch_mounted: Launch, gate: Gate, mounted: Mounted, upstream: Upstream) -> None:
    """A secret that the provider changes before the file: the token in use serves on, and the new secret is used as
    soon as it is there (F17, R81, R100).
    """
    proxy = launch_mounted()
    with proxy.under_load() as load:
        gate.secret = "second secret"
        proxy.admin("/refresh", "POST")
        until(lambda: proxy.status()["token"]["state"] == "rejected")
        assert load.next() == {200}
        mounted.swap(b"second secret")
        until(lambda: proxy.status()["token"]["generation"] == 2)
        load.next()

    assert load.statuses == {200}
    assert gate.shown == ["first secret", "first secret", "second secret"]
    assert len(proxy.log_lines("secret_changed")) == 1


def test_recovery(launch_mounted: Launch, gate: Gate, mounted: Mounted, upstream: Upstream) -> None:
    """A proxy that was started with a wrong secret needs no restart for the right one (F7, F46, R100)."""
    mounted.swap(b"wrong")
    proxy = launch_mounted(ready=False)
    with proxy.connect() as client, proxy.under_load() as load:
        until(lambda: proxy.status()["token"]["last_error"])
        assert json.loads(client.get().body)["code"] == "client_rejected"
        assert load.next() == {503}
        assert upstream.requests == []
        mounted.swap(b"first secret")
        until(lambda: proxy.is_ready)
        assert load.next() == {200}

    assert gate.shown == ["wrong", "first secret"]


def test_keyring(launch_with: Launch, gate: Gate) -> None:
    """A secret in the keyring of a desktop is read for each token request; while the keyring is locked the old one
    stays in use (R100).
    """
    with secret_service() as session, session.logged_in():
        session.set("thg", "app", "first secret")
        client = "[{client_id: app, client_secret: {keyring: thg/app}}]"
        proxy = launch_with(f"oauth.clients={client}", "oauth.refresh.min_interval=1s", environment=session.environment)
        with proxy.under_load() as load:
            gate.secret = "second secret"
            session.set("thg", "app", "second secret")
            proxy.admin("/refresh", "POST")
            until(lambda: proxy.log_lines("secret_changed"))
            session.lock()
            proxy.admin("/refresh", "POST")
            until(lambda: proxy.status()["token"]["generation"] == 3)
        assert load.statuses == {200}
        assert gate.shown == ["first secret", "second secret", "second secret"]
        (line,) = proxy.log_lines("secret_unreadable")
        assert line["reason"].startswith("the keyring is locked")


def test_new_entry_of_the_keyring(launch_with: Launch, gate: Gate) -> None:
    """After a SIGHUP a client that was refused is tried again, with what its entry is now (F7, R100)."""
    with secret_service() as session, session.logged_in():
        session.set("thg", "app", "wrong")
        client = "[{client_id: app, client_secret: {keyring: thg/app}}]"
        proxy = launch_with(f"oauth.clients={client}", ready=False, environment=session.environment)
        until(lambda: proxy.status()["token"]["state"] == "rejected")
        session.set("thg", "app", "first secret")
        proxy.process.send_signal(signal.SIGHUP)
        until(lambda: proxy.is_ready)

    assert gate.shown == ["wrong", "first secret"]
