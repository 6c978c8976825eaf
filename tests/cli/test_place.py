import os
import signal
import stat
from pathlib import Path

import pytest

from proxy.cli.place import Place
from proxy.errors import ConfigError


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(None, {"HOME": str(tmp_path)})


def files(directory: Path) -> dict[str, str]:
    """Everything below it that is a file, hidden ones as well."""
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_place_of_the_user(place: Place, tmp_path: Path) -> None:
    """Where nothing else is said, the user's own configuration; the secret is beside it."""
    assert place.config == tmp_path / ".config/thg-proxy/config.yaml"
    assert place.secret == tmp_path / ".config/thg-proxy/config.yaml.secret"


def test_named_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is named is meant from here, and its secret is found from anywhere."""
    monkeypatch.chdir(tmp_path)
    named = Place("a.yaml", {})
    assert (named.config, named.secret) == (tmp_path / "a.yaml", tmp_path / "a.yaml.secret")


def test_written_files(place: Place, tmp_path: Path) -> None:
    """Files and directories are for this user only, whatever the umask is (R148)."""
    before = os.umask(0)
    try:
        place.write({place.secret: "s3cr3t\n", place.config: "a: ü"}, replace=False)
    finally:
        os.umask(before)
    assert files(tmp_path) == {
        ".config/thg-proxy/config.yaml": "a: ü",
        ".config/thg-proxy/config.yaml.secret": "s3cr3t\n",
    }
    assert mode(place.config) == mode(place.secret) == 0o600
    assert mode(place.config.parent) == mode(place.config.parent.parent) == 0o700


def test_existing_file_stays(place: Place, tmp_path: Path) -> None:
    """What is there already, and came there only now, is not replaced unasked, and nothing else is left behind."""
    assert place.taken == []
    place.config.parent.mkdir(parents=True)
    place.config.write_text("mine")
    assert place.taken == [place.config]
    with pytest.raises(FileExistsError):
        place.write({place.config: "another"}, replace=False)
    assert files(tmp_path) == {".config/thg-proxy/config.yaml": "mine"}


def test_dangling_link_is_there(place: Place) -> None:
    """A link to nowhere would be replaced as well."""
    place.config.parent.mkdir(parents=True)
    place.config.symlink_to("nowhere")
    assert place.taken == [place.config]


def test_replaced_file(place: Place, tmp_path: Path) -> None:
    """With permission the new files take the place of the old ones, and have the mode of new ones."""
    place.write({place.config: "old"}, replace=False)
    place.config.chmod(0o644)
    place.write({place.secret: "s3cr3t", place.config: "new"}, replace=True)
    assert files(tmp_path) == {
        ".config/thg-proxy/config.yaml": "new",
        ".config/thg-proxy/config.yaml.secret": "s3cr3t",
    }
    assert mode(place.config) == 0o600


def test_full_disk(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes the secret and not the configuration ends up with neither of them."""
    written = []

    def fsync(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        place.write({place.secret: "s3cr3t", place.config: "new"}, replace=False)
    assert files(tmp_path) == {}


def test_interrupt_comes_too_late(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the files are written leaves all of them; before and after, it interrupts."""
    fsync = os.fsync

    def interrupted(descriptor: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    place.write({place.secret: "s3cr3t", place.config: "new"}, replace=False)
    assert place.taken == [place.config, place.secret]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "path, environ, fault",
    [
        (None, {}, "neither XDG_CONFIG_HOME nor HOME is set: say by -c FILE what to write"),
        (".", {}, ": is a directory"),
        ("file/config.yaml", {}, "can't be written: .*file is no directory that this user may write to"),
        (None, {"HOME": "/dev/null"}, "can't be written: /dev/null is no directory that this user may write to"),
    ],
)
def test_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None, environ: dict[str, str], fault: str
) -> None:
    """Where nothing can be written, that is said before anything is asked."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(ConfigError, match=fault):
        Place(path, environ)


def test_usual_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Does the proxy read the file without being told? Not where another one comes first."""
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": str(tmp_path)}
    own, other = Place(None, environ), Place("other.yaml", environ)
    for place in (own, other):
        assert not place.is_usual
        place.write({place.config: "workers: 1"}, replace=False)
    assert own.is_usual
    assert not other.is_usual
    assert Place("other.yaml", environ | {"THG_PROXY_CONFIG": "other.yaml"}).is_usual
    Path("thg-proxy.yaml").write_text("not: [a configuration")
    assert not Place(None, environ).is_usual
