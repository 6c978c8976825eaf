"""What the keyring gives, and what is said where it gives nothing."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import keyring
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable
from tests.secret_service import secret_service

CANARY = "c4n4ry"
ROOT = Path(__file__).parents[2]

Choose = Callable[[str], None]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Choose:
    """Makes a backend the one that the user has configured."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return lambda backend: monkeypatch.setenv("PYTHON_KEYRING_BACKEND", backend)


def fault() -> str:
    """What is wrong with an entry; nothing else is told of it (R146)."""
    with pytest.raises(SecretUnreadable) as caught:
        keyring.read("thg", "app")
    assert CANARY not in f"{caught.value!r} {caught.value.__context__!r}"
    return caught.value.detail


def test_entry(choose: Choose, tmp_path: Path) -> None:
    """What is written is read, and another value takes its place; here in a plain file, which the user has chosen."""
    choose("keyrings.alt.file.PlaintextKeyring")
    for text in ("one", 'zwei µ \\ "', "-----BEGIN\nEND-----\n"):
        keyring.write("thg", "app", Secret(text))
        assert keyring.read("thg", "app") == Secret(text)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["keyring_pass.cfg"]


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have a keyring")
def test_only_what_is_recommended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where nobody has chosen, a file in plain text does not stand in for the keyring that there is not."""
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND", raising=False)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert fault() == "there is no keyring that this session can reach; use {file: PATH} or {env: NAME}"
    with pytest.raises(SecretUnreadable, match="there is no keyring"):
        keyring.write("thg", "app", Secret("one"))
    assert list(tmp_path.iterdir()) == []


def test_no_entry(choose: Choose) -> None:
    """An entry that is not there, or that is empty, is named with the way to make it."""
    choose("tests.keyrings.Forgetful")
    expected = "the keyring has no entry app of the service thg; `keyring set thg app` makes it"
    assert fault() == expected
    choose("keyrings.alt.file.PlaintextKeyring")
    keyring.write("thg", "app", Secret(""))
    assert fault() == expected


@pytest.mark.parametrize(
    "backend, expected",
    [
        ("keyring.backends.fail.Keyring", "there is no keyring that this session can reach; use {file: PATH} or {env:"),
        ("tests.keyrings.Locked", "the keyring is locked, or can't be opened; unlock it, and try again"),
        ("tests.keyrings.Broken", "the keyring can't be used (UnicodeDecodeError); use {file: PATH} or {env: NAME}"),
        ("tests.keyrings.NoSuch", "the keyring can't be used (AttributeError); use {file: PATH} or {env: NAME}"),
        ("no.such.backend", "the keyring can't be used (ModuleNotFoundError); use {file: PATH} or {env: NAME}"),
        ("tests.keyrings.Crashing", "the keyring can't be asked: exit code 7"),
    ],
)
def test_unusable(choose: Choose, backend: str, expected: str) -> None:
    """A keyring that gives nothing is one sentence with what to do; what the backend said is not in it (R146)."""
    choose(backend)
    assert fault().startswith(expected)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the library the extra is named."""
    (tmp_path / "keyring.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    assert fault() == "a keyring needs the extra; install it by `pip install 'thg-proxy[keyring]'`"


def test_module_in_the_working_directory(choose: Choose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lies where the proxy was started is not run in the place of the library."""
    (tmp_path / "keyring.py").write_text("raise ImportError")
    monkeypatch.chdir(tmp_path)
    choose("tests.keyrings.Locked")
    assert fault().startswith("the keyring is locked")


def test_what_is_not_kept(choose: Choose) -> None:
    """A keyring that only seems to take a secret is noticed when it is written."""
    choose("tests.keyrings.Forgetful")
    with pytest.raises(SecretUnreadable, match="does not keep what it is given"):
        keyring.write("thg", "app", Secret("one"))


def test_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started, there is no keyring either."""
    monkeypatch.setattr(keyring, "_CHILD", ("/nonexistent",))
    assert fault() == "the keyring can't be asked: no process can be started: No such file or directory"


def test_unanswered_question(choose: Choose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A keyring that asks for its password is not waited for for ever, and nobody goes on asking (R147)."""
    choose("tests.keyrings.Asking")
    asking = tmp_path / "asking"
    monkeypatch.setenv("ASKING", str(asking))
    for seconds in (1, 4, 16):
        monkeypatch.setattr(keyring, "TIMEOUT", seconds)
        assert fault().startswith(
            f"the keyring does not answer within {seconds} s: it may wait for its password; unlock"
        )
        if asking.exists():
            break
    with pytest.raises(ProcessLookupError):
        os.kill(int(asking.read_text()), 0)


def test_how_the_child_ends(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer has left before the process ends, in which a library may hold on to standard output."""
    choose("keyrings.alt.file.PlaintextKeyring")
    keyring.write("thg", "app", Secret("one"))
    code = "import os; from proxy.keyring.child import main; main(); os._exit(0)"
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setattr(keyring, "_CHILD", (sys.executable, "-c", code))
    assert keyring.read("thg", "app") == Secret("one")


def test_environment_of_the_child(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that asks gets the session's variables, and none of the proxy's own (R147)."""
    choose("tests.keyrings.Telling")
    monkeypatch.setenv("THG_CLIENT_SECRET", CANARY)
    monkeypatch.setenv("SESSION_VARIABLE", "here")
    told = keyring.read("thg", "app").reveal()
    assert "SESSION_VARIABLE=here" in told
    assert CANARY not in told


def test_secret_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keyring of a Linux desktop: read, written, locked, gone and unlocked."""
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND", raising=False)
    with secret_service() as session:
        for name, value in session.environment.items():
            monkeypatch.setenv(name, value)

        assert fault().startswith("there is no keyring that this session can reach; ")
        with session.logged_in():
            assert fault().startswith("the keyring has no entry app of the service thg; ")
            session.set("thg", "app", "one")
            assert keyring.read("thg", "app") == Secret("one")
            keyring.write("thg", "app", Secret("two"))
            assert session.get("thg", "app") == "two"
            session.lock()
            assert fault().startswith("the keyring is locked, or can't be opened; unlock it")
            with pytest.raises(SecretUnreadable, match="is locked"):
                keyring.write("thg", "app", Secret("three"))
        with session.logged_in():
            assert keyring.read("thg", "app") == Secret("two")
