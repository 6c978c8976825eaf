"""A secret that changes under a running proxy."""

import asyncio
import io
import json
from pathlib import Path

import pytest

from proxy.core.client_auth import ClientCredentials
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable
from proxy.log import Log
from proxy.rotation import RotatingSecret
from proxy.secret import SecretRef
from proxy.settings import AuthMethod, Client, OAuth


class Rotation:
    """A client whose secret is in a file."""

    def __init__(self, directory: Path, method: AuthMethod = "client_secret_basic") -> None:
        self.file = directory / "secret"
        self.stream = io.StringIO()
        client = Client(
            client_id=SecretRef("literal", "", Secret("id")), client_secret=SecretRef("file", str(self.file))
        )
        self.secret = RotatingSecret(OAuth(auth_method=method), client, Log(self.stream, "debug"))

    def offers(self) -> list[str]:
        return [shown.secret for shown in asyncio.run(self.secret.offers())]

    def is_news(self) -> bool:
        return asyncio.run(self.secret.is_news())

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.stream.getvalue().splitlines()]


def shown(secret: str) -> ClientCredentials:
    return ClientCredentials(Secret("id"), Secret(secret))


@pytest.fixture
def rotation(tmp_path: Path) -> Rotation:
    rotation = Rotation(tmp_path)
    rotation.file.write_text("old")
    return rotation


def test_files(rotation: Rotation) -> None:
    """What is to be watched."""
    assert rotation.secret.files == (str(rotation.file),)


def test_new_secret_is_shown_before_the_old_one(rotation: Rotation) -> None:
    """The old secret is dropped when the new one has been accepted (R100, F17)."""
    assert rotation.offers() == ["old"]
    rotation.secret.accepted(shown("old"))
    assert rotation.offers() == ["old"]
    assert not rotation.is_news()

    rotation.file.write_text("new\n")

    assert rotation.is_news()
    assert rotation.offers() == ["new", "old"]
    rotation.secret.accepted(shown("new"))
    assert rotation.offers() == ["new"]
    assert rotation.events == ["secret_changed"]


def test_refused_secret_does_not_replace_the_old_one(rotation: Rotation) -> None:
    """A wrong secret in the file is said once, and tried again only after the old one has failed (R100, F46)."""
    rotation.secret.accepted(shown("old"))
    rotation.file.write_text("wrong")
    for _ in range(2):
        rotation.secret.refused(shown("wrong"))
        rotation.secret.accepted(shown("old"))

    assert rotation.offers() == ["old", "wrong"]
    assert not rotation.is_news()
    assert rotation.events == ["secret_refused"]

    # The provider learns of the new secret later than the file.
    rotation.secret.refused(shown("old"))
    assert rotation.offers() == ["wrong"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", None])
def test_bad_file_keeps_the_old_secret(rotation: Rotation, content: bytes | None) -> None:
    """An empty, missing or unreadable file is said once, and changes nothing (R100, F46)."""
    rotation.secret.accepted(shown("old"))
    if content is None:
        rotation.file.unlink()
    else:
        rotation.file.write_bytes(content)

    for _ in range(2):
        assert not rotation.is_news()
        assert rotation.offers() == ["old"]
    assert rotation.events == ["secret_unreadable"]

    rotation.file.write_text("new")
    assert rotation.offers() == ["new", "old"]


def test_nothing_to_show(tmp_path: Path) -> None:
    """Without an accepted secret an unreadable one is the failure of the token request."""
    with pytest.raises(SecretUnreadable):
        Rotation(tmp_path).offers()


def test_assertions_do_not_last(tmp_path: Path) -> None:
    """Of a file with another assertion each time, only what is in it now is shown."""
    rotation = Rotation(tmp_path, "federated")
    rotation.file.write_text("one")
    rotation.secret.accepted(shown("one"))
    rotation.file.write_text("two")
    assert rotation.offers() == ["two"]
    assert rotation.secret.files == ()


def test_certificate_stands_for_the_secret(tmp_path: Path) -> None:
    """With `tls_client_auth` no secret is read, nor needed (R103)."""
    (offer,) = asyncio.run(Rotation(tmp_path, "tls_client_auth").secret.offers())
    assert (offer.client_id.reveal(), offer.client_secret) == ("id", None)


def test_no_secret_is_logged(rotation: Rotation) -> None:
    """Events name the client, never what it shows (R145)."""
    rotation.secret.accepted(shown("old"))
    rotation.secret.refused(shown("wrong-one"))
    rotation.secret.accepted(shown("right-one"))
    assert "-one" not in rotation.stream.getvalue()
