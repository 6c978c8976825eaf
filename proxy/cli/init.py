"""`thg-proxy init`: a configuration by a few questions, tried before it is written."""

import os
import shlex
import sys
from collections.abc import Mapping

import click
from msgspec.structs import replace

from proxy import keyring
from proxy.cli.place import Place
from proxy.cli.questions import NAMES, ask
from proxy.cli.terminal import StatusLine
from proxy.config.draft import Draft
from proxy.core.secret import Secret
from proxy.errors import ConfigError, ProxyError, SecretUnreadable
from proxy.secret import MAX_SECRET_FILE, SecretRef, secret_in
from proxy.settings import Listen

_PROVIDER = frozenset({"token_url", "issuer"})


class NotWritten(ProxyError):
    code = "not_written"
    title = "Not written"


class NotWorking(NotWritten):
    """What was given leads to no token, or not to the API."""

    exit_code = 3


@click.command()
@click.option("-c", "--config", "path", metavar="FILE", type=click.Path(), help="What to write; else the user's own.")
@click.option("--upstream-url", metavar="URL", help="The API.")
@click.option("--token-url", metavar="URL", help="The token endpoint.")
@click.option("--issuer", metavar="URL", help="Leads to the token endpoint; instead of --token-url.")
@click.option("--client-id", metavar="ID", help="As the provider gave it.")
@click.option("--scope", metavar="SCOPE", help="What to ask for.")
def init(path: str | None, **options: str | None) -> None:
    """Make a configuration: ask for what it takes, try it, and write it.

    What an option gives is not asked for. The secret goes into the system's keyring if there is one, else into a file
    that only this user can read. Without a terminal nothing is asked: the secret is what standard input holds, and
    nothing is written if something does not work, which is exit code 3.
    """
    given = {name: answer for name, answer in options.items() if answer is not None}
    draft = _draft_of(given)
    place = Place(path, os.environ)
    is_asking = sys.stdin is not None and sys.stdin.isatty()
    may_replace = _may_replace(place, is_asking=is_asking)
    if is_asking:
        click.echo(f"This makes {place.config}. First it asks, then it tries the answers.")
        answered = given.keys() | (_PROVIDER if _PROVIDER & given.keys() else set())
        draft = ask(draft, set(NAMES) - answered)
    else:
        draft = replace(_complete(draft), client_secret=_piped_secret())
        if fault := draft.fault("client_secret"):
            raise click.UsageError(f"The secret on standard input {fault}.")
    # What it takes to connect is loaded while somebody is typing anyway, or not at all.
    from proxy.cli.trial import tried  # noqa: PLC0415 - as said

    working = tried(draft, is_asking=is_asking)
    if working is None:
        raise NotWorking("Nothing is written.")
    _write(working, place, may_replace=may_replace)
    _say_how_to_go_on(place)


def _draft_of(given: Mapping[str, str]) -> Draft:
    """Raises UsageError."""
    if given.keys() >= _PROVIDER:
        raise click.UsageError("--token-url and --issuer exclude one another.")
    draft = replace(Draft(), **given)
    for name in given:
        if fault := draft.fault(name):
            raise click.BadParameter(fault, param_hint=f"--{name.replace('_', '-')}")
    return draft


def _may_replace(place: Place, *, is_asking: bool) -> bool:
    """Raises NotWritten or ConfigError where something is there that is to stay."""
    if not place.taken:
        return False
    names = " and ".join(map(str, place.taken))
    if not is_asking:
        raise ConfigError([f"{names}: there already; remove it, or name another file with -c"])
    if not click.confirm(f"{names}: there already. Replace it?"):
        raise NotWritten("Nothing is changed. Another file can be named with -c.")
    return True


def _complete(draft: Draft) -> Draft:
    """Raises UsageError where something is missing that nobody can be asked for."""
    if not (draft.token_url or draft.issuer):
        raise click.UsageError("Without a terminal, --token-url or --issuer is needed.")
    if not draft.client_id:
        raise click.UsageError("Without a terminal, --client-id is needed.")
    return draft


def _piped_secret() -> Secret:
    """Raises UsageError."""
    raw = sys.stdin.buffer.read(MAX_SECRET_FILE + 1) if sys.stdin else b""
    try:
        return secret_in(raw, "what standard input holds")
    except SecretUnreadable as exc:
        raise click.UsageError(f"Without a terminal, the secret is read from standard input: {exc.detail}.") from None


def _write(draft: Draft, place: Place, *, may_replace: bool) -> None:
    """Raises NotWritten."""
    files = {}
    try:
        reference = _kept_in_keyring(draft)
        said = f"The secret is in the keyring: {reference}."
    except SecretUnreadable as exc:
        reference = SecretRef("file", str(place.secret))
        files[place.secret] = f"{draft.client_secret.reveal()}\n"
        said = f"The secret is in {place.secret}, which only you can read; not in the keyring: {exc.detail}."
    files[place.config] = draft.text(reference)
    try:
        place.write(files, replace=may_replace)
    except OSError as exc:
        raise NotWritten(f"{place.config}: can't be written: {exc.strerror}") from exc
    click.echo(f"\n{place.config} is written. {said}")
    if place.secret in place.taken and place.secret not in files:
        click.echo(f"{place.secret} is not read any more: remove it.")


def _kept_in_keyring(draft: Draft) -> SecretRef:
    """Raises SecretUnreadable."""
    service, name = draft.keyring_entry
    line = StatusLine()
    line.show("the keyring may ask for its password ...")
    try:
        keyring.write(service, name, draft.client_secret)
    finally:
        line.clear()
    return SecretRef("keyring", f"{service}/{name}")


def _say_how_to_go_on(place: Place) -> None:
    run = "thg-proxy run" if place.is_usual else f"thg-proxy run -c {shlex.quote(str(place.config))}"
    click.echo(f"Go on with:\n  {run}\n  curl http://{Listen().address}/")
