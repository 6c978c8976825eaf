"""Where the configuration comes from: one file, then the environment, then `--set`; the later wins, key by key."""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from proxy.config.document import Node, NotYaml, Unusable, parse, scalar
from proxy.config.schema import may_nest
from proxy.errors import ConfigError

FILE_VARIABLE = "THG_PROXY_CONFIG"
PREFIX = "THG_PROXY__"
FILES = ("thg-proxy.yaml", "/etc/thg-proxy/config.yaml")
MAX_FILE = 1 << 20
COMMAND_LINE = "--set"


class File(NamedTuple):
    name: str
    root: Node


def read_file(path: str | None, environ: Mapping[str, str]) -> File | None:
    """The file that is named, else the first of FILES that exists. Raises ConfigError."""
    named = path or environ.get(FILE_VARIABLE)
    for name in (named,) if named else FILES:
        try:
            return File(name, _parse_file(name))
        except FileNotFoundError:
            if named:
                raise ConfigError([f"{name}: there is no such file"]) from None
        except OSError as exc:
            raise ConfigError([f"{name}: the file can't be read: {exc.strerror}"]) from exc
    return None


def _parse_file(name: str) -> Node:
    with Path(name).open("rb") as file:
        raw = file.read(MAX_FILE + 1)
    if len(raw) > MAX_FILE:
        raise ConfigError([f"{name}: the file is larger than {MAX_FILE >> 20} MiB"])
    try:
        root = parse(raw.decode("utf-8-sig"), lambda line: f"{name}:{line}")
    except UnicodeDecodeError:
        raise ConfigError([f"{name}: the file is not UTF-8 text"]) from None
    except NotYaml as exc:
        raise ConfigError([f"{name}: {exc}"]) from None
    if not (root.value is None or isinstance(root.value, dict)):
        raise ConfigError([f"{name}: the file must be a mapping of keys to values, such as `log: {{level: debug}}`"])
    return root


def from_environment(environ: Mapping[str, str]) -> Iterator[Node]:
    """`THG_PROXY__LOG__LEVEL=debug`, a tree for each variable."""
    for name, text in sorted(environ.items()):
        if name.startswith(PREFIX):
            path = name.removeprefix(PREFIX).lower().split("__")
            yield _nested(path, _from_text(path, text, f"environment {name}"))


def from_overrides(overrides: Sequence[str]) -> Iterator[Node]:
    """`log.level=debug`, a tree for each."""
    for override in overrides:
        key, equals, text = override.partition("=")
        path = key.split(".")
        missing = Node(Unusable("must be given as KEY=VALUE"), COMMAND_LINE)
        yield _nested(path, _from_text(path, text, COMMAND_LINE) if equals else missing)


def merged(trees: Sequence[Node]) -> Node:
    """One tree; where two have a value for the same key, the later has it."""
    return reduce(_merge, trees, Node(None, "default"))


def _merge(base: Node, over: Node) -> Node:
    if isinstance(base.value, Unusable):
        return base
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    both = base.value.keys() & over.value.keys()
    joined = {name: _merge(base.value[name], over.value[name]) for name in both}
    return Node({**base.value, **over.value, **joined}, over.origin)


def _nested(path: list[str], leaf: Node) -> Node:
    return reduce(lambda child, name: Node({name: child}, leaf.origin), reversed(path), leaf)


def _from_text(path: list[str], text: str, origin: str) -> Node:
    """A single value as it stands, so that nothing in it is YAML by accident; a list or a mapping as YAML."""
    if not may_nest(path):
        return Node(scalar(text, plain=True), origin)
    try:
        return parse(text, lambda _line: origin)
    except NotYaml as exc:
        return Node(Unusable(f"is {exc}"), origin)
