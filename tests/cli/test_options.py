import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from proxy import __version__
from proxy.cli import main
from proxy.cli.options import with_configuration
from proxy.config import Loaded

ROOT = Path(__file__).parents[2]
ENVIRON = {
    "THG_CLIENT_ID": "id",
    "THG_CLIENT_SECRET": "s3cr3t",
    "THG_PROXY__OAUTH__TOKEN_URL": "https://idp.example/token",
}


@click.command()
@click.option("--word")
@with_configuration
def tell(loaded: Loaded, word: str) -> None:
    click.echo(f"{word} {loaded.origin} {loaded.settings.log.level} {loaded.settings.log.access}")


def test_given(tmp_path: Path) -> None:
    """-c names the file and each --set one value; the command's own options stay as they are."""
    path = tmp_path / "thg.yaml"
    path.write_text("log: {level: debug, access: off}")
    for option in ("-c", "--config"):
        result = CliRunner().invoke(tell, [option, str(path), "--set", "log.access=all", "--word", "w"], env=ENVIRON)
        assert (result.exit_code, result.output) == (0, f"w {path} debug all\n")


def test_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes go to stderr, a line each, and do not keep the command from its work."""
    monkeypatch.chdir(tmp_path)
    unprotected = ["--set", "upstream.url=http://10.0.0.1", "--set", "upstream.insecure=true"]
    result = CliRunner().invoke(tell, unprotected, env=ENVIRON)
    assert result.exit_code == 0
    assert result.stderr == "note: upstream.insecure: the token is sent without encryption\n"
    assert result.stdout == "None defaults info errors\n"


def test_version() -> None:
    """--version prints the one version."""
    result = CliRunner().invoke(main, ["--version"])
    assert result.output == f"thg-proxy, version {__version__}\n"


def test_bad_configuration_of_run(tmp_path: Path) -> None:
    """`run` ends with 2 and the problems before anything is bound (R165)."""
    result = CliRunner().invoke(main, ["run", "-c", str(tmp_path / "nowhere.yaml")])
    assert (result.exit_code, result.stderr) == (2, f"{tmp_path}/nowhere.yaml: there is no such file\n")


def test_wait_is_light() -> None:
    """`wait`, which a health check starts every few seconds, loads neither the configuration nor the engine."""
    program = "import sys; from proxy.cli import main; main.get_command(None, 'wait'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "proxy.cli.wait" in loaded
    assert not {"yaml", "aiohttp", "authlib", "uvloop", "proxy.config"}.intersection(loaded)


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that finds `thg-proxy`."""
    script = tmp_path / "thg-proxy"
    script.write_text(f"#!{sys.executable}\nfrom proxy.cli import main\nmain()\n")
    script.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}


@pytest.mark.parametrize(
    "shell, typed",
    [
        ("bash", {"COMP_WORDS": "thg-proxy sto", "COMP_CWORD": "1"}),
        ("zsh", {"COMP_WORDS": "thg-proxy sto", "COMP_CWORD": "1"}),
        ("fish", {"COMP_WORDS": "thg-proxy sto", "COMP_CWORD": "sto"}),
    ],
)
def test_completion(installed: dict[str, str], shell: str, typed: dict[str, str]) -> None:
    """Each shell is given a script, and then the commands that begin with what is typed."""
    assert f"_THG_PROXY_COMPLETE={shell}_complete" in complete(installed, f"{shell}_source")
    answer = complete(installed | typed, f"{shell}_complete")
    assert "stop" in answer
    assert "doctor" not in answer


def complete(environ: dict[str, str], instruction: str) -> str:
    environ = environ | {"_THG_PROXY_COMPLETE": instruction}
    return subprocess.run(["thg-proxy"], env=environ, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "words, expected",
    [
        ("thg-proxy do", ["doctor"]),
        ("thg-proxy doctor --j", ["--json"]),
        ("thg-proxy token --", ["--config", "--help", "--raw", "--set"]),
    ],
)
def test_completion_in_bash(installed: dict[str, str], words: str, expected: list[str]) -> None:
    """The line for ~/.bashrc works in the shell that is here."""
    typed = words.split()
    program = f"""
set -eu
eval "$(_THG_PROXY_COMPLETE=bash_source thg-proxy)"
COMP_WORDS=({words}) COMP_CWORD={len(typed) - 1}
_thg_proxy_completion thg-proxy {typed[-1]} {typed[-2]}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", program], env=installed, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == expected
