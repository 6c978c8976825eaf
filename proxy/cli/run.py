"""`thg-proxy run`: the proxy in the foreground."""

import sys

import click

from proxy.cli.options import with_configuration
from proxy.config import Loaded


@click.command()
@with_configuration
def run(loaded: Loaded) -> None:
    """Run the proxy in the foreground."""
    # A bad configuration is answered before the engine is loaded.
    from proxy.run import run as serve  # noqa: PLC0415 - as said

    sys.exit(serve(loaded))
