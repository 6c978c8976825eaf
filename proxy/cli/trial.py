"""Tries the answers that `thg-proxy init` was given, and has those corrected that don't work."""

import asyncio
from collections.abc import Iterator, Mapping

import click
from msgspec.structs import replace

from proxy.cli.questions import NAMES, ask
from proxy.cli.steps import shown, summary
from proxy.config.draft import Draft
from proxy.doctor.examination import examine
from proxy.doctor.record import Record

_PROVIDER = ("token_url", "issuer")
_CREDENTIALS = ("client_id", "client_secret")
# The answers that a step depends on, by the beginning of its name.
_OF_STEPS: Mapping[str, tuple[str, ...]] = {
    "upstream request": ("upstream_url", *_PROVIDER, "scope"),
    "upstream": ("upstream_url",),
    "token endpoint": _PROVIDER,
    "issuer": _PROVIDER,
    "discovery": _PROVIDER,
    "signature": _PROVIDER,
}
# Those that a token request depends on, by what came of it.
_OF_RESULTS: Mapping[str | None, tuple[str, ...]] = {
    "invalid_scope": ("scope",),
    "invalid_client": _CREDENTIALS,
    "unauthorized_client": _CREDENTIALS,
    "secret_unreadable": _CREDENTIALS,
}


def tried(draft: Draft, *, is_asking: bool) -> Draft | None:
    """The draft that works, or that the user keeps although it does not; None where nobody can be asked for another."""
    while True:
        record = _examined(draft)
        if record.ok:
            return draft
        method = next((failed.auth_method for failed in record.failures.values() if failed.auth_method), None)
        if method is not None and draft.auth_method == Draft().auth_method:
            click.echo(f"Once more, by oauth.auth_method: {method}.")
            draft = replace(draft, auth_method=method)
            continue
        if not is_asking:
            return None
        if click.confirm("Write it all the same? No asks again for what may be wrong."):
            return draft
        draft = ask(draft, set(_doubtful(record)) or NAMES)


def _examined(draft: Draft) -> Record:
    with shown() as record:
        asyncio.run(examine(draft.settings(), ("what was answered",), record))
    click.echo(summary(record))
    return record


def _doubtful(record: Record) -> Iterator[str]:
    """The answers that may be wrong."""
    for step, failed in record.failures.items():
        if step.startswith("token of "):
            yield from _OF_RESULTS.get(failed.result, _PROVIDER)
        else:
            yield from next((names for start, names in _OF_STEPS.items() if step.startswith(start)), ())
