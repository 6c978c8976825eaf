"""What the keyring gives, and what is said where it gives nothing."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keyring import backend

from proxy import keyring
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable
from tests.behaviour.running import until
from tests.keyrings import Asking, Shelf
from tests.secret_service import secret_service

CANARY = "c4n4ry"

Choose = Callable[..., None]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Choose]:
    """Makes a backend the one that the user has configured; without a name the library looks for one."""

    def chosen(name: str | None = None) -> None:
        keyring._keyring.cache_clear()
        # The library looks once in a process.
        vars(backend.get_all_keyring).pop("saved_result", None)
        if name is None:
            monkeypatch.delenv("PYTHON_KEYRING_BACKEND", raising=False)
        else:
            monkeypatch.setenv("PYTHON_KEYRING_BACKEND", name)

    yield chosen
    keyring._keyring.cache_clear()
    Shelf.entries.clear()


def fault() -> str:
    """What is wrong with an entry; nothing else is told of it (R146)."""
    with pytest.raises(SecretUnreadable) as caught:
        keyring.read("thg", "app")
    assert CANARY not in f"{caught.value!r} {caught.value.__context__!r}"
    return caught.value.detail


def test_entry(choose: Choose) -> None:
    """What is written is read, and another value takes its place."""
    choose("tests.keyrings.Shelf")
    for text in ("one", "zwei µ"):
        keyring.write("thg", "app", Secret(text))
        assert keyring.read("thg", "app") == Secret(text)


def test_plain_text_file_by_choice(choose: Choose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend of another distribution, which keeps a file in plain text, serves who has chosen it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    choose("keyrings.alt.file.PlaintextKeyring")
    keyring.write("thg", "app", Secret("one"))
    assert keyring.read("thg", "app") == Secret("one")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["keyring_pass.cfg"]


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have a keyring")
def test_only_what_is_recommended(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody has chosen, a file in plain text does not stand in for the keyring that there is not."""
    choose()
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
    assert fault().startswith("there is no keyring that this session can reach; use {file: PATH} or {env: NAME}")


def test_no_entry(choose: Choose) -> None:
    """An entry that is not there, or that is empty, is named with the way to make it."""
    choose("tests.keyrings.Shelf")
    expected = "the keyring has no entry app of the service thg; `keyring set thg app` makes it"
    assert fault() == expected
    Shelf.entries["thg", "app"] = ""
    assert fault() == expected


@pytest.mark.parametrize(
    "name, expected",
    [
        ("keyring.backends.fail.Keyring", "there is no keyring that this session can reach; use {file: PATH}"),
        ("tests.keyrings.Locked", "the keyring is locked, or can't be opened; unlock it, and try again"),
        ("tests.keyrings.Broken", "the keyring can't be used (UnicodeDecodeError); use {file: PATH}"),
        ("tests.keyrings.NoSuch", "the keyring can't be used (AttributeError); use {file: PATH}"),
    ],
)
def test_unusable(choose: Choose, name: str, expected: str) -> None:
    """A keyring that gives nothing is one sentence with what to do; what the backend said is not in it (R146)."""
    choose(name)
    assert fault().startswith(expected)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library the extra is named."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert fault().startswith("a keyring needs the extra; install it by `pip install 'thg-proxy[keyring]'`")


def test_what_is_not_kept(choose: Choose) -> None:
    """A keyring that only seems to take a secret is noticed when it is written."""
    choose("tests.keyrings.Forgetful")
    with pytest.raises(SecretUnreadable, match="has no entry app"):
        keyring.write("thg", "app", Secret("one"))
    Shelf.entries["thg", "app"] = "older"
    with pytest.raises(SecretUnreadable, match="does not keep what it is given"):
        keyring.write("thg", "app", Secret("one"))


def test_unanswered_question(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyring that asks for its password is not waited for for ever, and asked once only until somebody answers."""
    choose("tests.keyrings.Asking")
    monkeypatch.setattr(keyring, "TIMEOUT", 0.05)
    Shelf.entries["thg", "app"] = "one"
    for _ in range(3):
        assert fault().startswith("the keyring does not answer within 0.05 s: it may wait for its password; unlock it")
    assert Asking.questions == ["app"]

    Asking.answered.set()
    until(lambda: not keyring._reads)
    monkeypatch.undo()
    Shelf.entries["thg", "app"] = "two"
    choose("tests.keyrings.Shelf")
    assert keyring.read("thg", "app") == Secret("two")


# Writes its arguments to the entry, and prints what the entry is then; or what is wrong with it.
PROGRAM = """
import sys
from proxy import keyring
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable
try:
    for text in sys.argv[1:]:
        keyring.write("thg", "app", Secret(text))
    print(keyring.read("thg", "app").reveal())
except SecretUnreadable as exc:
    print(exc.detail)
"""


def test_secret_service() -> None:
    """The keyring of a Linux desktop: read, written, locked, gone and unlocked."""
    with secret_service() as session:

        def entry(*texts: str) -> str:
            return session.python("-c", PROGRAM, *texts).rstrip("\n")

        assert entry().startswith("there is no keyring that this session can reach; use {file: PATH}")
        with session.logged_in():
            assert entry().startswith("the keyring has no entry app of the service thg; ")
            session.set("thg", "app", "one")
            assert entry() == "one"
            assert entry("two") == "two"
            assert session.get("thg", "app") == "two"
            session.lock()
            assert entry().startswith("the keyring is locked, or can't be opened; unlock it")
            assert entry("three").startswith("the keyring is locked, or can't be opened; unlock it")
        with session.logged_in():
            assert entry() == "two"
