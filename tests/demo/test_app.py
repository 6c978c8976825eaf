"""The demo as a whole: the real command, used as it tells its users to use it."""

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest


@dataclass
class Demo:
    process: subprocess.Popen[str]
    said: dict[str, str]
    log: Path
    directory: Path

    def follow(self, name: str) -> tuple[int, bytes]:
        """The status and the body that the curl line of this name gets."""
        certificate = re.search(r"--cacert (\S+)", self.said[name])
        url = urlsplit(self.said[name].rpartition(" ")[2])
        assert url.hostname is not None
        if certificate is None:
            connection = HTTPConnection(url.hostname, url.port)
        else:
            context = ssl.create_default_context(cafile=certificate[1])
            connection = HTTPSConnection(url.hostname, url.port, context=context)
        connection.request("GET", url.path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, body


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    log, directory = tmp_path / "log", tmp_path / "temporary"
    directory.mkdir()
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "proxy", "demo", "--port", "0", "--admin-port", "0"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TMPDIR": str(directory)},
        ) as process,
    ):
        said = _read_until_the_end(process)
        yield Demo(process, said, log, directory)
        process.kill()


def _read_until_the_end(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    said = {}
    for line in process.stdout:
        name, _, text = line.rstrip().partition("  ")
        said[name] = text.lstrip()
        if name == "stop it":
            break
    return said


def test_the_printed_lines_work(demo: Demo) -> None:
    """Each printed curl line does what it says: the proxy opens the API that refuses everybody else (R65, R70)."""
    assert "stop it" in demo.said, demo.log.read_text()
    status, body = demo.follow("try it")
    assert (status, b"vehicles" in body) == (200, True)
    status, body = demo.follow("what arrived")
    assert (status, b'["Authorization", "Bearer ***"]' in body) == (200, True)
    assert demo.follow("without it: 401")[0] == 401
    for name in ("state", "readiness", "metrics"):
        assert demo.follow(name)[0] == 200


def test_a_signal_ends_it_and_nothing_stays(demo: Demo) -> None:
    """SIGTERM ends the demo with 0, and its keys and certificates are gone (R162)."""
    assert Path(demo.said["CA"].split()[0]).is_relative_to(demo.directory)
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait() == 0
    assert not list(demo.directory.iterdir())


def test_plain_output_off_a_terminal(demo: Demo) -> None:
    """What is printed into a pipe has no colours."""
    assert not any("\x1b" in name + text for name, text in demo.said.items())


@pytest.mark.uncounted
def test_nowhere_to_write() -> None:
    """Without a place for temporary files the demo says what it needs, in one sentence (R165)."""
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0 && exec "$@"', "sh", sys.executable, "-m", "proxy", "demo", "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "the demo needs a directory for temporary files; set TMPDIR to one it can write to"
    ]
