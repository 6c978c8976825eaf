"""`thg-proxy run`: the proxy in the foreground."""

import signal
import sys

import click

from proxy.cli.options import with_configuration
from proxy.config import Loaded


@click.command()
@with_configuration
def run(loaded: Loaded) -> None:
    """Run the proxy in the foreground."""
    # Loading takes a while, and the first process of a container does not get a signal that it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # A bad configuration is answered before the engine is loaded.
    from proxy.run import run as serve  # noqa: PLC0415 - as said

    sys.exit(serve(loaded))
