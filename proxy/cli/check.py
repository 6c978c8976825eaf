"""`thg-proxy check`: is the configuration good, and what is it?"""

import json
import re
from collections import Counter
from collections.abc import Iterator

import click

from proxy.cli.options import with_configuration
from proxy.config import Loaded
from proxy.core.secret import MASK
from proxy.settings import leaves

# Free texts in which an operator may put a key of the API, though there are better places for it.
_MAY_BE_SECRET = ("upstream.headers.set.", "oauth.params.", "policy.require_header.value")
_USERINFO = re.compile(r"(?<=://)[^@]*@")
_BARE = re.compile(r"[A-Za-z0-9/][^\s#,{}\[\]\"']*")
_WORDS = {None: "null", True: "true", False: "false"}


@click.command()
@click.option("--print", "show", is_flag=True, help="Show every value and where it comes from, secrets masked.")
@with_configuration
def check(loaded: Loaded, *, show: bool) -> None:
    """Read the configuration offline and name everything that is wrong with it."""
    for line in _effective(loaded) if show else ():
        click.echo(line)
    click.echo(f"OK: {', '.join(sources(loaded))}")


def _effective(loaded: Loaded) -> Iterator[str]:
    for key, value in leaves(loaded.settings):
        shown = MASK if key.startswith(_MAY_BE_SECRET) else _shown(value)
        yield f"{key}: {shown}  # {loaded.origins[key]}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, str):
        text = _USERINFO.sub(f"{MASK}@", value)
        return text if _BARE.fullmatch(text) else json.dumps(text)
    return str(value)


def sources(loaded: Loaded) -> Iterator[str]:
    yield loaded.origin
    kinds = Counter(origin.partition(" ")[0] for origin in loaded.origins.values())
    for kind, words in (("environment", "from the environment"), ("--set", "from --set")):
        if kinds[kind]:
            yield f"{kinds[kind]} value{'s' if kinds[kind] > 1 else ''} {words}"
