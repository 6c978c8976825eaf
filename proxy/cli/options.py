"""The options that commands share."""

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from proxy.settings import Duration

_Command = TypeVar("_Command", bound=Callable[..., Any])

configuration_option = click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(),
    help="The configuration; without it, the usual places.",
)


def duration(_context: click.Context, _option: click.Parameter, value: str) -> Duration:
    """The callback of an option that is one."""
    try:
        return Duration.parse(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def with_configuration(command: _Command, *, secrets: bool = True) -> Callable[..., Any]:
    """Gives a command `-c` and `--set`, and calls it with what they load as `loaded`; notes go to stderr.

    `secrets`: False where a secret that can't be read is the command's affair, and no fault of the configuration.
    """

    @configuration_option
    @click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="One value; may be given often.")
    @functools.wraps(command)
    def with_loaded(path: str | None, overrides: tuple[str, ...], **others: Any) -> Any:
        from proxy.config import load  # noqa: PLC0415 - `wait`, which shares an option, must start fast

        loaded = load(path, overrides, os.environ, secrets=secrets)
        for note in loaded.notes:
            click.echo(f"note: {note}", err=True)
        return command(loaded=loaded, **others)

    return with_loaded
