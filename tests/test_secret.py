from pathlib import Path

import pytest

from proxy import keyring
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable
from proxy.secret import MAX_SECRET_FILE, SecretRef

CANARY = "c4n4ry"


def test_literal() -> None:
    """A literal is its own value, and is not shown (R146)."""
    ref = SecretRef.parse(CANARY)
    assert ref.read({}).reveal() == CANARY
    assert ref.file({}) is None
    assert CANARY not in f"{ref} {ref!r}"


def test_environment_variable() -> None:
    """{env: NAME} is the value of the variable at the moment of reading."""
    ref = SecretRef.parse({"env": "NAME"})
    assert ref.read({"NAME": "one"}).reveal() == "one"
    assert ref.read({"NAME": "two"}).reveal() == "two"
    assert str(ref) == "{env: NAME}"


def test_name_file(tmp_path: Path) -> None:
    """Where NAME is not set or empty, NAME_FILE names a file, as container images do."""
    path = tmp_path / "secret"
    path.write_text("from-file\n")
    ref = SecretRef.parse({"env": "NAME"})
    assert ref.read({"NAME_FILE": str(path)}).reveal() == "from-file"
    assert ref.read({"NAME": "", "NAME_FILE": str(path)}).reveal() == "from-file"
    assert ref.read({"NAME": "set", "NAME_FILE": str(path)}).reveal() == "set"
    assert ref.file({"NAME_FILE": str(path)}) == str(path)
    assert ref.file({"NAME": "set", "NAME_FILE": str(path)}) is None


def test_rotated_file(tmp_path: Path) -> None:
    """{file: PATH} is read each time, so that a rotated secret is used without a restart."""
    path = tmp_path / "secret"
    ref = SecretRef.parse({"file": str(path)})
    for value in ("one", "two"):
        path.write_text(value)
        assert ref.read().reveal() == value
    assert ref.file() == str(path)


@pytest.mark.parametrize(
    "content, value",
    [
        (b"s3cr3t\n", "s3cr3t"),
        (b"s3cr3t\r\n", "s3cr3t"),
        (b"\xef\xbb\xbfs3cr3t", "s3cr3t"),
        (b" s3 cr3t \n\n", " s3 cr3t "),
        ("пароль".encode(), "пароль"),
    ],
)
def test_file_content(tmp_path: Path, content: bytes, value: str) -> None:
    """Line ends and a byte order mark are of the editor, everything else is of the secret."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert SecretRef.parse({"file": str(path)}).read().reveal() == value


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "is empty"),
        (b"\r\n", "is empty"),
        (CANARY.encode() + b"\xff", "is not UTF-8 text"),
        (CANARY.encode() * MAX_SECRET_FILE, "is larger than 64 KiB"),
    ],
    ids=["empty", "line end", "binary", "large"],
)
def test_bad_file(tmp_path: Path, content: bytes, reason: str) -> None:
    """A file that can't be a secret is named, and neither the error nor its cause holds what was read (R146)."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SecretUnreadable, match=f"the file {path} {reason}") as caught:
        SecretRef.parse({"file": str(path)}).read()
    assert CANARY not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_missing(tmp_path: Path) -> None:
    """A source that is not there is named, with the reason."""
    with pytest.raises(SecretUnreadable, match="the environment variable NAME is not set \\(nor NAME_FILE\\)"):
        SecretRef.parse({"env": "NAME"}).read({"NAME": ""})
    with pytest.raises(SecretUnreadable, match="can't be read: No such file or directory"):
        SecretRef.parse({"file": str(tmp_path / "nowhere")}).read()


def test_keyring_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """{keyring: SERVICE/NAME} is an entry of the keyring; the last slash is the one between the two."""
    entries = {("thg", "app"): "one", ("https://idp.example/", "app"): "two"}
    monkeypatch.setattr(keyring, "read", lambda *entry: Secret(entries[entry]))
    assert SecretRef.parse({"keyring": "thg/app"}).read({}).reveal() == "one"
    assert SecretRef.parse({"keyring": "https://idp.example//app"}).read({}).reveal() == "two"
    assert str(SecretRef.parse({"keyring": "thg/app"})) == "{keyring: thg/app}"


def test_what_may_hang() -> None:
    """A file and a keyring are read in a thread; what is in memory needs none."""
    hanging = [SecretRef.parse({"file": "/a"}), SecretRef.parse({"keyring": "a/b"})]
    assert all(ref.may_hang({}) for ref in hanging)
    variable = SecretRef.parse({"env": "NAME"})
    assert variable.may_hang({"NAME_FILE": "/a"})
    assert not variable.may_hang({"NAME": "value"})
    assert not SecretRef.parse("literal").may_hang({})


@pytest.mark.parametrize(
    "value",
    [
        *("", None, 5, [CANARY]),
        *({}, {"value": CANARY}, {"env": ""}, {"env": 5}, {"env": "A", "file": "B"}),
        *({"keyring": CANARY}, {"keyring": "service/"}, {"keyring": "/name"}, {"keyring": 5}),
    ],
)
def test_no_reference(value: object) -> None:
    """Exactly one source, in one of the forms; the message does not show what was given (R146, R165)."""
    with pytest.raises(ValueError, match=r"^must be \{env: NAME\}, \{file: PATH\} or \{keyring: SERVICE/NAME\}$"):
        SecretRef.parse(value)
