"""What `thg-proxy doctor` prints: a table for a person, a document for a ticket. What it finds is in tests/doctor."""

import json
import os
import platform
import pty
import re
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__
from proxy.demo import faults
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import clean_environment
from tests.cli.test_wait import read_all
from tests.peers import Upstream

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def command(provider: DemoProvider, upstream: Upstream, *arguments: str) -> list[str]:
    settings = [f"--set=oauth.token_url={provider.token_url}", f"--set=upstream.url=http://127.0.0.1:{upstream.port}"]
    return [sys.executable, "-m", "proxy", "doctor", *settings, *arguments]


@pytest.fixture
def run(provider: DemoProvider, upstream: Upstream, tmp_path: Path) -> "Run":
    return Run(provider, upstream, tmp_path)


class Run:
    def __init__(self, provider: DemoProvider, upstream: Upstream, directory: Path) -> None:
        self.provider = provider
        self.upstream = upstream
        self.directory = directory

    def __call__(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(self.provider, self.upstream, *arguments),
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
            env=clean_environment(self.provider) | environ,
        )

    def on_a_terminal(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """The exit code and all that is shown."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            command(self.provider, self.upstream, *arguments),
            stdout=slave,
            stderr=slave,
            cwd=self.directory,
            env=clean_environment(self.provider) | environ,
        )
        os.close(slave)
        shown = read_all(master)
        os.close(master)
        return process.wait(), shown


def test_table(run: Run) -> None:
    """A step is a line with its mark, its name, its time and what was found; the last line sums up."""
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    *steps, summary = done.stdout.splitlines()
    assert re.fullmatch(r"✓ configuration {10} +\d+ ms  defaults", steps[0])
    assert re.fullmatch(r" {35}2 values from --set", steps[1])
    assert re.fullmatch(
        r"✓ secret of primary {4} +\d+ ms  client_id \{env: THG_CLIENT_ID\}, client_secret .*", steps[2]
    )
    assert summary == "All 11 steps succeeded."


def test_failure(run: Run) -> None:
    """A step that fails has its cause and, below what was found, the next thing to do; the exit code is 3."""
    run.provider.faults.token = faults.answer(404, b"<html>")
    done = run()
    assert (done.returncode, done.stderr) == (3, "")
    lines = done.stdout.splitlines()
    (index,) = (index for index, line in enumerate(lines) if line.startswith("✗"))
    assert re.fullmatch(r"✗ token of primary +\d+ ms  invalid_response: status 404; the body is not JSON", lines[index])
    assert lines[index + 1].strip().startswith("Next: Check that oauth.token_url is the token endpoint")
    assert lines[-1] == "1 of 7 steps failed. What needs what they give was not tried."


def test_document(run: Run) -> None:
    """--json is one document with the versions, for a ticket; nothing in it is secret."""
    run.provider.faults.token = faults.answer(404)
    done = run("--json")
    assert (done.returncode, done.stderr) == (3, "")
    document = json.loads(done.stdout)
    assert list(document) == ["time", "versions", "ok", "steps"]
    assert document["versions"] == {
        "thg-proxy": __version__,
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "system": platform.platform(),
    }
    assert document["ok"] is False
    assert all(list(step) == ["step", "ok", "seconds", "found", "cause", "next"] for step in document["steps"])
    assert [step["step"] for step in document["steps"] if not step["ok"]] == ["token of primary"]
    assert "canary" not in done.stdout


def test_terminal(run: Run) -> None:
    """On a terminal the marks have a colour, and what is being done is shown while it lasts."""
    code, shown = run.on_a_terminal()
    assert code == 0
    assert "\x1b[32m✓\x1b[0m configuration" in shown
    assert "\r\x1b[Ktoken of primary ...\r\x1b[K\x1b[32m✓\x1b[0m token of primary" in shown
    lines = [line.rpartition("\r\x1b[K")[2] for line in shown.split("\r\n")]
    assert not [line for line in lines if line.endswith("...")]
    assert "canary" not in shown


def test_document_on_a_terminal(run: Run) -> None:
    """The document is whole where both streams are one terminal."""
    code, shown = run.on_a_terminal("--json")
    assert code == 0
    assert json.loads(shown[shown.index("{\r\n") :])["ok"]


def test_no_color(run: Run) -> None:
    """NO_COLOR leaves the colours out, and nothing else."""
    _, shown = run.on_a_terminal(NO_COLOR="1")
    assert "✓ configuration" in shown
    assert not COLOUR.search(shown)


def test_code_page_without_a_tick(run: Run) -> None:
    """A stream that can't say ✓ gets its escape."""
    done = run(PYTHONIOENCODING="cp1252")
    assert done.returncode == 0
    assert done.stdout.startswith("\\u2713 configuration")


@pytest.mark.parametrize("target", ["v1/vehicles", "", "/a#b", "/ä", "/a b", "/a\r\nX: y", "https://api.example/"])
def test_bad_path(run: Run, target: str) -> None:
    """A path is what a request could ask for."""
    done = run(f"--get={target}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Invalid value for '--get'" in done.stderr


def test_bad_configuration(run: Run) -> None:
    """A configuration that can't be used is exit code 2 and its problems, before anything is tried (R165)."""
    done = run("--set=log.level=loud")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("log.level: must be one of")


def test_file_that_is_no_certificate(run: Run) -> None:
    """A file of CAs that can't be loaded is a fault of the configuration."""
    (run.directory / "ca.pem").write_text("no PEM")
    done = run("--set=upstream.tls.ca_file=ca.pem")
    assert done.returncode == 2
    assert done.stderr.startswith("upstream.tls: a file can't be loaded")


def test_unreadable_secret(run: Run) -> None:
    """A secret that can't be read is one step that fails, and no fault of the configuration."""
    done = run("--set=oauth.clients=[{client_secret: {file: nowhere}}]")
    assert done.returncode == 3
    assert "ms  the file nowhere can't be read: No such file or directory\n" in done.stdout
