import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from proxy.config.draft import Draft
from proxy.config.load import load
from proxy.core.secret import Secret
from proxy.secret import SecretRef
from proxy.settings import Settings
from tests.config.conftest import Load

DRAFT = Draft(token_url="https://idp.example/token", client_id="app", client_secret=Secret("canary"))
# A secret that can be read, in the one process and in the other.
VARIABLE = SecretRef("env", "THG_CLIENT_SECRET")


def loaded(load_text: Load, draft: Draft) -> Settings:
    settings: Settings = load_text(draft.text(VARIABLE), environ={"THG_CLIENT_SECRET": "s3cr3t"}).settings
    return settings


@pytest.mark.parametrize(
    "draft",
    [
        DRAFT,
        replace(DRAFT, upstream_url="https://api.example:8443/base/", scope="fleet.read fleet.write"),
        replace(DRAFT, token_url=None, issuer="https://idp.example/tenant"),
        replace(DRAFT, auth_method="client_secret_post"),
        *(
            replace(DRAFT, client_id=odd)
            for odd in ("null", "~", "true", "0600", "- a", "a: b", "#a", "{a}", "*a", "a'\"\\")
        ),
    ],
)
def test_file(load_text: Load, draft: Draft) -> None:
    """What is read from the file is what was tried, but for the secret, which is not in it."""
    settings, tried = loaded(load_text, draft), draft.settings()
    clients = (replace(tried.oauth.clients[0], client_secret=VARIABLE),)
    assert settings == replace(tried, oauth=replace(tried.oauth, clients=clients))
    assert "canary" not in draft.text(VARIABLE)


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_text(client_id: str, scope: str) -> None:
    """An answer that is accepted is written so that the same is read (R165)."""
    draft = replace(DRAFT, client_id=client_id, scope=scope)
    if draft.fault("client_id") or draft.fault("scope"):
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(draft.text(VARIABLE).encode())
        file.flush()
        oauth = load(file.name, [], {"THG_CLIENT_SECRET": "s3cr3t"}).settings.oauth
    assert oauth.clients[0].client_id.read().reveal() == client_id
    assert oauth.scope == scope


@pytest.mark.parametrize(
    "name", ["plain", "with space", "quote\"'", "back\\slash", "{brace}", "é\u2028\x7f\U0001f600", "a: #b"]
)
def test_any_path_of_the_secret(load_text: Load, tmp_path: Path, name: str) -> None:
    """The secret is found in the file that is meant, whatever it is called."""
    path = tmp_path / name
    path.write_text("s3cr3t\n")
    path.chmod(0o600)
    settings = load_text(DRAFT.text(SecretRef("file", str(path))), environ={}).settings
    assert settings.oauth.clients[0].client_secret.read().reveal() == "s3cr3t"


@pytest.mark.parametrize("draft", [DRAFT, replace(DRAFT, token_url=None, issuer="https://idp.example", scope="a")])
def test_hints(load_text: Load, draft: Draft) -> None:
    """What is commented out can be used as it stands."""
    Path("ca.pem").touch()
    text = draft.text(VARIABLE)
    uncommented = re.sub(r"^( *)# (?=(  )?[a-z_]+:)", r"\1", text, flags=re.MULTILINE)
    assert len(re.findall(r"^ *#", uncommented, flags=re.MULTILINE)) == 2
    settings = load_text(uncommented, environ={"THG_CLIENT_SECRET": "s3cr3t"}).settings
    assert settings.upstream.tls.ca_file == "ca.pem"
    assert settings.log.access == "all"


@pytest.mark.parametrize(
    "name, answer, fault",
    [
        (
            "upstream_url",
            "http://api.example",
            "must be https; plain http is accepted only to a loopback address or with",
        ),
        (
            "upstream_url",
            "http://127.0.0.1:8080",
            "must be the address of the API, and is listen.address of this proxy",
        ),
        ("upstream_url", "api.example", "must be a URL such as https://api.example.com"),
        ("token_url", "https://a:canary@idp.example/", "must not hold a user name or a password"),
        ("token_url", "", "must be a line of text"),
        ("issuer", "https://idp.example/?canary", "must not hold a query or a fragment"),
        ("client_id", "", "must be a line of text"),
        ("client_id", "canary\x07", "must be a line of text"),
        ("scope", "a\u2028b", "must be a line of text"),
        ("client_secret", Secret(""), "must be a line of text"),
        ("client_secret", Secret("canary\n"), "must be a line of text"),
        ("client_secret", Secret("can\0ary"), "must be a line of text"),
        ("client_secret", Secret("canary\udcff"), "must be a line of text"),
    ],
)
def test_fault(name: str, answer: str | Secret, fault: str) -> None:
    """An answer that can't be used is said to be so at once, and is not repeated (R165)."""
    found = replace(DRAFT, **{name: answer}).fault(name)
    assert found is not None
    assert found.startswith(fault)
    assert "canary" not in found


@pytest.mark.parametrize("name", Draft.__struct_fields__)
def test_no_fault(name: str) -> None:
    """What can be used has none, whatever the others are."""
    assert replace(DRAFT, issuer="https://idp.example", scope="a").fault(name) is None
    assert replace(Draft(), **{name: getattr(DRAFT, name)}).fault(name) is None


def test_entry_of_the_keyring() -> None:
    """Clients of the same id at two providers are two."""
    assert DRAFT.keyring_entry == ("thg-proxy", "app@idp.example")
    assert replace(DRAFT, token_url=None, issuer="https://IDP.test:8443/x").keyring_entry == (
        "thg-proxy",
        "app@idp.test",
    )
