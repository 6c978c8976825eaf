"""`thg-proxy demo`: everything that is needed to try the proxy, on loopback."""

import sys

import click

from proxy.cli.options import duration
from proxy.demo import app
from proxy.loop import run_async
from proxy.settings import Duration

_MAX_PORT = 65535
# Of a token that lives one second, no whole second is left when it arrives.
_MIN_TTL = Duration(2)
_NAME_WIDTH = 17


def _lifetime(context: click.Context, option: click.Parameter, value: str) -> Duration:
    lifetime = duration(context, option, value)
    if lifetime < _MIN_TTL:
        raise click.BadParameter(f"must be at least {_MIN_TTL}")
    return lifetime


def _say(name: str, text: str) -> None:
    gap = " " * (_NAME_WIDTH - len(name))
    click.echo(f"{click.style(name, bold=True)}{gap}{text}" if name else "")


@click.command("demo")
@click.option("--port", type=click.IntRange(0, _MAX_PORT), default=8080, show_default=True, help="The proxy; 0: any.")
@click.option("--admin-port", type=click.IntRange(0, _MAX_PORT), default=9090, show_default=True, help="0: any.")
@click.option("--ttl", callback=_lifetime, default="60s", show_default=True, help="How long an access token lives.")
def demo(port: int, admin_port: int, ttl: Duration) -> None:
    """Run an OAuth2 provider and a sample API, with the real proxy in front of them."""
    sys.exit(run_async(app.serve(port, admin_port, ttl, _say)))
