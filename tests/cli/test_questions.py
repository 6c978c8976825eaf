import sys

import click
from click.testing import CliRunner
from msgspec.structs import replace

from proxy.cli.questions import NAMES, ask
from proxy.config.draft import Draft
from proxy.core.secret import Secret

FULL = Draft(token_url="https://idp.example/token", client_id="app", client_secret=Secret("canary"), scope="a b")


def asked(draft: Draft, *answers: str, names: tuple[str, ...] = NAMES) -> tuple[Draft, str]:
    """The draft after the answers, and what was shown. There are no answers left over."""
    drafts = []

    @click.command()
    def command() -> None:
        drafts.append(ask(draft, names))
        assert sys.stdin.read() == ""

    result = CliRunner().invoke(command, input="".join(f"{answer}\n" for answer in answers))
    assert result.exception is None, result.output
    assert "canary" not in result.output
    return drafts[0], result.output


def test_all_questions() -> None:
    """What is needed is asked for, and what comes of it is the draft; spaces around an answer are none of it."""
    draft, shown = asked(Draft(), "", "https://idp.example/token", " app ", "canary", "a b")
    assert draft == FULL
    assert [line.partition(":")[0] for line in shown.splitlines() if ": " in line] == [
        "URL of the API [https",
        "URL of the token endpoint (nothing",
        "Client id",
        "Client secret (it is not shown)",
        "Scope (may be nothing)",
    ]


def test_issuer() -> None:
    """Who does not know the token endpoint is asked for the issuer, which must be given then."""
    draft, _ = asked(Draft(), "", "", "", "https://idp.example", "app", "canary", "")
    assert draft == replace(FULL, token_url=None, issuer="https://idp.example", scope=None)


def test_enter_keeps_an_answer() -> None:
    """What was answered before is offered again, and the secret as well, which is not shown."""
    draft, shown = asked(FULL, "", "", "", "", "")
    assert draft == FULL
    assert "Client secret (it is not shown; Enter for the same): " in shown
    assert "Scope (- for nothing) [a b]: " in shown


def test_answer_is_taken_back() -> None:
    """What need not be given can be taken back; of token endpoint and issuer only one is kept."""
    draft, _ = asked(FULL, "-", "https://idp.example", "-", names=("token_url", "issuer", "scope"))
    assert draft == replace(FULL, token_url=None, issuer="https://idp.example", scope=None)
    draft, _ = asked(draft, "https://idp.example/t", names=("token_url", "issuer"))
    assert (draft.token_url, draft.issuer) == ("https://idp.example/t", None)


def test_bad_answer() -> None:
    """An answer that can't be used is said to be so, and the question comes again."""
    draft, shown = asked(
        Draft(), "http://api.example", "https://api.example", "", "a\x07b", "app", names=("upstream_url", "client_id")
    )
    assert (draft.upstream_url, draft.client_id) == ("https://api.example", "app")
    assert "That must be https; plain http is accepted only to a loopback address" in shown
    assert "That must be a line of text." in shown
