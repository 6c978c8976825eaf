from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main

CONFIG = Path(__file__).parents[2] / "config"
CREDENTIALS = {"THG_CLIENT_ID": "id", "THG_CLIENT_SECRET": "s3cr3t"}
CANARY = "c4n4ry"

Check = Callable[..., Result]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """`thg-proxy check` in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, environ: dict[str, str] = CREDENTIALS) -> Result:
        return CliRunner().invoke(main, ["check", *arguments], env=environ)

    return run


def test_good(check: Check) -> None:
    """A good configuration is OK, with where it came from, and exit code 0."""
    result = check("-c", str(CONFIG / "thg-proxy.yaml"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"OK: {CONFIG / 'thg-proxy.yaml'}\n"


def test_sources(check: Check) -> None:
    """Values from the environment and the command line are counted, so that a stray one is noticed."""
    environ = CREDENTIALS | {"THG_PROXY__OAUTH__TOKEN_URL": "https://idp.example"}
    result = check("--set", "log.level=debug", "--set", "log.access=all", environ=environ)
    assert result.stdout == "OK: defaults, 1 value from the environment, 2 values from --set\n"


def test_bad(check: Check, tmp_path: Path) -> None:
    """Every problem is a line on stderr, none of them a traceback, and the exit code is 2 (R165)."""
    (tmp_path / "thg-proxy.yaml").write_text("upstream: {url: http://api.example}\nworkers: no\n")
    result = check()
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "workers",
        "upstream.url",
        "oauth.token_url",
    ]


def test_print(check: Check, tmp_path: Path) -> None:
    """--print shows every value with its origin, and masks what may be secret (R146)."""
    path = tmp_path / "thg-proxy.yaml"
    path.write_text(f"""
oauth:
  token_url: http://127.0.0.1:4444/token
  clients: [{{client_id: {CANARY}, client_secret: {CANARY}}}, {{name: next, client_secret: {{env: OTHER}}}}]
  params: {{key: {CANARY}}}
  scope: "a b"
upstream: {{headers: {{set: {{X-Key: {CANARY}}}}}}}
policy: {{require_header: {{name: X-Local, value: {CANARY}}}, allow: [{{path: '/v1/*', methods: [GET]}}]}}
""")
    result = check("--print", "--set", "limits.max_body=10MiB", environ=CREDENTIALS | {"OTHER": CANARY})
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for line in [
        "oauth.token_url: http://127.0.0.1:4444/token  # thg-proxy.yaml:3",
        "oauth.clients[0].client_secret: ***  # thg-proxy.yaml:4",
        "oauth.clients[1].client_secret: {env: OTHER}  # thg-proxy.yaml:4",
        "oauth.params.key: ***  # thg-proxy.yaml:5",
        'oauth.scope: "a b"  # thg-proxy.yaml:6',
        "upstream.headers.set.X-Key: ***  # thg-proxy.yaml:7",
        "policy.require_header.value: ***  # thg-proxy.yaml:8",
        "policy.allow[0].methods: [GET]  # thg-proxy.yaml:8",
        "limits.max_body: 10MiB  # --set",
        "limits.replay_body: 64KiB  # default",
        'policy.allowed_hosts: [localhost, 127.0.0.1, "[::1]"]  # default',
        "listen.unsafe: false  # default",
        "upstream.egress_proxy: null  # default",
    ]:
        assert line in lines
    assert CANARY not in result.output


@pytest.mark.parametrize("url", ["redis://:{}@cache:6379/0", "rediss://{}:{}@cache?ssl_ca_certs=/ca.pem"])
def test_password_in_a_url(check: Check, url: str) -> None:
    """--print shows where the token store is, without the user name and the password in its URL (R146)."""
    store = {
        "THG_PROXY__OAUTH__STORE": url.format(CANARY, CANARY),
        "THG_PROXY__OAUTH__TOKEN_URL": "https://idp.example",
    }
    result = check("--print", environ=CREDENTIALS | store)
    assert f"oauth.store: {url.partition('://')[0]}://***@cache" in result.stdout
    assert CANARY not in result.output


def test_secret_as_an_option(check: Check) -> None:
    """There is no option for a secret, and the attempt does not repeat it (R147)."""
    result = check(f"--client-secret={CANARY}")
    assert result.exit_code == 2
    assert CANARY not in result.output


def test_help() -> None:
    """--help names every command with what it does."""
    lines = CliRunner().invoke(main, ["--help"]).stdout.splitlines()
    commands = dict(line.split(maxsplit=1) for line in lines[lines.index("Commands:") + 1 :])
    assert list(commands) == ["run", "demo", "init", "check", "doctor", "token", "schema", "wait", "stop"]
    assert all(commands.values())


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["nonsense"], ["check", "nonsense"]])
def test_usage(arguments: list[str]) -> None:
    """Bad usage ends with exit code 2 and a hint."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.output
