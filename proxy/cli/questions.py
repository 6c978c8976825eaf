"""What `thg-proxy init` asks."""

from collections.abc import Collection
from typing import NamedTuple

import click
from msgspec.structs import replace

from proxy.config.draft import Draft
from proxy.core.secret import Secret

# Takes an answer back that need not be given.
_NONE = "-"


class Question(NamedTuple):
    """`name`: of the answer in a Draft. `hint`: is said before the question where there is no answer yet."""

    name: str
    text: str
    hint: str | None = None
    is_needed: bool = True
    is_secret: bool = False


_TOKEN_URL = Question(
    "token_url",
    "URL of the token endpoint (nothing: the issuer names it)",
    "The token endpoint of the testing environment is https://hydra.nxtlabs.online/oauth2/token.",
    is_needed=False,
)
_ISSUER = Question("issuer", "URL of the issuer")
_QUESTIONS = (
    Question("upstream_url", "URL of the API"),
    _TOKEN_URL,
    _ISSUER,
    Question("client_id", "Client id", "Id and secret come from the Customer Portal, API Settings."),
    Question("client_secret", "Client secret (it is not shown)", is_secret=True),
    Question("scope", "Scope (may be nothing)", is_needed=False),
)
NAMES = tuple(question.name for question in _QUESTIONS)


def ask(draft: Draft, names: Collection[str]) -> Draft:
    """The draft with answers to these questions, each of which is asked until its answer can be used."""
    for question in _QUESTIONS:
        if question.name not in names:
            continue
        if question is _ISSUER and draft.token_url is not None:
            draft = replace(draft, issuer=None)
        else:
            draft = _answered(draft, question)
    return draft


def _answered(draft: Draft, question: Question) -> Draft:
    before = getattr(draft, question.name)
    if question.hint and not before:
        click.echo(question.hint)
    while True:
        changed = replace(draft, **{question.name: _prompt(question, before)})
        fault = changed.fault(question.name)
        if fault is None or (question is _TOKEN_URL and changed.token_url is None):
            return changed
        click.echo(f"That {fault}.")


def _prompt(question: Question, before: str | Secret | None) -> str | Secret | None:
    """`before`: the answer that Enter gives again."""
    if isinstance(before, Secret) or question.is_secret:
        return _prompt_secret(question, before.reveal() if isinstance(before, Secret) else None)
    text = question.text
    if before and not question.is_needed:
        text = f"{text.partition(' (')[0]} ({_NONE} for nothing)"
    default = before or (None if question.is_needed else "")
    answer: str = click.prompt(text, default=default, show_default=bool(before))
    answer = answer.strip()
    return None if answer in ("", _NONE) and not question.is_needed else answer


def _prompt_secret(question: Question, before: str | None) -> Secret:
    text = f"{question.text.removesuffix(')')}; Enter for the same)" if before else question.text
    return Secret(click.prompt(text, default=before, show_default=False, hide_input=True))
