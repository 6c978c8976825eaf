"""`thg-proxy doctor`: what keeps the proxy from working, and what to do about it."""

import asyncio
import json
import platform
import re
import ssl
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from proxy import __version__
from proxy.cli.check import sources
from proxy.cli.options import with_configuration
from proxy.config import Loaded

if TYPE_CHECKING:
    from proxy.doctor.record import Record

_FAILED = 3
# RFC 9112 §3.2.1: printable ASCII without a space; a fragment is never sent.
_ORIGIN_FORM = re.compile(r"""/[!"$-~]*""")


def _target(_context: click.Context, _option: click.Parameter, value: str | None) -> bytes | None:
    if value is None:
        return None
    if not _ORIGIN_FORM.fullmatch(value):
        raise click.BadParameter(
            "must be a path that begins with `/`, and a query if need be, special characters as %XX"
        )
    return value.encode()


@click.command()
@click.option("--get", "target", metavar="PATH", callback=_target, help="Ask the API for this; else for its base path.")
@click.option("--json", "as_json", is_flag=True, help="One document, for a ticket.")
@partial(with_configuration, secrets=False)
def doctor(loaded: Loaded, *, target: bytes | None, as_json: bool) -> None:
    """Find out what keeps the proxy from working.

    Tries every part of the way to a token and to the API, and says what to do about those that fail. Exit code 3 if one
    does.
    """
    # What it takes to connect is loaded after the configuration is read, which may be wrong.
    from proxy.cli.steps import shown, summary  # noqa: PLC0415 - as said
    from proxy.doctor.examination import examine  # noqa: PLC0415

    with shown(results=not as_json) as record:
        asyncio.run(examine(loaded.settings, tuple(sources(loaded)), record, target))
    click.echo(json.dumps(_document(record), indent=2) if as_json else summary(record))
    sys.exit(0 if record.ok else _FAILED)


def _document(record: "Record") -> dict[str, object]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "thg-proxy": __version__,
            "python": platform.python_version(),
            "openssl": ssl.OPENSSL_VERSION,
            "system": platform.platform(),
        },
        "ok": record.ok,
        "steps": [asdict(result) for result in record.results],
    }
