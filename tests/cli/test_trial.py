import time

import click
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from proxy.cli.trial import tried
from proxy.config.draft import Draft
from proxy.core.secret import Secret
from proxy.demo import faults
from proxy.demo.authorization import Client
from proxy.demo.idp import DemoProvider
from proxy.demo.server import Handler
from tests.peers import Upstream, free_port, http_answer


@pytest.fixture
def draft(provider: DemoProvider, upstream: Upstream) -> Draft:
    """Answers that work."""
    (client,) = provider.clients.values()
    return Draft(
        upstream_url=upstream.url,
        token_url=provider.token_url,
        client_id=client.client_id,
        client_secret=Secret(client.client_secret),
    )


def trial(draft: Draft, *answers: str, is_asking: bool = True) -> tuple[Draft | None, str]:
    """What comes of the draft, and what is shown."""
    drafts = []

    @click.command()
    def command() -> None:
        drafts.append(tried(draft, is_asking=is_asking))

    result = CliRunner().invoke(command, input="".join(f"{answer}\n" for answer in answers))
    assert result.exception is None, result.output
    assert "canary" not in result.output
    return drafts[0], result.output


def questions(shown: str) -> list[str]:
    """Those that were asked, but for whether to write."""
    starts = ("URL of the API", "URL of the token endpoint", "URL of the issuer", "Client id", "Client secret", "Scope")
    return [start for line in shown.splitlines() for start in starts if line.startswith(start)]


def test_good_answers(draft: Draft) -> None:
    """Answers that work are tried once, and nothing is asked."""
    kept, shown = trial(draft)
    assert kept == draft
    assert "✓ token of primary" in shown
    assert "✓ upstream request" in shown
    assert questions(shown) == []


def refusing(error: str) -> Handler:
    return faults.answer(400, f'{{"error": "{error}"}}'.encode(), {"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "error, asked",
    [
        ("invalid_client", ["Client id", "Client secret"]),
        ("unauthorized_client", ["Client id", "Client secret"]),
        ("invalid_scope", ["Scope"]),
        ("unsupported_grant_type", ["URL of the token endpoint"]),
    ],
)
def test_refused_token_request(draft: Draft, provider: DemoProvider, error: str, asked: list[str]) -> None:
    """What the provider refuses is asked for again, and what works is left alone."""
    provider.faults.token = refusing(error)
    kept, shown = trial(draft, "n", *("" for _ in asked), "y")
    assert kept == draft
    assert f"{error}: status 400" in shown
    assert questions(shown) == asked


def test_corrected_answer(draft: Draft) -> None:
    """An answer that was wrong is tried again when it has been corrected."""
    kept, shown = trial(replace(draft, client_secret=Secret("wrong")), "n", "", draft.client_secret.reveal())
    assert kept == draft
    assert shown.count("✗ token of primary") == 1
    assert shown.count("✓ token of primary") == 1


@pytest.mark.parametrize(
    "name, asked", [("upstream_url", "URL of the API"), ("token_url", "URL of the token endpoint")]
)
def test_unreachable(draft: Draft, name: str, asked: str) -> None:
    """An address at which nobody answers is asked for again."""
    wrong = replace(draft, **{name: f"http://127.0.0.1:{free_port()}"})
    kept, shown = trial(wrong, "n", getattr(draft, name))
    assert kept == draft
    assert questions(shown) == [asked]


def test_unreachable_issuer(draft: Draft, provider: DemoProvider) -> None:
    """Of the two that lead to the provider the one that was given is offered again."""
    wrong = replace(draft, token_url=None, issuer=f"http://127.0.0.1:{free_port()}")
    kept, shown = trial(wrong, "n", "", provider.issuer)
    assert kept == replace(wrong, issuer=provider.issuer)
    assert questions(shown) == ["URL of the token endpoint", "URL of the issuer"]


def test_refused_by_the_api(draft: Draft, upstream: Upstream) -> None:
    """What the API does not accept may be a matter of the environment, or of the scope."""
    upstream.answer = http_answer(401, b"")
    kept, shown = trial(draft, "n", "", "", "", "y")
    assert kept == draft
    assert questions(shown) == ["URL of the API", "URL of the token endpoint", "Scope"]


def test_no_fault_of_an_answer(draft: Draft, provider: DemoProvider) -> None:
    """Where no answer seems to be wrong, all are offered."""
    provider.clock = lambda: time.time() + 3600
    kept, shown = trial(draft, "n", *("" for _ in range(5)), "y")
    assert kept == draft
    assert len(questions(shown)) == 5


def test_another_form_of_the_secret(draft: Draft, provider: DemoProvider) -> None:
    """The form in which the provider accepts the secret is found, and tried without a question (R73)."""
    provider.clients.clear()
    provider.clients["app"] = Client("app", "canary", auth_method="client_secret_post")
    draft = replace(draft, client_id="app", client_secret=Secret("canary"))
    kept, shown = trial(draft, is_asking=False)
    assert kept == replace(draft, auth_method="client_secret_post")
    assert "Once more, by oauth.auth_method: client_secret_post." in shown


def test_nobody_to_ask(draft: Draft) -> None:
    """Without a terminal a failure is the end."""
    kept, shown = trial(replace(draft, client_secret=Secret("wrong")), is_asking=False)
    assert kept is None
    assert "Write it all the same?" not in shown
