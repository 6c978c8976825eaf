"""What the source of proxy/ says without being run: values, events and routes that are written in it."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import get_args

from proxy.core.grant import Kind

PACKAGE = Path(__file__).parents[2] / "proxy"
LEVELS = ("debug", "info", "warning", "error")


@cache
def _files() -> Mapping[str, ast.Module]:
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_bytes()) for path in sorted(PACKAGE.rglob("*.py"))}


def _nodes(*files: str) -> Iterator[ast.AST]:
    for file, source in _files().items():
        if not files or file in files:
            yield from ast.walk(source)


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _texts(nodes: Iterable[ast.AST]) -> set[str]:
    return {text for node in nodes if (text := _text(node)) is not None}


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    yield from (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,)


def refusals(*files: str) -> set[str]:
    """The `result` of each Refusal, or of a tuple that becomes one: the text behind its kind."""
    found = set()
    for node in _nodes(*files):
        match node:
            case (
                ast.Call(args=[ast.Constant(value=kind), ast.Constant(value=str(result)), *_])
                | ast.Tuple(elts=[ast.Constant(value=kind), ast.Constant(value=str(result))])
            ) if kind in get_args(Kind):
                found.add(result)
    return found


def assigned(attribute: str) -> set[str]:
    """The texts that an attribute of that name can get."""
    values = (node.value for node in _nodes() if isinstance(node, ast.Assign) and _target(node) == attribute)
    return _texts(node for value in values for node in ast.walk(value)) - {""}


def _target(node: ast.Assign) -> str:
    target = node.targets[0]
    return target.attr if isinstance(target, ast.Attribute) else ""


def returned(function: str) -> set[str]:
    """The texts that a function of that name can return."""
    (found,) = (node for node in _nodes() if isinstance(node, ast.FunctionDef) and node.name == function)
    returns = (node.value for node in ast.walk(found) if isinstance(node, ast.Return) and node.value is not None)
    return _texts(value for node in returns for value in _alternatives(node))


def subscripts(attribute: str) -> set[str]:
    """The texts that are looked up in an attribute of that name."""
    return _texts(
        node.slice
        for node in _nodes()
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == attribute
    )


def raised(names: Iterable[str]) -> tuple[Mapping[str, set[str]], Mapping[str, set[str]]]:
    """The details, and the types of Proxy-Status, that classes of these names are called with."""
    details: defaultdict[str, set[str]] = defaultdict(set)
    types: defaultdict[str, set[str]] = defaultdict(set)
    for node in _nodes():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            details[node.func.id] |= _texts(node.args[:1])
            types[node.func.id] |= _texts(each.value for each in node.keywords if each.arg == "proxy_status")
    return details, types


def routes() -> Iterator[tuple[str, str]]:
    """Each path of `AdminPort`, and the name of its methods."""
    for node in _nodes():
        if isinstance(node, ast.Assign) and _target(node) == "_routes" and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if (path := _text(key)) is not None and isinstance(value, ast.Call):
                    yield path, ast.unparse(value.args[0])


def events() -> Iterator[tuple[str, str, list[str]]]:
    """Event, level and fields of each call that writes a line, also of `write = log.a if b else log.c`.

    A field `**x` stands for those of `x`.
    """
    for function in _nodes():
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        named = {
            target.id: list(_alternatives(node.value))
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name)
        }
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args):
            writers = named.get(call.func.id, []) if isinstance(call.func, ast.Name) else [call.func]
            for writer, event in zip(writers, cycle(_alternatives(call.args[0])), strict=False):
                if (level := _level(writer)) and (name := _text(event)):
                    yield name, level, [each.arg or f"**{ast.unparse(each.value)}" for each in call.keywords]


def _level(writer: ast.expr) -> str | None:
    """Of `log.info` and `self._log.info`."""
    if not isinstance(writer, ast.Attribute) or writer.attr not in LEVELS:
        return None
    owner = writer.value
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return writer.attr if name.strip("_") == "log" else None
