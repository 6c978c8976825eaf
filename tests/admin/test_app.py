"""The admin port over real sockets; what it shows comes from small fakes."""

import asyncio
from dataclasses import replace
from datetime import datetime

import pytest

from proxy import __version__
from proxy.admin.app import AdminPort
from proxy.credential import TokenStatus
from proxy.settings import Admin, Limits, Settings
from tests.admin.port import (
    GOOD_TOKEN,
    NO_TOKEN,
    OUTAGE,
    SERVING,
    Answer,
    Proxy,
    ask,
    is_problem,
    request_bytes,
    send,
    served,
    serving,
)


def test_livez_answers_whatever_the_token() -> None:
    """The proxy is alive while its event loop runs, with or without a token, even while it stops (R163)."""
    assert ask(Proxy(status=NO_TOKEN, stopping=True), "/livez").status == 200


@pytest.mark.parametrize(
    "token, status",
    [
        (NO_TOKEN, 503),
        (GOOD_TOKEN, 200),
        (replace(GOOD_TOKEN, state="stale", usable=False), 200),
    ],
)
def test_startupz_answers_200_for_ever_after_the_first_token(token: TokenStatus, status: int) -> None:
    """`/startupz` is 503 until the first token, and 200 from then on, even when that token is over (R163)."""
    assert ask(Proxy(status=token), "/startupz").status == status


@pytest.mark.parametrize(
    "token, stopping, status, state",
    [
        (GOOD_TOKEN, False, 200, "ok"),
        (OUTAGE, False, 200, "degraded"),
        (NO_TOKEN, False, 503, "starting"),
        (replace(NO_TOKEN, state="rejected", last_error="invalid_client"), False, 503, "starting"),
        (replace(OUTAGE, state="stale", usable=False), False, 503, "expired"),
        (GOOD_TOKEN, True, 503, "stopping"),
    ],
)
def test_readyz_depends_on_the_token_and_on_stopping(
    token: TokenStatus, stopping: bool, status: int, state: str
) -> None:
    """Ready is: a usable token and not stopping. The body says why, with the provider's last error (R163)."""
    answer = ask(Proxy(status=token, stopping=stopping), "/readyz")
    assert (answer.status, answer.document["ready"], answer.document["status"]) == (status, status == 200, state)
    assert stopping or (token.last_error or "") in answer.document["reason"]


def test_without_a_worker() -> None:
    """Nobody can be served while no process serves; a proxy that has started stays started (R163)."""

    async def story() -> None:
        proxy = Proxy(workers=(SERVING._replace(state="starting"),), has_served=False)
        async with serving(proxy) as port:
            assert [await status_of(port, path) for path in ("/livez", "/startupz", "/readyz")] == [200, 503, 503]
            proxy.workers, proxy.has_served = (SERVING,), True
            assert [await status_of(port, path) for path in ("/livez", "/startupz", "/readyz")] == [200, 200, 200]
            proxy.workers = ()
            assert [await status_of(port, path) for path in ("/livez", "/startupz", "/readyz")] == [200, 200, 503]

    async def status_of(port: int, path: str) -> int:
        return (await send(port, request_bytes("GET", path, [("Host", "localhost")]))).status

    asyncio.run(story())


@pytest.mark.parametrize("path", ["/metrics", "/status"])
def test_up_to_date(path: str) -> None:
    """What the workers have counted is asked for before it is shown."""
    proxy = Proxy()
    answer = ask(proxy, path)
    assert proxy.updated == 1
    assert answer.status == 200


@pytest.mark.parametrize(
    "accept, content_type, ending",
    [
        ("", "text/plain", b"\n"),
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text", b"# EOF\n"),
    ],
)
def test_metrics_come_in_the_format_that_is_asked_for(accept: str, content_type: str, ending: bytes) -> None:
    """`/metrics` speaks Prometheus' text format, and OpenMetrics to those who accept it."""
    answer = ask(Proxy(), "/metrics", Accept=accept)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith(content_type)
    assert b"thg_proxy_build_info{" in answer.body
    assert answer.body.endswith(ending)


def test_status_tells_an_operator_what_is_going_on() -> None:
    """`/status` has version, state, origin of the configuration, token, clients, keys, upstream and counters."""
    proxy = Proxy(status=OUTAGE)
    proxy.metrics.traffic.requests["GET", 200, "ok"] = 5
    proxy.metrics.traffic.requests["POST", 201, "ok"] = 1
    proxy.metrics.traffic.requests["GET", 502, "upstream_error"] = 2
    proxy.metrics.traffic.errors["upstream_unreachable"] = 2
    document = ask(proxy, "/status").document
    assert document.pop("uptime_seconds") >= 0
    assert datetime.fromisoformat(document.pop("time")).tzinfo is not None
    assert document.pop("limits").keys() == {"in_flight", "descriptors"}
    assert document.pop("history")["bucket_seconds"] > 0
    assert [warning["code"] for warning in document.pop("warnings")] == ["token_refresh_failing"]
    assert document == {
        "version": __version__,
        "health": "degraded",
        "state": "degraded",
        "reason": "There is a usable token. The last token request failed: timeout.",
        "config": "/etc/thg-proxy/config.yaml",
        "token": {
            "state": "due",
            "usable": True,
            "client": "primary",
            "generation": 3,
            "scope": "vehicles",
            "verification": "require",
            "issued_at": "2023-11-14T22:13:20+00:00",
            "expires_at": "2023-11-14T23:13:20+00:00",
            "refresh_at": "2023-11-14T22:58:20+00:00",
            "last_error": "timeout",
            "last_error_at": "2023-11-14T22:58:21+00:00",
            "retry_after_seconds": 7.2,
        },
        "clients": [
            {"name": "primary", "state": "active", "last_used": "2023-11-14T22:13:20+00:00", "last_error": None},
            {"name": "reserve", "state": "standby", "last_used": None, "last_error": None},
        ],
        "clock_skew_seconds": 0.0,
        "jwks": {"keys": 2, "fetched_at": "2023-11-14T22:13:20+00:00", "last_error": None},
        "upstream": {"url": "https://thg.nxtlabs.online", "connections": {"idle": 1, "active": 2}},
        "counters": {
            "requests": 8,
            "outcomes": {"ok": 6, "upstream_error": 2},
            "errors": {"upstream_unreachable": 2},
            "in_flight": 0,
            "request_bytes": 0,
            "response_bytes": 0,
            "upstream_connects": {},
        },
        "errors": [
            {
                "code": "upstream_unreachable",
                "title": "Upstream unreachable",
                "hint": "No connection to the upstream could be made.",
                "lately": 0,
                "total": 2,
            }
        ],
        "engine": {"loop": "uvloop", "transport": "aiofastnet", "parser": "llhttp"},
        "workers": [
            {"pid": 7, "state": "serving", "started": "2023-11-14T22:13:20+00:00", "in_flight": 1, "restarts": 0}
        ],
        "recent": [],
    }


def test_status_lists_the_recent_requests() -> None:
    """Each of the last requests is there with its time split, and without its query (R145, RFC 9110 §17.9)."""
    known = {"status": 200, "outcome": "ok", "duration": 0.25, "token_wait": 0.1, "connect": 0.05, "ttfb": 0.075}
    (request,) = ask(Proxy(recent=[served("/v1/a?key=CANARY", **known, bytes_out=7)]), "/status").document["recent"]
    assert datetime.fromisoformat(request.pop("at")).tzinfo is not None
    assert request == {
        "request_id": "",
        "method": "GET",
        "path": "/v1/a",
        "status": 200,
        "code": "",
        "outcome": "ok",
        "duration_ms": 250.0,
        "token_wait_ms": 100.0,
        "connect_ms": 50.0,
        "ttfb_ms": 75.0,
        "bytes_in": 0,
        "bytes_out": 7,
        "replayed": False,
    }


@pytest.mark.parametrize(
    "proxy, health, codes",
    [
        (Proxy(), "ok", []),
        (Proxy(status=OUTAGE), "degraded", ["token_refresh_failing"]),
        (Proxy(status=replace(GOOD_TOKEN, verification="off")), "ok", ["token_not_verified"]),
        (Proxy(settings=Settings(limits=Limits(max_in_flight=0))), "degraded", ["in_flight_limit_near"]),
        (Proxy(status=replace(OUTAGE, state="stale", usable=False)), "down", ["token_unavailable"]),
        (Proxy(stopping=True), "down", []),
    ],
)
def test_health_is_for_people(proxy: Proxy, health: str, codes: list[str]) -> None:
    """What asks for somebody makes an `ok` proxy `degraded`; what stops the traffic makes it `down`."""
    document = ask(proxy, "/status").document
    assert (document["health"], [warning["code"] for warning in document["warnings"]]) == (health, codes)


def test_every_error_code_is_explained() -> None:
    """Whatever code the proxy answers with, the status says what it means."""
    proxy = Proxy()
    codes = ("internal", "token_unavailable", "bad_request", "upstream_tls", "not_allowed")
    proxy.metrics.traffic.errors.update(dict.fromkeys(codes, 1))
    errors = ask(proxy, "/status").document["errors"]
    assert [error["code"] for error in errors] == list(codes)
    assert errors[0]["title"] == "Internal error"
    assert all(error["hint"] for error in errors)


def test_status_before_the_first_token() -> None:
    """What is not known yet is null, not an error."""
    document = ask(Proxy(status=NO_TOKEN), "/status").document
    assert document["state"] == "starting"
    assert document["token"]["expires_at"] is None
    assert document["jwks"] is None


def test_status_survives_hostile_paths() -> None:
    """Whatever a client asked for, and whatever scope a provider granted, the status is short, plain JSON (R151)."""
    path = "/\udcff\u202e\x1b[2J" + "x" * 40_000
    proxy = Proxy(status=replace(GOOD_TOKEN, scope="\ud800"), recent=[served(path)])
    answer = ask(proxy, "/status")
    assert answer.status == 200
    assert answer.body[:-1].decode("ascii").isprintable()
    (request,) = answer.document["recent"]
    assert request["path"].startswith(r"/\udcff\u202e\x1b[2Jxxx")
    assert len(request["path"]) == 256


def test_refresh_mints_a_token() -> None:
    """`POST /refresh` returns when a new token has come, and which one it is."""
    proxy = Proxy()
    answer = ask(proxy, "/refresh", "POST")
    assert (answer.status, answer.document["generation"], proxy.refreshed) == (200, 3, 1)


def test_refresh_that_fails_says_when_to_try_again() -> None:
    """A refresh without result is 503 with Retry-After."""
    answer = ask(Proxy(status=OUTAGE, refreshes=False), "/refresh", "POST")
    assert is_problem(answer, 503, "token_unavailable")
    assert answer.headers["retry-after"] == "8"


def test_stop_needs_the_permission_of_the_configuration() -> None:
    """Without `admin.allow_stop` nobody stops the proxy over HTTP."""
    proxy = Proxy()
    assert is_problem(ask(proxy, "/stop", "POST"), 403, "not_allowed")
    assert proxy.stopped == 0


def test_stop_with_permission() -> None:
    """With `admin.allow_stop` the proxy begins to stop, and the caller is told so."""
    proxy = Proxy(settings=Settings(admin=Admin(allow_stop=True)))
    assert ask(proxy, "/stop", "POST").status == 202
    assert proxy.stopped == 1


class FarTransport(asyncio.Transport):
    """A connection from another machine."""

    def __init__(self, peer: object) -> None:
        super().__init__({"peername": peer})
        self.received = bytearray()
        self.closed = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.received += data

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def close(self) -> None:
        self.closed.set()


def ask_from(peer: object, proxy: Proxy, path: str) -> Answer:
    async def conversation() -> Answer:
        server = AdminPort(proxy.parts(), lambda: 64)
        connection, transport = server(), FarTransport(peer)
        connection.connection_made(transport)
        connection.data_received(request_bytes("POST", path, [("Host", "localhost"), ("X-Forwarded-For", "127.0.0.1")]))
        await transport.closed.wait()
        connection.connection_lost(None)
        await server.shutdown(1)
        return Answer.parse(bytes(transport.received))

    return asyncio.run(conversation())


@pytest.mark.parametrize("peer", [("192.0.2.7", 4711), ("2001:db8::7", 4711, 0, 0)])
@pytest.mark.parametrize("path", ["/refresh", "/stop"])
def test_only_this_machine_may_act(peer: object, path: str) -> None:
    """`/refresh` and `/stop` go by the address of the socket's peer, not by what a header says."""
    proxy = Proxy(settings=Settings(admin=Admin(allow_stop=True)))
    assert is_problem(ask_from(peer, proxy, path), 403, "caller_refused")
    assert proxy.refreshed == proxy.stopped == 0


@pytest.mark.parametrize("peer", ["", ("::1", 4711, 0, 0)])
def test_unix_socket_and_ipv6_loopback_are_this_machine(peer: object) -> None:
    """A Unix socket's peer has no address, and is on this machine all the same."""
    assert ask_from(peer, Proxy(), "/refresh").status == 200


@pytest.mark.parametrize("path", ["/", "/dashboard.js", "/livez", "/startupz", "/readyz", "/metrics", "/status"])
def test_head_is_get_without_the_body(path: str) -> None:
    """HEAD has the status and the header of GET, and no body (RFC 9110 §9.3.2)."""
    answer = ask(Proxy(), path, "HEAD")
    assert answer.status == 200
    assert int(answer.headers["content-length"]) > 0
    assert answer.body == b""


@pytest.mark.parametrize(
    "path", ["/nowhere", "/status/", "/STATUS", "/%73tatus", "//status", "http://localhost/status"]
)
def test_any_other_path_is_not_found(path: str) -> None:
    """A path is known as it is written, or not at all."""
    assert is_problem(ask(Proxy(), path), 404, "not_found")


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("POST", "/status", "GET, HEAD"),
        ("OPTIONS", "/status", "GET, HEAD"),
        ("DELETE", "/livez", "GET, HEAD"),
        ("GET", "/refresh", "POST"),
        ("GET", "/stop", "POST"),
    ],
)
def test_wrong_method_is_told_the_right_one(method: str, path: str, allow: str) -> None:
    """A 405 names the methods that the path answers (RFC 9110 §15.5.6)."""
    answer = ask(Proxy(), path, method)
    assert is_problem(answer, 405, "method_not_supported")
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:9090", "127.0.0.1.nip.io", "localh\xf6st", "localhost."]
)
@pytest.mark.parametrize("path", ["/", "/dashboard.css", "/dashboard.js", "/status", "/refresh", "/nowhere"])
def test_another_host_is_refused(path: str, host: str) -> None:
    """A page that rebinds its name to this machine reaches nothing (R134)."""
    assert is_problem(ask(Proxy(), path, host=host), 421, "host_not_allowed")


def test_two_hosts_are_refused() -> None:
    """A request that names two hosts is not judged by the better one (R134)."""
    assert is_problem(ask(Proxy(), "/status", Host="evil.example"), 400, "bad_request")


@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://localhost:9090"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "Nonsense"},
    ],
)
@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/"),
        ("GET", "/dashboard.js"),
        ("GET", "/status"),
        ("POST", "/refresh"),
        ("POST", "/stop"),
        ("OPTIONS", "/"),
    ],
)
def test_a_page_of_another_site_is_refused(method: str, path: str, fields: dict[str, str]) -> None:
    """What a web page asks for is refused, and no CORS header invites it to try again (R135, R136, R137)."""
    proxy = Proxy(settings=Settings(admin=Admin(allow_stop=True)))
    answer = ask(proxy, path, method, **fields)
    assert is_problem(answer, 403, "browser_refused")
    assert not any(name.startswith("access-control-") for name in answer.headers)
    assert proxy.refreshed == proxy.stopped == 0


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_a_person_may_look_with_a_browser(site: str) -> None:
    """What a person types into the address bar, and what our own page loads, is answered (R136)."""
    assert ask(Proxy(), "/status", Sec_Fetch_Site=site).status == 200


@pytest.mark.parametrize("path", ["/livez", "/startupz", "/readyz", "/metrics"])
def test_probes_and_metrics_answer_any_host(path: str) -> None:
    """The kubelet and Prometheus ask by the address of the pod."""
    assert ask(Proxy(), path, host="10.1.2.3:9090").status == 200


@pytest.mark.parametrize(
    "method, path, host",
    [
        ("GET", "/", "localhost"),
        ("GET", "/livez", "localhost"),
        ("GET", "/metrics", "localhost"),
        ("GET", "/status", "localhost"),
        ("GET", "/nowhere", "localhost"),
        ("GET", "/refresh", "localhost"),
        ("GET", "/status", "evil.example"),
        ("G@T", "/status", "localhost"),
    ],
)
def test_every_answer_is_private_and_nameless(method: str, path: str, host: str) -> None:
    """No answer is cached, sniffed, or tells which library and version made it."""
    headers = ask(Proxy(), path, method, host=host).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["server"] == "thg-proxy"


@pytest.mark.parametrize(
    "raw",
    [
        b"CANARY\r\n\r\n",
        b"GET /CANARY\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nCANARY: a\x00b\r\n\r\n",
        b"GET / HTTP/9.CANARY\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: CANARY" + b"y" * 20_000 + b"\r\n\r\n",
    ],
)
def test_a_malformed_request_is_not_repeated(raw: bytes) -> None:
    """What is not HTTP is answered with 400, without a byte of it, and ends the connection (R128)."""

    async def conversation() -> Answer:
        async with serving(Proxy()) as port:
            return await send(port, raw)

    answer = asyncio.run(conversation())
    assert is_problem(answer, 400, "bad_request")
    assert b"CANARY" not in answer.body


def test_a_failure_inside_is_not_shown() -> None:
    """A bug is 500 to the caller, and nothing of the exception reaches it (R128)."""
    answer = ask(Proxy(token_fault=RuntimeError("CANARY")), "/status", Accept="text/html")
    assert is_problem(answer, 500, "internal")
    assert b"CANARY" not in answer.body
    assert b"Traceback" not in answer.body


def test_a_connection_serves_one_request_after_another() -> None:
    """Probes reuse their connection, also after an answer that refused something."""

    async def conversation() -> Answer:
        async with serving(Proxy()) as port:
            refused = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
            return await send(port, refused + request_bytes("GET", "/livez", [("Host", "localhost")]))

    both = asyncio.run(conversation())
    assert both.status == 404
    assert b"HTTP/1.1 200 OK" in both.body


def test_idle_connections_make_way() -> None:
    """When there are as many connections as there may be, those that only wait are ended, and nobody else (R163)."""
    proxy = Proxy()

    async def conversation() -> tuple[bytes, bytes]:
        proxy.provider_answers.clear()
        async with serving(proxy, limit=2) as port, asyncio.timeout(20):
            busy, sending = await asyncio.open_connection("127.0.0.1", port)
            sending.write(request_bytes("POST", "/refresh", [("Host", "localhost")]))
            idle, waiting = await asyncio.open_connection("127.0.0.1", port)
            ended = await idle.read()
            proxy.provider_answers.set()
            answer = await busy.read()
            for writer in (sending, waiting):
                writer.close()
            return ended, answer

    ended, answer = asyncio.run(conversation())
    assert ended == b""
    assert answer.startswith(b"HTTP/1.1 200 ")
