import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Loaded, load
from proxy.errors import ConfigError
from proxy.settings import Settings, leaves

CONFIG = Path(__file__).parents[2] / "config"
CREDENTIALS = {"THG_CLIENT_ID": "id", "THG_CLIENT_SECRET": "s3cr3t"}
CANARY = "c4n4ry"

NAMES = sorted({part for key, _ in leaves(Settings()) for part in key.replace("[0]", "").split(".")})
# These hold the names of things, which a problem may show.
PUBLIC = {"env", "file"} | {name for name in NAMES if name.endswith("_file")}
KEYS = [*sorted(set(NAMES) - PUBLIC), "unknown", "methods", "path", "name", "value", "allow_origins"]


def junk(keys: list[str], scalars: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys), inner, max_size=4),
        max_leaves=12,
    )
    sections = st.sampled_from(list(Settings.__struct_fields__))
    return st.dictionaries(sections, values)


def attempt(text: bytes, environ: dict[str, str] = CREDENTIALS) -> list[str]:
    """The problems of a file with this content; empty where it can be used. Anything but ConfigError escapes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(text)
        file.flush()
        try:
            assert isinstance(load(file.name, [], environ).settings, Settings)
        except ConfigError as exc:
            return list(exc.problems)
    return []


@given(junk(sorted({*KEYS, *PUBLIC}), st.text(max_size=20)))
def test_any_document(document: dict[str, object]) -> None:
    """Any YAML document is a configuration or a list of problems, a line each (R165)."""
    text = yaml.safe_dump(document).encode()
    for problem in attempt(text):
        assert len(problem.splitlines()) == 1


@given(junk(KEYS, st.just(CANARY) | st.just(f"https://{CANARY}@a/") | st.just(f"5{CANARY}")))
def test_no_value_is_shown(document: dict[str, object]) -> None:
    """Whatever stands in the wrong place, no problem shows it (R146, R165)."""
    assert not any(CANARY in problem for problem in attempt(yaml.safe_dump(document).encode()))


@given(st.binary(max_size=60))
def test_any_bytes(content: bytes) -> None:
    """Any file is a configuration or a list of problems (R165)."""
    attempt(content)


@given(st.sampled_from([key for key, _ in leaves(Settings())]), st.text(st.characters(exclude_characters="\0")))
def test_any_variable(key: str, value: str) -> None:
    """Any value of any variable is a setting or a problem (R165)."""
    name = "THG_PROXY__" + key.replace("[0]", "").replace(".", "__").upper()
    attempt(b"", CREDENTIALS | {name: value})


def test_reference_is_the_defaults() -> None:
    """config/reference.yaml names every key, and each with its default."""
    overrides = ["oauth.token_url=https://idp.example/token"]
    loaded = load(str(CONFIG / "reference.yaml"), overrides, CREDENTIALS)
    assert loaded.settings == msgspec.structs.replace(
        Settings(), oauth=msgspec.structs.replace(Settings().oauth, token_url="https://idp.example/token")
    )
    assert {key for key, origin in loaded.origins.items() if origin == "default"} == set()
    assert loaded.notes == ()


def test_reference_has_a_comment_for_every_key() -> None:
    """config/reference.yaml says of every value what it is."""
    lines = (CONFIG / "reference.yaml").read_text().splitlines()
    keys = [line for line in lines if line.strip() and not line.strip().startswith("#")]
    sections = [line for line in keys if line.rstrip().endswith(":")]
    assert [line for line in keys if "#" not in line and line not in sections] == ["  token_url: null"]


@pytest.mark.parametrize("name", ["thg-proxy.yaml", "demo.yaml"])
def test_shipped_files(name: str) -> None:
    """The files that we give to users can be used as they are."""
    loaded = load(str(CONFIG / name), [], CREDENTIALS)
    assert loaded.notes == ()


def test_no_environment_is_the_default() -> None:
    """No token URL is built in: the vendor documents that of the testing environment only."""
    with pytest.raises(ConfigError) as caught:
        load(None, [], CREDENTIALS)
    assert caught.value.problems[0].startswith("oauth.token_url: is required")


def test_every_value_has_an_origin(load_text: Callable[..., Loaded]) -> None:
    """Each key of the settings, and no other, has an origin."""
    loaded = load_text("oauth: {clients: [{name: a}, {name: b}], params: {x: y}}\nupstream: {headers: {set: {A: b}}}")
    assert loaded.origins.keys() == dict(leaves(loaded.settings)).keys()
    assert loaded.origins["oauth.clients[1].name"] == "thg.yaml:1"
    assert loaded.origins["oauth.clients[1].client_id"] == "default"
    assert loaded.origins["upstream.headers.set.A"] == "thg.yaml:2"


def test_nothing_secret_in_what_is_loaded(load_text: Callable[..., Loaded]) -> None:
    """Settings can be printed whole (R146)."""
    loaded = load_text(
        f"oauth: {{token_url: http://127.0.0.1/, clients: [{{client_id: {CANARY}, client_secret: {CANARY}}}]}}",
        environ={},
    )
    assert CANARY not in repr(loaded)
