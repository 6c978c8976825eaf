"""`thg-proxy wait` as its users call it: a process, its exit code and its lines."""

import json
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import UnixStreamServer
from threading import Thread
from typing import ClassVar

import pytest

from tests.peers import free_port

Reply = tuple[int, bytes]


def reply(status: int, state: str, reason: str) -> Reply:
    return status, json.dumps({"ready": status == 200, "status": state, "reason": reason}).encode()


READY = reply(200, "ok", "There is a usable token.")
STARTING = reply(503, "starting", "No token has been obtained yet.")
REFUSED = reply(503, "starting", "The last token request failed: invalid_client.")


class AdminPort(BaseHTTPRequestHandler):
    """Answers `/readyz` with one reply after another; the last one stays."""

    script: ClassVar[list[Reply]]

    def do_GET(self) -> None:
        assert self.path == "/readyz"
        status, body = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(server: HTTPServer | UnixStreamServer) -> Iterator[None]:
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def scripted(*script: Reply) -> type[AdminPort]:
    return type("Scripted", (AdminPort,), {"script": list(script)})


@contextmanager
def admin_port(*script: Reply) -> Iterator[str]:
    """The URL of an admin port that gives these answers."""
    server = HTTPServer(("127.0.0.1", 0), scripted(*script))
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "proxy", "wait", *arguments]


def wait(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("THG_PROXY")}
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, env=clean | environ)


def test_ready_proxy_is_not_waited_for() -> None:
    """A proxy that is ready ends the wait at once, with exit code 0 and nothing on stderr."""
    with admin_port(READY) as url:
        done = wait("--admin", url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")


def test_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    """A proxy that has not made its socket yet is one that is waited for."""
    done = wait("--admin", f"unix:{tmp_path}/admin.sock", "--timeout", "0s")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"not ready after 0s: no answer from unix:{tmp_path}/admin.sock (FileNotFoundError)\n"


def test_wait_ends_when_the_proxy_becomes_ready() -> None:
    """Off a terminal each new reason is one plain line, until the proxy is ready."""
    with admin_port(STARTING, STARTING, REFUSED, READY) as url:
        done = wait("--admin", url)
    assert (done.returncode, done.stdout) == (0, "ready\n")
    assert done.stderr.splitlines() == [
        "waiting: No token has been obtained yet.",
        "waiting: The last token request failed: invalid_client.",
    ]


def test_timeout_is_exit_code_3_with_the_last_reason() -> None:
    """At the timeout the exit code is 3, and the last line says why."""
    with admin_port(REFUSED) as url:
        done = wait("--admin", url, "--timeout", "300ms")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1] == "not ready after 300ms: The last token request failed: invalid_client."


def test_nothing_listens() -> None:
    """A proxy that is not there yet is waited for like one that is not ready."""
    port = free_port()
    done = wait("--admin", f"http://127.0.0.1:{port}", "--timeout", "0s")
    assert done.returncode == 3
    assert done.stderr == f"not ready after 0s: nothing listens on 127.0.0.1:{port}\n"


def test_a_server_that_stays_silent() -> None:
    """A listener that never answers does not hold the command beyond its timeout."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        done = wait("--admin", f"http://127.0.0.1:{server.getsockname()[1]}", "--timeout", "0s")
    assert done.returncode == 3
    assert "(TimeoutError)" in done.stderr


@pytest.mark.parametrize("body", [b"not JSON", b"[]", b"\xff", b"{}"])
def test_another_server_on_the_port(body: bytes) -> None:
    """Whatever answers, the command ends with one line and no traceback."""
    with admin_port((404, body)) as url:
        done = wait("--admin", url, "--timeout", "0s")
    assert done.returncode == 3
    assert re.fullmatch(r"not ready after 0s: 127\.0\.0\.1:\d+ answers 404\n", done.stderr)


def test_reason_stays_on_its_line() -> None:
    """What the port says is escaped before it reaches a terminal or a log (R151)."""
    with admin_port(reply(503, "x", "a\r\n\x1b[2J" + "b" * 1000)) as url:
        done = wait("--admin", url, "--timeout", "0s")
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert len(line) < 300


@pytest.mark.parametrize("prefix", ["", "http://"])
def test_address_comes_from_the_environment(prefix: str) -> None:
    """The variable that configures the proxy's admin port also tells `wait` where it is."""
    with admin_port(READY) as url:
        done = wait(THG_PROXY__ADMIN__ADDRESS=prefix + url.removeprefix("http://"))
    assert done.returncode == 0


@pytest.mark.parametrize("named", ["-c", "THG_PROXY_CONFIG", "usual place"])
def test_address_comes_from_the_configuration(tmp_path: Path, named: str) -> None:
    """`wait` finds the proxy by the configuration that the proxy has, however much is wrong with the rest of that."""
    path = tmp_path / "thg-proxy.yaml"
    with admin_port(READY) as url:
        path.write_text(
            f"admin: {{address: '{url.removeprefix('http://')}'}}\noauth: {{token_url: 'https://idp.example'}}"
        )
        options = ["-c", str(path)] if named == "-c" else []
        environ = {"THG_PROXY_CONFIG": str(path)} if named == "THG_PROXY_CONFIG" else {}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("THG_")}
        environ |= {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command("--timeout", "5s", *options), cwd=tmp_path, env=clean | environ, check=False)
    assert done.returncode == 0


def test_a_configuration_that_is_wrong(tmp_path: Path) -> None:
    """What is wrong with a file that is named is said; else the usual address is asked."""
    path = tmp_path / "wrong.yaml"
    path.write_text("nonsense: 1")
    assert wait("-c", str(path)).returncode == 2
    assert "127.0.0.1:9090" in wait("--timeout", "0s", THG_PROXY_CONFIG=str(path)).stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])
def test_wildcard_address_is_asked_on_loopback(host: str) -> None:
    """A proxy that listens on every address is asked on this machine's own."""
    with admin_port(READY) as url:
        done = wait(THG_PROXY__ADMIN__ADDRESS=f"{host}:{url.rpartition(':')[2]}")
    assert done.returncode == 0


def test_admin_port_on_a_unix_socket(tmp_path: Path) -> None:
    """The admin port may be a Unix socket."""
    path = str(tmp_path / "admin.sock")
    with running(UnixStreamServer(path, scripted(READY))):
        assert wait("--admin", f"unix:{path}").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--admin", "http://localhost"],
        ["--admin", "ftp://localhost:1"],
        ["--timeout", "soon"],
        ["--timeout", "-1s"],
        ["unexpected"],
    ],
)
def test_bad_usage_is_exit_code_2(arguments: list[str]) -> None:
    """A wrong argument is exit code 2, as everywhere."""
    assert wait(*arguments).returncode == 2


def read_all(terminal: int) -> str:
    chunks: list[bytes] = []
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # Linux reports a terminal that the process has left as EIO
            chunk = b""
        if not chunk:
            return b"".join(chunks).decode()
        chunks.append(chunk)


def last_screen_line(shown: Iterable[str]) -> str:
    return [line.rpartition("\r\x1b[K")[2] for line in shown if line][-1]


def test_terminal_shows_one_line_that_changes() -> None:
    """On a terminal one line is rewritten as the reason changes, and is gone at the end."""
    master, slave = pty.openpty()
    with admin_port(STARTING, REFUSED, READY) as url:
        process = subprocess.Popen(command("--admin", url), stdout=slave, stderr=slave)
        os.close(slave)
        shown = read_all(master)
        assert process.wait() == 0
    os.close(master)
    assert re.search(r"\r\x1b\[Kwaiting \ds: No token has been obtained yet\.\r", shown)
    assert re.search(r"\r\x1b\[Kwaiting \ds: The last token request failed: invalid_client\.\r", shown)
    assert last_screen_line(shown.split("\r\n")) == "ready"


@pytest.mark.uncounted
def test_it_starts_without_the_engine() -> None:
    """A HEALTHCHECK runs every few seconds: what serves requests is not loaded for it."""
    code = "import sys, proxy.cli.wait; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"aiohttp", "asyncio", "authlib", "cryptography", "prometheus_client", "uvloop", "yaml"} & set(loaded)
