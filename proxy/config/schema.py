"""From nodes to typed values, along the structs of `proxy.settings`; a fault never ends the reading."""

import difflib
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from proxy.config.document import Node, Unusable, unwrapped
from proxy.settings import Settings, leaves

# Of an unknown key, as it is shown and compared.
_MAX_NAME = 64
_KEYS = [key for key, _ in leaves(Settings())]
_FORMS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "null",
    tuple: "a list such as [a, b]",
}


class Problem(NamedTuple):
    """`text` goes on after the key: `upstream.url` "must be https"."""

    key: str
    text: str


def holds(outer: str, inner: str) -> bool:
    """Is `inner` the same dotted key as `outer`, or one below it?"""
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}["))


class Reading:
    """Nodes read as a schema wants them. What is wrong is in `problems`; where each value was written, in `origins`.

    Where there is a problem, the value is msgspec.UNSET, and the default takes its place in what holds it.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.origins: dict[str, str] = {}

    def settings(self, root: Node) -> Settings:
        settings: Settings = self._section(Settings, root, "")
        return settings

    def _value(self, kind: Any, node: Node, key: str) -> Any:
        self.origins[key] = node.origin
        if isinstance(node.value, Unusable):
            return self._refused(key, node.value.reason, node.origin)
        options = _options(kind)
        if node.value is None and NoneType in options:
            return None
        for option in options:
            if _fits(option, node):
                try:
                    return self._converted(option, node, key)
                except (ValueError, msgspec.ValidationError):
                    break
        return self._refused(key, f"must be {' or '.join(map(_form, options))}", node.origin)

    def _converted(self, kind: Any, node: Node, key: str) -> Any:
        if hasattr(kind, "parse"):
            return kind.parse(unwrapped(node))
        if _is_section(kind):
            return self._section(kind, node, key)
        if get_origin(kind) is dict:
            return self._mapping(get_args(kind)[1], node, key)
        if get_origin(kind) is tuple:
            return self._items(get_args(kind)[0], node, key)
        return msgspec.convert(node.value, kind, strict=False)

    def _section(self, kind: type[msgspec.Struct], node: Node, key: str) -> Any:
        children = _children(node)
        fields = _fields(kind)
        values = {}
        for name, child in children.items():
            if name in fields:
                values[name] = self._value(fields[name].type, child, _join(key, name))
            else:
                self._unknown(name, child, key, list(fields))
        values = {name: value for name, value in values.items() if value is not msgspec.UNSET}
        missing = [name for name, field in fields.items() if field.required and name not in values]
        for name in missing:
            if name not in children:
                self._refused(_join(key, name), "is required", node.origin)
        return msgspec.UNSET if missing else kind(**values)

    def _mapping(self, kind: Any, node: Node, key: str) -> dict[str, Any]:
        children = _children(node).items()
        values = {name: self._value(kind, child, _join(key, name)) for name, child in children}
        return {name: value for name, value in values.items() if value is not msgspec.UNSET}

    def _items(self, kind: Any, node: Node, key: str) -> Any:
        items = node.value if isinstance(node.value, list) else []
        values = [self._value(kind, item, f"{key}[{index}]") for index, item in enumerate(items)]
        return msgspec.UNSET if msgspec.UNSET in values else tuple(values)

    def _refused(self, key: str, text: str, origin: str) -> msgspec.UnsetType:
        self.origins[key] = origin
        self.problems.append(Problem(key, text))
        return msgspec.UNSET

    def _unknown(self, name: str, child: Node, section: str, known: list[str]) -> None:
        name = name[:_MAX_NAME]
        self._refused(_join(section, name), f"unknown key; {_suggestion(name, known)}", child.origin)


def may_nest(path: list[str]) -> bool:
    """Can the value at `path` be a mapping or a list? An unknown path holds nothing that matters."""
    kinds: list[Any] = [Settings]
    for name in path:
        kinds = [child for kind in kinds for option in _options(kind) for child in _child_kinds(option, name)]
    return any(_is_nested(option) for kind in kinds for option in _options(kind))


def _child_kinds(kind: Any, name: str) -> Iterator[Any]:
    if _is_section(kind) and name in _fields(kind):
        yield _fields(kind)[name].type
    if get_origin(kind) is dict:
        yield get_args(kind)[1]


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


def _is_nested(kind: Any) -> bool:
    return _is_section(kind) or get_origin(kind) in (dict, tuple)


def _fits(kind: Any, node: Node) -> bool:
    """Has the node the shape of `kind`? A section with nothing below it is an empty section."""
    if hasattr(kind, "parse"):
        return node.value is not None
    match node.value:
        case None | dict():
            return _is_section(kind) or get_origin(kind) is dict
        case list():
            return get_origin(kind) is tuple
    return not _is_nested(kind)


def _form(kind: Any) -> str:
    """What a value of `kind` is, in words."""
    if get_origin(kind) is Literal:
        return f"{'one of ' if len(get_args(kind)) > 1 else ''}{', '.join(get_args(kind))}"
    if hasattr(kind, "parse"):
        form: str = kind.form
        return form
    return _FORMS.get(get_origin(kind) or kind, "a mapping of keys to values")


def _children(node: Node) -> dict[str, Node]:
    return node.value if isinstance(node.value, dict) else {}


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _suggestion(name: str, known: list[str]) -> str:
    first, *rest = name.split(".")
    if rest and first in known:
        return f"keys are nested: {first}: {{{': {'.join(rest)}: ...{'}' * len(rest)}"
    near = difflib.get_close_matches(name.lower(), known, 1)
    elsewhere = [key for key in _KEYS if key.rpartition(".")[2] == name]
    for candidate in (*near, *elsewhere):
        return f"did you mean {candidate}?"
    return f"known here: {', '.join(known)}"
