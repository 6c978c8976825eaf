import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.config import Loaded

Load = Callable[..., Loaded]


def test_without_effect(load_text: Load) -> None:
    """A key that does nothing without another one says so as soon as it is set to something."""
    (note,) = load_text("tracing: {sample: 0.5}").notes
    assert note.startswith("tracing.sample: has no effect without tracing.otlp_endpoint")


@pytest.mark.parametrize(
    "text",
    [
        "workers: 2",
        "oauth: {clients: [{name: a}, {name: b}], store: 'file:/tmp/token'}",
        "policy: {allowed_hosts: [thg]}",
        "policy: {allow: all}",
        "upstream: {egress_proxy: 'http://proxy:3128'}",
    ],
)
def test_silence(load_text: Load, text: str) -> None:
    """A default that is written out, and what has an effect, is no reason for a note."""
    assert load_text(text).notes == ()


def test_exposed(load_text: Load) -> None:
    """Who listens to other machines, or sends the token in the clear, is told what that means (R41, R133)."""
    text = "{listen: {address: '0.0.0.0:80', unsafe: true}, upstream: {url: 'http://10.0.0.1', insecure: true}}"
    assert [note.partition(":")[0] for note in load_text(text).notes] == ["listen.address", "upstream.insecure"]


@pytest.mark.parametrize("mode, notes", [(0o600, 0), (0o640, 1), (0o644, 1)])
@pytest.mark.parametrize("reference", ["{file: secret}", "{env: IN_FILE}"])
def test_secret_file_that_others_may_read(
    load_text: Load, tmp_path: Path, mode: int, notes: int, reference: str
) -> None:
    """A secret file of an ordinary user that others may read is named, with the command that closes it (R148)."""
    path = tmp_path / "secret"
    path.write_text("s3cr3t")
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 1, 1)
    environ = {"THG_CLIENT_ID": "a", "IN_FILE_FILE": "secret", "THG_PROXY__OAUTH__TOKEN_URL": "https://idp.example"}
    found = load_text(f"oauth: {{clients: [{{client_secret: {reference}}}]}}", environ=environ).notes
    assert len(found) == notes
    assert all("chmod 600 secret" in note for note in found)


@pytest.mark.parametrize(
    "flags, user, advice",
    [
        (os.ST_RDONLY, 1, "read-only file system: give it the mode 0600 where that comes from"),
        (0, 2, "belongs to the user 1: use a file of this user's own, of mode 0600"),
        (0, 1, "chmod 600 secret"),
    ],
)
def test_advice_that_can_be_followed(
    load_text: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, user: int, advice: str
) -> None:
    """Nobody is told to change the mode of a file that is another user's, or that nobody can write to (R148)."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    path = tmp_path / "secret"
    path.write_text("s3cr3t")
    path.chmod(0o644)
    os.chown(path, 1, 1)
    file_system = list(os.statvfs(path))
    file_system[8] = flags
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(file_system))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    (note,) = load_text("oauth: {clients: [{client_secret: {file: secret}}]}").notes
    assert advice in note


@pytest.mark.parametrize(
    "mode, owner, notes", [(0o755, 0, 0), (0o1777, 0, 0), (0o777, 0, 1), (0o770, 0, 1), (0o755, 1, 1)]
)
def test_socket_that_others_can_replace(load_text: Load, tmp_path: Path, mode: int, owner: int, notes: int) -> None:
    """A Unix socket in a directory where others can put one of their own in its place is named (R133)."""
    directory = tmp_path / "run"
    directory.mkdir()
    directory.chmod(mode)
    if owner and os.geteuid() != 0:
        pytest.skip("only root can give a directory to another user")
    if owner:
        os.chown(directory, owner, owner)
    for section in ("listen", "admin"):
        found = load_text(f"{section}: {{address: 'unix:{directory}/socket'}}").notes
        assert [note.partition(":")[0] for note in found] == [f"{section}.address"] * notes
