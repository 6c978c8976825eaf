"""The JSON Schema of the configuration, held to what the configuration really accepts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from proxy.cli import main
from proxy.settings import Address, Duration, Settings, Size, leaves
from tests.config.test_checks import GOOD
from tests.config.test_schema import MISTAKES

CONFIG = Path(__file__).parents[2] / "config"

# What a schema can't tell: a number is a whole number, however long it is.
TOO_LONG = f"workers: {'9' * 5000}"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    result = CliRunner().invoke(main, ["schema"])
    assert (result.exit_code, result.stderr) == (0, "")
    document: dict[str, Any] = json.loads(result.stdout)
    return document


class EditorLoader(yaml.SafeLoader):
    """YAML 1.2, as editors read it (its core schema, §10.3.2): `yes` and `off` are words, `0600` is a number."""


EditorLoader.yaml_implicit_resolvers = {}
for tag, pattern, first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|\.nan", "-+0123456789."),
):
    EditorLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), [*first])


def read(text: str) -> Any:
    return yaml.load(text, EditorLoader)


def faults(schema: dict[str, Any], text: str) -> list[str]:
    return [error.json_path for error in Draft202012Validator(schema).iter_errors(read(text))]


def test_it_is_a_schema(schema: dict[str, Any]) -> None:
    """The document is JSON Schema 2020-12."""
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", ["reference.yaml", "thg-proxy.yaml", "demo.yaml"])
def test_published_configurations(schema: dict[str, Any], name: str) -> None:
    """The configurations that come with the project have no fault."""
    assert faults(schema, (CONFIG / name).read_text()) == []


@pytest.mark.parametrize("text", [*GOOD, "upstream:\noauth: {params: , refresh: ~}", "listen: {unix_mode: 0600}"])
def test_good(schema: dict[str, Any], text: str) -> None:
    """What the proxy accepts, an editor accepts."""
    assert faults(schema, text) == []


@pytest.mark.parametrize("text", [text for text in MISTAKES if text != TOO_LONG])
def test_mistake(schema: dict[str, Any], text: str) -> None:
    """A wrong type, form or key is found."""
    assert faults(schema, text)


def test_every_key_has_its_default(schema: dict[str, Any]) -> None:
    """An editor shows the default of each key, and it is the one that is used."""
    for key, value in leaves(Settings()):
        *sections, name = re.sub(r"\[.*", "", key).split(".")
        place = schema
        for section in sections:
            place = place["properties"][section]
        default = place["properties"][name]["default"]
        kind = type(value)
        if kind in (Duration, Size, Address):
            assert kind.parse(default) == value
        elif "[" not in key:
            assert default == (list(value) if kind is tuple else value)


@pytest.mark.parametrize("kind", [Duration, Size, Address])
@given(data=st.data())
def test_forms(kind: type[Duration | Size | Address], data: st.DataObject) -> None:
    """The pattern of a form fits whatever can be read as one; an address can have more wrong with it."""
    text = data.draw(st.from_regex(kind.pattern, fullmatch=True) | st.text())
    fits = re.fullmatch(kind.pattern, text) is not None
    try:
        kind.parse(text)
    except ValueError:
        assert not fits or kind is Address
    else:
        assert fits
