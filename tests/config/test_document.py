from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.document import Node, NotYaml, Unusable, parse, unwrapped

CANARY = "c4n4ry"


def read(text: str) -> Node:
    return parse(text, lambda line: f"line {line}")


def child(text: str, name: str = "a") -> Node:
    value = read(text).value
    assert isinstance(value, dict)
    return value[name]


@pytest.mark.parametrize(
    "text, value",
    [
        ("", None),
        ("# nothing", None),
        ("a: b", {"a": "b"}),
        ("a: 0600", {"a": "0600"}),
        ("a: off", {"a": "off"}),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: [1, {b: c}, []]", {"a": ["1", {"b": "c"}, []]}),
        ("a: ~", {"a": None}),
        ("a:", {"a": None}),
        ("a: 'null'", {"a": "null"}),
        ("a: ''", {"a": ""}),
        ("a: !!str 5", {"a": "5"}),
        ("{1: a, null: b}", {"1": "a", "null": "b"}),
    ],
)
def test_value(text: str, value: object) -> None:
    """Scalars are text, and null where nothing stands or a plain null."""
    assert unwrapped(read(text)) == value


def test_origin() -> None:
    """Every value knows its line."""
    assert child("# first\na:\n  b: c").origin == "line 3"
    assert child("a: [\n b]").value == [Node("b", "line 2")]


@pytest.mark.parametrize(
    "text, reason",
    [
        ("{a: 1, a: 2}", "stands twice"),
        ("{b: &x c4n4ry, a: *x}", "must be written out"),
        ("a: *c4n4ry", "must be written out"),
        ("a: !c4n4ry x", "must be written out"),
        ("a: !!python/object:os.system {}", "must be written out"),
        ("a: !!binary YQ==", "must be written out"),
        ('a: "\\0"', "holds a character"),
        ('a: "\\ud800"', "holds a character"),
    ],
)
def test_unusable_value(text: str, reason: str) -> None:
    """What YAML would make of tags, aliases and doubled keys is refused where it stands, without its text (R165)."""
    value = child(text).value
    assert isinstance(value, Unusable)
    assert value.reason.startswith(reason)
    assert CANARY not in value.reason


@pytest.mark.parametrize("text", ["? [a, b]\n: c", "*a : c", "!x a: c", '"\\0": c', "{[a]: c}"])
def test_key_that_is_no_text(text: str) -> None:
    """A key is text (R165)."""
    assert child(text, "?") == Node(Unusable("a key must be text"), child(text, "?").origin)


@pytest.mark.parametrize(
    "text, place",
    [
        ("a: b\nc: 'c4n4ry", "line 2, column 11"),
        ("a: [c4n4ry", "line 1, column 11"),
        ("a: b: c4n4ry", "line 1, column 5"),
        ("a:\n\t- c4n4ry", "line 2, column 1"),
        ("a: 1\n--- \nc4n4ry: 2", "line 2, column 1"),
        ("a: @c4n4ry", "line 1, column 4"),
        ("[" * 100_000, "line 1, column 18"),
        ('a: "\\UFFFFFFFF"', "not valid YAML"),
        ("a: \x00c4n4ry", "not valid YAML"),
    ],
)
def test_syntax_error(text: str, place: str) -> None:
    """What is not YAML is named by its place and not quoted (R165)."""
    with pytest.raises(NotYaml, match=place) as caught:
        read(text)
    assert CANARY not in str(caught.value)


def test_alias_bomb() -> None:
    """Aliases multiply nothing (R165)."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    assert all(isinstance(item.value, Unusable) for item in child("\n".join(lines), "a39").value)  # type: ignore[union-attr]


@given(st.text() | st.text("[]{}:,-?*&!|>'\"%@`#~ \n\tab01\\\x00\ud800"))
def test_any_text(text: str) -> None:
    """Any text is a document or NotYaml, and nothing else (R165)."""
    with suppress(NotYaml):
        read(text)
