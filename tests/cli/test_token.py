"""`thg-proxy token` against a real provider."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.demo import faults
from proxy.demo.authorization import Client
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import clean_environment

Token = Callable[..., Result]


@pytest.fixture
def token(provider: DemoProvider) -> Token:
    environ = clean_environment(provider)

    def run(*arguments: str, **more: str) -> Result:
        command = ["token", f"--set=oauth.token_url={provider.token_url}", *arguments]
        return CliRunner().invoke(main, command, env=environ | more)

    return run


def test_token(token: Token, provider: DemoProvider) -> None:
    """Header and claims are printed as one JSON document; the signature, without which it is no token, is masked."""
    result = token("--set=oauth.scope=fleet.read")
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["header"]["alg"] == "RS256"
    assert document["claims"]["iss"] == provider.issuer
    assert (document["client"], document["scope"], document["signature"]) == ("primary", "fleet.read", "***")
    assert 86390 < document["expires_in"] <= 86400
    assert provider.tokens[-1].rpartition(".")[2] not in result.output


def test_raw(token: Token, provider: DemoProvider) -> None:
    """--raw prints the token and a line end, and nothing else anywhere."""
    result = token("--raw")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{provider.tokens[-1]}\n", "")


def test_opaque(token: Token, provider: DemoProvider) -> None:
    """Of an opaque token, what the provider says is printed, and the token is not."""
    provider.faults.response = {"access_token": "canary-opaque", "expires_in": 60, "scope": "fleet.read"}
    result = token()
    assert json.loads(result.stdout) == {
        "client": "primary",
        "expires_in": 60,
        "scope": "fleet.read",
        "header": None,
        "claims": None,
        "signature": None,
    }
    assert "canary" not in result.output
    assert token("--raw").stdout == "canary-opaque\n"


def test_words_of_a_token(token: Token, provider: DemoProvider) -> None:
    """What a token says can't move the cursor or break a line: it is JSON in ASCII (R151)."""
    provider.faults.claims = {"sub": "\x1b[2J\u202e"}
    output = token().stdout
    assert output.isascii()
    assert "\x1b" not in output
    assert json.loads(output)["claims"]["sub"] == "\x1b[2J\u202e"


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_failure(token: Token, provider: DemoProvider, raw: list[str]) -> None:
    """Without a token, stdout stays empty; stderr has the cause and what to do, and the exit code is 1."""
    provider.faults.token = faults.answer(400, b'{"error": "invalid_scope"}')
    result = token(*raw)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("primary: invalid_scope: status 400")
    assert "oauth.scope" in result.stderr


SECOND = "{name: second, client_id: {env: SECOND_ID}, client_secret: {env: SECOND_SECRET}}"


@pytest.mark.parametrize("clients", [f"[{{client_secret: {{env: NOT_SET}}}}, {SECOND}]", f"[{{}}, {SECOND}]"])
def test_first_client_that_works(token: Token, provider: DemoProvider, clients: str) -> None:
    """A client that does not work is reported, and the next one is asked."""
    provider.clients["second"] = Client("second", "canary-second")
    result = token(
        f"--set=oauth.clients={clients}",
        "--raw",
        THG_CLIENT_SECRET="canary-wrong",
        SECOND_ID="second",
        SECOND_SECRET="canary-second",
    )
    assert (result.exit_code, result.stdout) == (0, f"{provider.tokens[-1]}\n")
    assert result.stderr.startswith("primary: ")
    assert "canary" not in result.stderr


def test_bad_configuration(token: Token) -> None:
    """A configuration that can't be used is exit code 2, as everywhere (R165)."""
    result = token("--set", "log.level=loud")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("log.level: must be one of")
