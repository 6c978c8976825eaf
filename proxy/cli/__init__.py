"""The command `thg-proxy`. Each subcommand is a module, imported only when it is called: `wait` must be fast."""

from importlib import import_module

import click

from proxy import __version__
from proxy.errors import ProxyError

_COMMANDS = ("run", "demo", "check", "wait")


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
        try:
            return super().invoke(context)
        except ProxyError as exc:
            click.echo(exc, err=True)
            context.exit(exc.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="thg-proxy")
def main() -> None:
    """Plain HTTP on loopback in, an OAuth2-protected API with a fresh Bearer token out."""
