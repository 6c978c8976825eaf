"""A configuration document: YAML in which a scalar has no type of its own, and every value knows where it was written.

The schema gives a scalar its type. So `off` is a word where a word is wanted, `0600` keeps its zero, and a value from
the environment reads the same as one from a file. Tags, aliases and keys that stand twice are refused where they stand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import yaml

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_MAX_DEPTH = 16
_ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class Unusable:
    """Stands in for a value that can't be used. `reason`: a part of a sentence, without the value."""

    reason: str


Value: TypeAlias = "str | dict[str, Node] | list[Node] | Unusable | None"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its origin, in words: `thg-proxy.yaml:7`, `--set`."""

    value: Value
    origin: str


class NotYaml(ValueError):
    """The text as a whole can't be read. The message says where, and does not quote it."""


def parse(text: str, origin: Callable[[int], str]) -> Node:
    """The document in `text`; `origin` is given line numbers. Raises NotYaml."""
    try:
        root = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise NotYaml(f"not valid YAML at {_place(mark)}: look for a stray tab, quote, colon or space") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        raise NotYaml("not valid YAML: it holds a character that is not allowed") from None
    return _node(root, origin) if root else Node(None, origin(1))


def scalar(text: str, *, plain: bool) -> str | Unusable | None:
    """The value of a scalar. Only a plain one, without quotes, can be null."""
    if plain and text in _NULL:
        return None
    return text if _is_text(text) else Unusable("holds a character that is not allowed")


def unwrapped(node: Node) -> object:
    """The value without its origins."""
    match node.value:
        case dict() as children:
            return {name: unwrapped(child) for name, child in children.items()}
        case list() as items:
            return [unwrapped(item) for item in items]
    return node.value


class _Loader(yaml.BaseLoader):
    """Composes nodes and constructs nothing. The depth is bounded, because PyYAML recurses."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode(_ALIAS, "", event.start_mark, event.end_mark)
        if self._depth > _MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "nested too deeply", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _node(node: yaml.Node, origin: Callable[[int], str]) -> Node:
    return Node(_value(node, origin), origin(node.start_mark.line + 1))


def _value(node: yaml.Node, origin: Callable[[int], str]) -> Value:
    match node:
        case yaml.ScalarNode(tag=_Loader.DEFAULT_SCALAR_TAG):
            return scalar(node.value, plain=node.style is None)
        case yaml.SequenceNode(tag=_Loader.DEFAULT_SEQUENCE_TAG):
            return [_node(item, origin) for item in node.value]
        case yaml.MappingNode(tag=_Loader.DEFAULT_MAPPING_TAG):
            return _mapping(node, origin)
    return Unusable("must be written out: tags (!) and aliases (*) are not supported")


def _mapping(node: yaml.MappingNode, origin: Callable[[int], str]) -> dict[str, Node]:
    children: dict[str, Node] = {}
    for key, value in node.value:
        child = _node(value, origin)
        if key.tag != _Loader.DEFAULT_SCALAR_TAG or not _is_text(key.value):
            children["?"] = Node(Unusable("a key must be text"), child.origin)
        elif key.value in children:
            children[key.value] = Node(Unusable("stands twice; keep one of them"), child.origin)
        else:
            children[key.value] = child
    return children


def _is_text(text: str) -> bool:
    """Can it be a file name, an environment variable, a header? Not with NUL or half of a surrogate pair in it."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _place(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown place"
