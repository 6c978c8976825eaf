"""Starting, probing and stopping."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from proxy.demo import faults
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, clean_environment, until
from tests.peers import OK, TIMEOUT, Slow, Upstream, free_port, request


def test_probes(proxy: Proxy) -> None:
    """A proxy with a token is live, started and ready, and says so in JSON (R163)."""
    assert [proxy.admin(path)[0] for path in ("/livez", "/startupz", "/readyz")] == [200] * 3
    ready = json.loads(proxy.admin("/readyz")[1])
    assert (ready["ready"], ready["status"]) == (True, "ok")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_lets_requests_end(launch: Launcher, upstream: Upstream, number: signal.Signals) -> None:
    """A signal ends the proxy with 0 once every request in flight has its whole answer (R162)."""
    slow = upstream.answer = Slow()
    proxy = launch(upstream)
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a"))
        upstream.wait_for(1)
        proxy.process.send_signal(number)
        until(lambda: json.loads(proxy.admin("/readyz")[1])["status"] == "stopping")
        until(lambda: refuses(proxy.port))
        slow.go_on.set()
        assert client.response().body == b"onetwo"

        assert proxy.process.wait(TIMEOUT) == 0


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT).close()
    except ConnectionRefusedError:
        return True
    return False


def test_stop_under_load(launch: Launcher, upstream: Upstream) -> None:
    """Clients that keep their connections get `Connection: close` with an answer, and no request fails (R162)."""
    proxy = launch(upstream)
    stopped = threading.Event()
    answers: list[tuple[int, bool]] = []

    def work() -> None:
        with proxy.connect() as client:
            while True:
                response = client.get()
                closing = response.values(b"Connection") == [b"close"]
                answers.append((response.status, closing))
                if closing:
                    return
                stopped.wait(0.02)  # the pace of the load

    workers = [threading.Thread(target=work) for _ in range(10)]
    for worker in workers:
        worker.start()
    upstream.wait_for(50)
    proxy.process.send_signal(signal.SIGTERM)
    for worker in workers:
        worker.join(TIMEOUT)

    assert proxy.process.wait(TIMEOUT) == 0
    assert {status for status, _ in answers} == {200}
    assert sum(closing for _, closing in answers) == 10


def test_grace_ends(launch: Launcher, upstream: Upstream) -> None:
    """What does not end within shutdown.grace is cut, and the exit is clean all the same (R162)."""
    silence = threading.Event()
    upstream.answer = lambda _received, _sock: silence.wait(TIMEOUT)
    proxy = launch(upstream, "shutdown.grace=300ms")
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a"))
        upstream.wait_for(1)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(TIMEOUT) == 0
        assert client.rest() == b""
    silence.set()


def test_signal_while_loading(launch: Launcher, upstream: Upstream, tmp_path: Path) -> None:
    """A SIGTERM before there is a loop is obeyed, too: the first process of a container would not see it (R162)."""
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys\n"
        "def hook(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'uvloop':\n"
        "        print('loading', flush=True)\n"
        "        signal.pause()\n"
        "sys.addaudithook(hook)\n"
    )
    root = Path(__file__).parents[2]
    process = launch.spawn(upstream, environment={"PYTHONPATH": f"{tmp_path}:{root}"})
    assert process.stdout is not None
    assert process.stdout.readline() == b"loading\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 0
    assert output == b""


def test_second_signal(launch: Launcher, upstream: Upstream) -> None:
    """A second signal does not wait for requests (R162)."""
    silence = threading.Event()
    upstream.answer = lambda _received, _sock: silence.wait(TIMEOUT)
    proxy = launch(upstream, "shutdown.grace=1h")
    with proxy.connect() as client:
        client.send(request(b"GET", b"/a"))
        upstream.wait_for(1)
        proxy.process.send_signal(signal.SIGTERM)
        until(lambda: json.loads(proxy.admin("/readyz")[1])["status"] == "stopping")
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(TIMEOUT) == 0
    silence.set()


def test_stop_before_the_first_token(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """A stop during a cold start is clean (F44)."""
    provider.faults.token = faults.hang
    proxy = launch(upstream, ready=False)
    until(lambda: len(provider.received) == 1)

    assert proxy.stop() == 0


def test_port_in_use(launch: Launcher, proxy: Proxy, upstream: Upstream) -> None:
    """A port that is taken is one clear sentence and exit code 1 (R165)."""
    process = launch.spawn(upstream, f"listen.address=127.0.0.1:{proxy.port}")
    _, errors = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 1
    assert b"listen.address" in errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    "override, key",
    [
        ("upstream.url=http://api.example", "upstream.url"),
        ("upstream.url=https://u:p@api.example", "upstream.url"),
        ("upstream.conect_timeout=1s", "upstream.conect_timeout"),
        ("listen.address=0.0.0.0:8080", "listen.address"),
        ("oauth.token_url=http://idp.example/token", "oauth.token_url"),
    ],
)
def test_bad_configuration(launch: Launcher, upstream: Upstream, override: str, key: str) -> None:
    """A configuration that can't be used is exit code 2 and a sentence that names the key (R41, R43, R165)."""
    process = launch.spawn(upstream, override)
    _, errors = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 2
    assert key.encode() in errors
    assert b"canary" not in errors
    assert b"Traceback" not in errors


def test_no_file_needed(launch: Launcher, provider: DemoProvider, upstream: Upstream, tmp_path: Path) -> None:
    """Token URL, id and secret in the environment are enough."""
    environment = clean_environment(provider) | {
        "THG_PROXY__OAUTH__TOKEN_URL": provider.token_url,
        "THG_PROXY__UPSTREAM__URL": upstream.url,
        "THG_PROXY__LISTEN__ADDRESS": "127.0.0.1:0",
        "THG_PROXY__ADMIN__ADDRESS": "127.0.0.1:0",
    }
    log_file = tmp_path / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "proxy", "run"], env=environment, cwd=tmp_path, stderr=log)
    proxy = Proxy(process, 0, 0, log_file)
    launch.started.append(proxy)
    proxy.find_ports()
    until(lambda: proxy.is_ready)
    with proxy.connect() as client:
        assert client.get().status == 200


def test_unix_socket(launch: Launcher, upstream: Upstream, tmp_path: Path) -> None:
    """The data port can be a Unix socket, which only its owner can open (R133)."""
    path = tmp_path / "proxy.sock"
    launch(upstream, f"listen.address=unix:{path}")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(str(path))
        sock.sendall(request(b"GET", b"/a"))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")

    assert path.stat().st_mode & 0o777 == 0o600


def test_status_shows_requests(proxy: Proxy) -> None:
    """/status has the recent requests, newest first, without queries."""
    with proxy.connect() as client:
        client.get(b"/one?secret=1")
        client.get(b"/two")
    recent = proxy.status()["recent"]

    assert [row["path"] for row in recent] == ["/two", "/one"]
    assert "secret" not in json.dumps(recent)


def test_metrics_count(proxy: Proxy, upstream: Upstream) -> None:
    """Requests, bytes, connections and failures are counted."""
    upstream.answer = OK
    with proxy.connect() as client:
        client.send(request(b"POST", b"/a", body=b"12345"))
        client.response()
        client.get(b"/#")

        until(lambda: proxy.metric("thg_proxy_request_duration_seconds_count") == 2)
        assert proxy.metric("thg_proxy_requests_total", method="POST", status="200", outcome="ok") == 1
        assert proxy.metric("thg_proxy_errors_total", code="bad_target") == 1
        assert proxy.metric("thg_proxy_request_bytes_total") == 5
        assert proxy.metric("thg_proxy_response_bytes_total") == 2
        assert proxy.metric("thg_proxy_upstream_connections", state="idle") == 1


def test_wait_command(proxy: Proxy) -> None:
    """`thg-proxy wait` ends with 0 when the proxy is ready, and with 3 when it does not become so."""
    ready = wait_command("--admin", f"http://127.0.0.1:{proxy.admin_port}")
    never = wait_command("--admin", f"http://127.0.0.1:{free_port()}", "--timeout", "200ms")

    assert (ready.returncode, never.returncode) == (0, 3)


def wait_command(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "proxy", "wait", *arguments], cwd=root, capture_output=True, timeout=TIMEOUT, check=False
    )


def test_head_on_probes(proxy: Proxy) -> None:
    """Probes may use HEAD."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.admin_port, timeout=TIMEOUT)
    connection.request("HEAD", "/readyz")
    assert connection.getresponse().status == 200
    connection.close()
