"""`thg-proxy stop` as its users call it: a process, its exit code and its one line."""

import os
import subprocess
import sys

import pytest

from tests.behaviour.running import Launcher, until
from tests.peers import TIMEOUT, Upstream, free_port, http_answer


def stop(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("THG_PROXY")}
    command = [sys.executable, "-m", "proxy", "stop", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=clean | environ)


def test_stop(launch: Launcher, upstream: Upstream) -> None:
    """A running proxy ends with exit code 0."""
    proxy = launch(upstream, "admin.allow_stop=true")
    done = stop("--admin", f"http://127.0.0.1:{proxy.admin_port}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopping\n", "")
    assert proxy.process.wait(TIMEOUT) == 0


def test_not_allowed(launch: Launcher, upstream: Upstream) -> None:
    """A proxy that may not be stopped goes on, and the key that would allow it is named."""
    proxy = launch(upstream)
    done = stop(THG_PROXY__ADMIN__ADDRESS=f"127.0.0.1:{proxy.admin_port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"127.0.0.1:{proxy.admin_port} does not stop: it is not allowed to be stopped:"
        " set admin.allow_stop: true in its configuration\n"
    )
    assert proxy.is_ready


def test_unix_socket(launch: Launcher, upstream: Upstream) -> None:
    """The admin port may be a Unix socket."""
    path = launch.directory / "admin.sock"
    process = launch.spawn(
        upstream, "admin.allow_stop=true", f"admin.address=unix:{path}", "listen.address=127.0.0.1:0"
    )
    with process:
        until(path.exists)
        assert until(lambda: stop("--admin", f"unix:{path}").returncode == 0)
        assert process.wait(TIMEOUT) == 0


def test_nothing_listens() -> None:
    """A proxy that is not there can't be stopped."""
    port = free_port()
    done = stop("--admin", f"http://127.0.0.1:{port}")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"nothing listens on 127.0.0.1:{port}\n")


@pytest.mark.parametrize(
    "status, body, said",
    [
        (403, b'{"code": "caller_refused"}', "it can be stopped only from its own machine or pod, on a loopback"),
        (421, b'{"code": "host_not_allowed", "detail": "The Host\\u001b[2J"}', "The Host\\x1b[2J"),
        (404, b"<html>", "it answers with status 404"),
        (200, b"{}", "it answers with status 200"),
    ],
)
def test_refused(status: int, body: bytes, said: str) -> None:
    """Why the proxy does not stop is one line, whatever answers (R151)."""
    with Upstream(answer=http_answer(status, body)) as admin:
        done = stop("--admin", f"http://127.0.0.1:{admin.port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"127.0.0.1:{admin.port} does not stop: {said}")
    assert done.stderr.rstrip("\n").isprintable()
    (received,) = admin.requests
    assert received.request_line == b"POST /stop HTTP/1.1"


@pytest.mark.parametrize("arguments", [["--admin", "http://localhost"], ["unexpected"]])
def test_bad_usage_is_exit_code_2(arguments: list[str]) -> None:
    """A wrong argument is exit code 2, as everywhere."""
    assert stop(*arguments).returncode == 2
