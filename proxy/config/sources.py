"""Where the configuration comes from: one file, then the environment, then `--set`; the later wins, key by key."""

import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from proxy.config.document import Node, NotYaml, Unusable, parse, scalar
from proxy.config.schema import may_nest
from proxy.errors import ConfigError

FILE_VARIABLE = "THG_PROXY_CONFIG"
PREFIX = "THG_PROXY__"
LOCAL_FILE = "thg-proxy.yaml"
SYSTEM_FILE = "/etc/thg-proxy/config.yaml"
MAX_FILE = 1 << 20
COMMAND_LINE = "--set"


class File(NamedTuple):
    name: str
    root: Node


def read_file(path: str | None, environ: Mapping[str, str]) -> File | None:
    """The file that is named, else the first that exists in the usual places. Raises ConfigError."""
    named = path or environ.get(FILE_VARIABLE)
    for name, closed_to in [(named, 0)] if named else _usual_files(environ):
        try:
            return File(name, _parse_file(name, closed_to))
        except FileNotFoundError:
            if named:
                raise ConfigError([f"{name}: there is no such file"]) from None
        except OSError as exc:
            raise ConfigError([f"{name}: the file can't be read: {exc.strerror}"]) from exc
    return None


def user_file(environ: Mapping[str, str]) -> str | None:
    """The place for the user's own file, by the XDG Base Directory Specification, on every system.

    None where the environment names no home: the one in /etc/passwd, which `Path.home()` falls back to, is not what who
    started the process has chosen.
    """
    for base in (Path(environ.get("XDG_CONFIG_HOME", "")), Path(environ.get("HOME", ""), ".config")):
        # One that is relative is to be ignored, says the specification.
        if base.is_absolute():
            return str(base / "thg-proxy" / "config.yaml")
    return None


def _usual_files(environ: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Each with the permissions to write that nobody may have to it, who is not this user."""
    # Many systems let a group write to what its users make.
    yield LOCAL_FILE, stat.S_IWOTH
    own = user_file(environ)
    # A service may have been given the home of somebody else, in which it may not look: then nothing is there.
    if own is not None and os.access(own, os.F_OK):
        yield own, stat.S_IWGRP | stat.S_IWOTH
    # Nobody but root has a say in /etc.
    yield SYSTEM_FILE, 0


def _parse_file(name: str, closed_to: int) -> Node:
    with Path(name).open("rb") as file:
        if closed_to and sys.platform != "win32":
            _refuse_strangers(name, os.fstat(file.fileno()), closed_to)
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


def _refuse_strangers(name: str, status: os.stat_result, closed_to: int) -> None:
    """Who writes this file says where the secret goes. In a home that is not this user's, or in a directory for all,
    that is somebody else.
    """
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError([f"{name}: the file belongs to another user; if it is the right one, name it with -c"])
    if status.st_mode & closed_to:
        raise ConfigError([f"{name}: other users may write the file; chmod go-w {name}"])


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
