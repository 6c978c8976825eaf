"""The command `thg-proxy`. Each subcommand is a module, imported only when it is called: `wait` must be fast."""

import io
import os
import sys
from importlib import import_module

import click

from proxy import __version__
from proxy.cli.terminal import is_dumb
from proxy.errors import ProxyError
from proxy.hardening import harden

_COMMANDS = ("run", "demo", "init", "check", "doctor", "token", "schema", "wait", "stop")


class _Commands(click.Group):
    """Finds a command by its name, and turns a failure into its sentence and its exit code."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"proxy.cli.{name}"), name)
        return command

    def invoke(self, context: click.Context) -> object:
        # Before anything is loaded: until then others of the same user can read the environment, and the secret in it.
        harden()
        # Already the import of aiohttp makes a TLS context, which opens the file for the keys of sessions (R150).
        os.environ.pop("SSLKEYLOGFILE", None)
        try:
            return super().invoke(context)
        except ProxyError as exc:
            click.echo(exc, err=True)
            context.exit(exc.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="thg-proxy")
@click.pass_context
def main(context: click.Context) -> None:
    """Plain HTTP on loopback in, an OAuth2-protected API with a fresh Bearer token out."""
    if os.environ.get("NO_COLOR") or is_dumb():
        context.color = False
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What an old code page lacks, such as a tick, is escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
