"""The metrics as operators get them: from a process under traffic, by promtool and by a real Prometheus."""

import re
import signal
import socket
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.core.lifecycle import MIN_INTERVAL
from proxy.demo.idp import DemoProvider
from tests.behaviour.prometheus import promtool, scraping
from tests.behaviour.running import Launcher, Proxy, until
from tests.behaviour.test_replay import UNAUTHORIZED
from tests.behaviour.test_websocket import HANDSHAKE, SWITCHING
from tests.peers import OK, TIMEOUT, Received, Upstream, http_answer, request
from tests.test_metrics import CONTRACT

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
ANSWERS = {b"/missing": http_answer(404, b"no"), b"/broken": http_answer(500, b"no")}
TRAFFIC = Counter(
    {
        ("GET", "200", "ok"): 2,
        ("POST", "200", "ok"): 1,
        ("other", "200", "ok"): 1,
        ("GET", "404", "client_error"): 1,
        ("GET", "500", "upstream_error"): 1,
        ("GET", "502", "upstream_error"): 1,
        ("GET", "400", "client_error"): 1,
        ("GET", "421", "client_error"): 1,
        ("GET", "101", "ok"): 1,
    }
)


def launch_for_traffic(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> Proxy:
    """A proxy with a signing key, in front of an API that refuses the first token and fails in several ways."""

    def answer(received: Received, sock: socket.socket) -> bool:
        if received.target == b"/gone":
            return False
        if received.target == b"/socket":
            sock.sendall(SWITCHING)
            return False
        is_refused = provider.tokens[0].encode() in received.head
        sock.sendall(UNAUTHORIZED if is_refused else ANSWERS.get(received.target, OK))
        return True

    upstream.answer = answer
    return launch(
        upstream, f"oauth.jwks_url={provider.jwks_url}", f"oauth.refresh.min_interval={MIN_INTERVAL}", "log.access=all"
    )


def make_busy(proxy: Proxy) -> None:
    """Returns when the proxy has seen `TRAFFIC`, a replay, a refreshed token and a reload."""
    until(lambda: proxy.token_age > MIN_INTERVAL)
    with proxy.connect() as client:
        client.get(b"/refused")
        for target in (b"/a", *ANSWERS, b"/gone", b"/bad#"):
            client.get(target)
        for line in (request(b"POST", b"/a", body=b"12345"), request(b"PROPFIND", b"/a")):
            client.send(line)
            client.response()
        client.send(request(b"GET", b"/a", host=b"evil.example"))
        client.response()
        client.send(HANDSHAKE)
        client.rest()
    until(lambda: proxy.token_age > MIN_INTERVAL)
    assert proxy.admin("/refresh", "POST")[0] == 200
    proxy.process.send_signal(signal.SIGHUP)
    until(lambda: proxy.metric("thg_proxy_config_reloads_total", result="ok") == 1)
    until(lambda: len(proxy.log_lines("request")) == TRAFFIC.total())


@pytest.fixture
def busy(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> Proxy:
    proxy = launch_for_traffic(launch, upstream, provider)
    make_busy(proxy)
    return proxy


def scrape(proxy: Proxy, accept: str = "") -> str:
    """The exposition in the format that `accept` asks for."""
    connection = HTTPConnection("127.0.0.1", proxy.admin_port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/metrics", headers={"Accept": accept})
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()
    finally:
        connection.close()


def families(proxy: Proxy) -> list[Metric]:
    return list(parse_text(scrape(proxy)))


def series(proxy: Proxy) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Every series of the exposition: its name and its labels."""
    return {(sample.name, frozenset(sample.labels.items())) for family in families(proxy) for sample in family.samples}


def test_after_start(launch: Launcher, upstream: Upstream) -> None:
    """Every published metric is announced from the start, before there is a token or a request (R153)."""
    proxy = launch(upstream, ready=False)
    announced = set(re.findall(r"^# TYPE (thg_proxy_\w+) ", scrape(proxy), re.MULTILINE))

    assert announced == {re.sub("_(bucket|count|sum)$", "", name) for name in CONTRACT}


def test_labels(busy: Proxy) -> None:
    """Under traffic of all kinds, names and labels are the published ones, and no others (R153)."""
    found: dict[str, set[str]] = {}
    for name, labels in series(busy):
        if name.startswith("thg_proxy_"):
            found.setdefault(name, set()).update(dict(labels))

    assert found == CONTRACT


def test_requests(busy: Proxy) -> None:
    """Each request is counted once, by what came of it."""
    (requests,) = (family for family in families(busy) if family.name == "thg_proxy_requests")
    counted = {
        tuple(sample.labels[key] for key in ("method", "status", "outcome")): sample.value
        for sample in requests.samples
    }

    assert counted == TRAFFIC
    assert busy.metric("thg_proxy_replays_total", result="ok") == 1
    assert busy.metric("thg_proxy_token_generation") == 3


def complaints(exposition: str) -> list[str]:
    """What `promtool check metrics` has to say."""
    checked = promtool("check", "metrics", read=exposition)
    # 3 stands for lint, of which there are lines; 1 for what can't be read.
    assert checked.returncode in {0, 3}, checked.stderr
    return checked.stderr.splitlines()


def test_promtool(busy: Proxy) -> None:
    """Prometheus' own linter reads the text format, and has nothing to say of it (R153)."""
    assert complaints(scrape(busy)) == []


def test_promtool_openmetrics(busy: Proxy) -> None:
    """The linter reads OpenMetrics as well; its one remark is a rule of the text format alone (R153).

    OpenMetrics names the family of a counter without `_total`; the linter looks for the help of `..._total`.
    """
    exposition = scrape(busy, OPENMETRICS)
    found = complaints(exposition)
    parsed = list(parse_openmetrics(exposition))  # type: ignore[no-untyped-call]

    assert {family.name for family in parsed} == {family.name for family in families(busy)}
    assert [line for line in found if not re.fullmatch(r"\w+_total no help text", line)] == []


def test_prometheus(busy: Proxy, tmp_path: Path) -> None:
    """A real Prometheus scrapes the proxy: it is up, and every published metric can be queried (R153)."""
    with scraping(tmp_path, busy.admin_port) as server:
        server.query("up == 1")
        (target,) = server.ask("targets")["activeTargets"]
        found = server.query('{__name__=~"thg_proxy_.+"}')
        requests = server.query("thg_proxy_requests_total")
        (counted,) = server.query("sum(thg_proxy_requests_total)")

    assert (target["health"], target["lastError"]) == ("up", "")
    assert {row["metric"]["__name__"] for row in found} == set(CONTRACT)
    assert {tuple(row["metric"][key] for key in ("method", "status", "outcome")) for row in requests} == set(TRAFFIC)
    assert float(counted["value"][1]) == TRAFFIC.total()


def hostile(number: int) -> bytes:
    """A pipelined request to the API or to another host, all of whose parts are its own."""
    host = b"localhost" if number % 2 else b"host-%d.example" % number
    fields = (b"User-Agent: agent-%d" % number, b"X-Request-Id: id-%d" % number)
    return request(b"GET", b"/path-%d?query=%d" % (number, number), *fields, host=host)


def test_clients_cannot_create_series(proxy: Proxy) -> None:
    """Ten thousand paths, queries, hosts and methods that nobody has seen before add no series (R153)."""

    def send(batch: int) -> None:
        with proxy.connect() as client:
            client.send(b"".join(hostile(batch * 9 + index) for index in range(9)))
            assert {client.response().status for _ in range(9)} == {200, 421}
            client.send(request(b"METHOD%d" % batch, b"/"))
            assert client.response().status == 400

    send(0)
    before = series(proxy)
    for batch in range(1, 1001):
        send(batch)

    until(lambda: proxy.metric("thg_proxy_request_duration_seconds_count") == 10_010)
    assert series(proxy) == before
