"""`thg-proxy init` as a person meets it, on a terminal, and as a script does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.demo import faults
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Backstage, until
from tests.cli.terminals import Terminal
from tests.peers import Upstream
from tests.secret_service import secret_service

SECRET = "canary-6f1d9c0b"
ROOT = Path(__file__).parents[2]
QUESTIONS = ("URL of the API", "URL of the token endpoint", "Client id", "Client secret", "Scope")


class Home:
    """A user who has nothing yet."""

    def __init__(self, directory: Path, provider: DemoProvider, upstream: Upstream) -> None:
        self.directory = directory
        self.config = directory / ".config/thg-proxy/config.yaml"
        self.secret = directory / ".config/thg-proxy/config.yaml.secret"
        (client,) = provider.clients.values()
        self.answers = dict(
            zip(QUESTIONS, (upstream.url, provider.token_url, client.client_id, SECRET, "fleet.read"), strict=True)
        )
        self.environ = {
            "HOME": str(directory),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
        }

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.rglob("*"))

    def terminal(self, *options: str, **environ: str) -> Terminal:
        command = (sys.executable, "-m", "proxy", "init", *options)
        return Terminal(command, self.directory, self.environ | environ)

    def script(self, *options: str, stdin: str = SECRET, command: str = "init") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", command, *options],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
            env=self.environ,
        )
        assert SECRET not in done.stdout + done.stderr
        return done

    @property
    def options(self) -> tuple[str, ...]:
        """Everything but the secret."""
        answers = self.answers
        return (
            f"--upstream-url={answers['URL of the API']}",
            f"--token-url={answers['URL of the token endpoint']}",
            f"--client-id={answers['Client id']}",
        )


@pytest.fixture
def home(tmp_path: Path, provider: DemoProvider, upstream: Upstream) -> Home:
    directory = tmp_path / "home"
    directory.mkdir()
    return Home(directory, provider, upstream)


def test_questions(home: Home) -> None:
    """A few questions, a trial, and two files that only this user can read: the proxy runs with them (R147, R148)."""
    with home.terminal() as terminal:
        for question, answer in home.answers.items():
            terminal.answer(question, answer)
        assert terminal.end() == 0
    shown = terminal.shown
    assert SECRET not in shown
    assert (
        f"{home.config} is written. The secret is in {home.secret}, which only you can read; not in the keyring: "
        in shown
    )
    assert shown.endswith("Go on with:\r\n  thg-proxy run\r\n  curl http://127.0.0.1:8080/\r\n")
    assert home.files == [".config", "config.yaml", "config.yaml.secret", "thg-proxy"]
    assert SECRET not in home.config.read_text()
    assert home.secret.read_text() == f"{SECRET}\n"
    assert {path.stat().st_mode & 0o777 for path in (home.config, home.secret)} == {0o600}

    done = home.script(command="doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"✓ configuration {home.config}" in re.sub(r" +\d+ ms ", "", done.stdout)
    assert "scope asked fleet.read" in done.stdout


def test_keyring(home: Home) -> None:
    """Where there is a keyring, the secret is in it, and in no file; the proxy finds it there (R147)."""
    with secret_service() as session, session.logged_in():
        home.environ |= {"DBUS_SESSION_BUS_ADDRESS": session.environment["DBUS_SESSION_BUS_ADDRESS"]}
        del home.environ["PYTHON_KEYRING_BACKEND"]
        with home.terminal(*home.options) as terminal:
            terminal.answer("Client secret", SECRET)
            terminal.answer("Scope", "")
            assert terminal.end() == 0
        assert "The secret is in the keyring: {keyring: thg-proxy/demo@127.0.0.1}." in terminal.shown
        assert home.files == [".config", "config.yaml", "thg-proxy"]
        assert session.get("thg-proxy", "demo@127.0.0.1") == SECRET
        assert home.script(command="doctor").returncode == 0
        session.lock()
        done = home.script(command="check")
        assert done.returncode == 2
        assert "oauth.clients[0].client_secret: the keyring is locked, or can't be opened; unlock it" in done.stderr


def test_locked_keyring(home: Home) -> None:
    """A keyring that nobody unlocks is no obstacle: the secret is in a file then, and it is said why."""
    home.environ["PYTHON_KEYRING_BACKEND"] = "tests.keyrings.Locked"
    done = home.script(*home.options)
    assert done.returncode == 0
    assert "not in the keyring: the keyring is locked" in done.stdout
    assert home.secret.exists()


def test_script(home: Home) -> None:
    """Without a terminal the options are the answers, and the secret is what is piped in."""
    done = home.script(*home.options, stdin=f"{SECRET}\r\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert home.secret.read_text() == f"{SECRET}\n"
    assert home.script(command="check").stdout.startswith(f"OK: {home.config}")


def test_another_file(home: Home) -> None:
    """A file that is named is written, and the command to go on with names it."""
    done = home.script(*home.options, "-c", "my own.yaml")
    assert done.returncode == 0
    assert home.files == ["my own.yaml", "my own.yaml.secret"]
    run = f"thg-proxy run -c '{home.directory}/my own.yaml'"
    assert f"  {run}\n" in done.stdout


@pytest.mark.parametrize(
    "options, stdin, fault",
    [
        (("--client-id=app",), SECRET, "Without a terminal, --token-url or --issuer is needed."),
        (("--token-url=https://idp.example",), SECRET, "Without a terminal, --client-id is needed."),
        (("--issuer=https://a.example", "--token-url=https://a.example"), SECRET, "exclude one another"),
        (("--upstream-url=http://api.example",), SECRET, "Invalid value for --upstream-url: must be https"),
        (("--scope=",), SECRET, "Invalid value for --scope: must be a line of text"),
        (("--client-secret=x",), SECRET, "No such option"),
        (("--client-id=a", "--issuer=https://a.example"), "", "what standard input holds is empty"),
        (
            ("--client-id=a", "--issuer=https://a.example"),
            "a\nb",
            "The secret on standard input must be a line of text",
        ),
    ],
)
def test_bad_usage(home: Home, options: tuple[str, ...], stdin: str, fault: str) -> None:
    """What a script lacks or gets wrong is exit code 2, before anything is tried; a secret is no option (R147)."""
    done = home.script(*options, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert fault in done.stderr
    assert home.files == []


def test_what_does_not_work(home: Home) -> None:
    """For a script, what does not work is exit code 3, with the cause, and nothing is written."""
    done = home.script(*home.options, stdin="wrong")
    assert done.returncode == 3
    assert "✗ token of primary" in done.stdout
    assert done.stderr == "Nothing is written.\n"
    assert home.files == []


def test_correction(home: Home) -> None:
    """On a terminal the answer that does not work is asked for again."""
    with home.terminal(*home.options) as terminal:
        terminal.answer("Client secret", "wrong")
        terminal.answer("Scope", "")
        terminal.answer("Write it all the same?", "")
        terminal.answer("Client id [demo]", "")
        terminal.answer("Client secret (it is not shown; Enter for the same)", SECRET)
        assert terminal.end() == 0
    assert home.secret.read_text() == f"{SECRET}\n"


def test_existing_file(home: Home) -> None:
    """What is there is replaced only by who says so; a script can't."""
    home.config.parent.mkdir(parents=True)
    home.config.write_text("mine")

    done = home.script(*home.options)
    assert done.returncode == 2
    assert done.stderr == f"{home.config}: there already; remove it, or name another file with -c\n"
    with home.terminal(*home.options) as terminal:
        terminal.answer(f"{home.config}: there already. Replace it?", "")
        assert terminal.end() == 1
    assert "Nothing is changed." in terminal.shown
    assert home.config.read_text() == "mine"

    with home.terminal(*home.options) as terminal:
        terminal.answer("Replace it?", "y")
        terminal.answer("Client secret", SECRET)
        terminal.answer("Scope", "")
        assert terminal.end() == 0
    assert "client_id: demo" in home.config.read_text()


def test_old_secret(home: Home) -> None:
    """A secret in a file that is not read any more is not forgotten."""
    assert home.script(*home.options).returncode == 0
    home.environ["PYTHON_KEYRING_BACKEND"] = "keyrings.alt.file.PlaintextKeyring"
    with home.terminal(*home.options) as terminal:
        terminal.answer(f"{home.config} and {home.secret}: there already. Replace it?", "y")
        terminal.answer("Client secret", SECRET)
        terminal.answer("Scope", "")
        assert terminal.end() == 0
    assert f"{home.secret} is not read any more: remove it." in terminal.shown


@pytest.mark.parametrize("question", QUESTIONS)
def test_interrupt(home: Home, question: str) -> None:
    """Ctrl-C at any question leaves nothing behind."""
    with home.terminal() as terminal:
        for earlier in QUESTIONS[: QUESTIONS.index(question)]:
            terminal.answer(earlier, home.answers[earlier])
        terminal.expect(question)
        terminal.interrupt()
        assert terminal.end() == 1
    assert terminal.shown.rstrip().endswith("Aborted!")
    assert "Traceback" not in terminal.shown
    assert home.files == []


def test_interrupted_trial(home: Home, provider: DemoProvider, backstage: Backstage) -> None:
    """Ctrl-C while the provider is asked, which does not answer, leaves nothing behind."""
    provider.faults.token = faults.hang
    with home.terminal(*home.options) as terminal:
        terminal.answer("Client secret", SECRET)
        terminal.answer("Scope", "")
        terminal.expect("token of primary ...")
        until(lambda: provider.requests)
        terminal.interrupt()
        assert terminal.end() == 1
    assert "Traceback" not in terminal.shown
    assert home.files == []


def test_interrupted_keyring(home: Home) -> None:
    """Ctrl-C while the keyring waits for its password leaves nothing behind."""
    with home.terminal(*home.options, PYTHON_KEYRING_BACKEND="tests.keyrings.Asking") as terminal:
        terminal.answer("Client secret", SECRET)
        terminal.answer("Scope", "")
        terminal.expect("the keyring may ask for its password ...")
        terminal.interrupt()
        assert terminal.end() == 1
    assert "Traceback" not in terminal.shown
    assert home.files == []


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_plain_terminal(home: Home, environ: dict[str, str]) -> None:
    """A terminal that knows no escape sequences is sent none, and no colour where none is wanted."""
    with home.terminal(*home.options, **environ) as terminal:
        terminal.answer("Client secret", SECRET)
        terminal.answer("Scope", "")
        assert terminal.end() == 0
    assert not re.search(r"\x1b\[[0-9;]*m", terminal.shown)
    assert ("\x1b" in terminal.shown) == ("TERM" not in environ)
    assert SECRET not in terminal.shown


def test_no_home(home: Home) -> None:
    """Where the environment names no home, a file must be named."""
    del home.environ["HOME"]
    done = home.script(*home.options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "neither XDG_CONFIG_HOME nor HOME is set: say by -c FILE what to write\n"
    assert home.script(*home.options, "-c", "a.yaml").returncode == 0
