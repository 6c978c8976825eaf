"""Who is served: callers by the name they use, programs and not pages, and what the rules allow."""

import json

import pytest

from proxy.demo import faults
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import OK, Response, Upstream, request

PAGE = "https://app.example"
NODE_FETCH = (
    b"connection: keep-alive",
    b"accept: */*",
    b"accept-language: *",
    b"sec-fetch-mode: cors",
    b"user-agent: node",
    b"accept-encoding: gzip, deflate",
)
CORS = (b"Access-Control-Allow-Origin: *", b"Access-Control-Allow-Credentials: true", b"Access-Control-Max-Age: 600")
LASTING = (
    b"Strict-Transport-Security: max-age=31536000",
    b'Clear-Site-Data: "*"',
    b'Alt-Svc: h3=":443"',
    b"Service-Worker-Allowed: /",
)


def code(response: Response) -> str:
    """The code of an answer that the proxy made, and that gives a page nothing."""
    assert response.values(b"Content-Type") == [b"application/problem+json"]
    assert b"access-control" not in response.head.lower()
    return str(json.loads(response.body)["code"])


def test_hosts(proxy: Proxy, upstream: Upstream) -> None:
    """A caller must use a name on the list, by Host or in the target; a resemblance is not enough (R134)."""
    port = b"%d" % proxy.port
    served = [b"localhost", b"LOCALHOST:" + port, b"127.0.0.1", b"127.0.0.1:" + port, b"[::1]:" + port, b"localhost:1"]
    refused = [
        b"evil.com",
        b"localhost.evil.com",
        b"127.0.0.1.nip.io",
        b"evil-localhost",
        b"0.0.0.0:" + port,
        b"[::ffff:127.0.0.1]",
        b"127.1",
        b"2130706433",
        b"localhost.",
    ]
    with proxy.connect() as client:
        for host in served:
            client.send(request(b"GET", b"/a", host=host))
            assert client.response().status == 200, host
            client.send(request(b"GET", b"http://" + host + b"/a", host=b"evil.com"))
            assert client.response().status == 200, host
        for host in refused:
            client.send(request(b"GET", b"/a", host=host))
            assert code(client.response()) == "host_not_allowed", host
            client.send(request(b"GET", b"http://" + host + b"/a"))
            assert code(client.response()) == "host_not_allowed", host

    assert len(upstream.requests) == 2 * len(served)


def test_other_hosts(launch: Launcher, upstream: Upstream) -> None:
    """policy.allowed_hosts is the whole list: a name that is not on it is refused, localhost too (R134)."""
    proxy = launch(upstream, "policy.allowed_hosts=[THG, '10.0.0.1']")
    with proxy.connect() as client:
        for host, status in ((b"thg:80", 200), (b"10.0.0.1", 200), (b"localhost", 421), (b"10.0.0.10", 421)):
            client.send(request(b"GET", b"/a", host=host))
            assert client.response().status == status


@pytest.mark.parametrize(
    "fields",
    [
        (b"User-Agent: kube-probe/1.0",),
        (b"User-Agent: GoogleHC/1.0",),
        (b"X-Forwarded-Host: localhost", b"X-Forwarded-For: 127.0.0.1", b"Forwarded: host=localhost"),
        (b"X-Original-URL: /livez", b"X-HTTP-Method-Override: GET"),
        (b"Referer: http://localhost/", b"Authorization: Bearer x", b"Cookie: a=b"),
    ],
)
def test_nothing_else_counts(proxy: Proxy, upstream: Upstream, fields: tuple[bytes, ...]) -> None:
    """No other word of the caller, nor the path, makes up for a wrong Host or an Origin (R142)."""
    with proxy.connect() as client:
        for path in (b"/livez", b"/healthz", b"/a?host=localhost"):
            client.send(request(b"GET", path, *fields, host=b"evil.com"))
            assert client.response().status == 421
            assert client.get(path, *fields, b"Origin: https://evil.example").status == 403

    assert upstream.requests == []


def test_programs_are_served(proxy: Proxy, upstream: Upstream) -> None:
    """The fetch() of Node.js says `Sec-Fetch-Mode: cors` and is no browser; what it says is passed on (R136)."""
    with proxy.connect() as client:
        assert client.get(b"/a", *NODE_FETCH).status == 200

    assert upstream.requests[0].values(b"Sec-Fetch-Mode") == [b"cors"]


@pytest.mark.parametrize(
    "method, fields",
    [
        (b"GET", (b"Origin: https://evil.example",)),
        (b"GET", (b"Origin: null",)),
        (b"GET", (b"Origin: http://127.0.0.1:9999",)),
        (b"POST", (b"Origin: http://localhost",)),
        (b"GET", (b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: no-cors", b"Sec-Fetch-Dest: image")),
        (b"GET", (b"Sec-Fetch-Site: same-origin", b"Sec-Fetch-Mode: cors", b"Sec-Fetch-Dest: empty")),
        (b"GET", (b"Sec-Fetch-Site: none", b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: document")),
        (b"GET", (b"Sec-Fetch-Dest: document",)),
        (b"GET", (b"Connection: Origin", b"Origin: https://evil.example")),
        (
            b"OPTIONS",
            (
                b"Origin: https://evil.example",
                b"Access-Control-Request-Method: GET",
                b"Access-Control-Request-Private-Network: true",
            ),
        ),
        (b"OPTIONS", (b"Access-Control-Request-Method: GET",)),
    ],
)
def test_pages_are_refused(proxy: Proxy, upstream: Upstream, method: bytes, fields: tuple[bytes, ...]) -> None:
    """A page in a browser gets nothing: no answer of the API, no leave to ask again (R135, R136, R137, R144)."""
    upstream.answer = OK.replace(b"\r\n", b"\r\nAccess-Control-Allow-Origin: *\r\n", 1)
    with proxy.connect() as client:
        client.send(request(method, b"/a", *fields))
        response = client.response()
        assert client.get().status == 200

    assert (response.status, code(response)) == (403, "browser_refused")
    assert len(upstream.requests) == 1


def with_grants() -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *CORS, *LASTING, b"X-A: 1", b"Content-Length: 2", b"", b"ok"])


def test_grants_are_removed(proxy: Proxy, upstream: Upstream) -> None:
    """What the API would grant to pages, or fix in a browser for its own host, it does not say for localhost (R138)."""
    upstream.answer = with_grants()
    with proxy.connect() as client:
        response = client.get()

    removed = [line.split(b":")[0] for line in (*CORS, *LASTING)]
    assert all(response.values(name) == [] for name in removed)
    assert response.values(b"X-A") == [b"1"]


def test_allowed_origins(launch: Launcher, upstream: Upstream) -> None:
    """A listed origin is served, its preflight too, and may read the answer; every other page is refused, and nothing
    that outlives the answer is granted (R135, R138).
    """
    upstream.answer = with_grants()
    proxy = launch(upstream, f"policy.browsers={{allow_origins: ['{PAGE}', 'http://localhost:3000']}}")
    from_page = (b"Origin: " + PAGE.encode(), b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: cors")
    with proxy.connect() as client:
        client.send(request(b"OPTIONS", b"/a", *from_page, b"Access-Control-Request-Method: PUT"))
        preflight = client.response()
        responses = [preflight, client.get(b"/a", *from_page), client.get(b"/a", b"Origin: http://localhost:3000")]
        of_a_program = client.get()
        for fields in ((b"Origin: https://app.example.evil",), (b"Origin: null",), from_page[1:], from_page * 2):
            assert client.get(b"/a", *fields).status == 403

    for response in responses:
        assert response.status == 200
        assert all(line in response.head for line in CORS)
        assert not any(line in response.head for line in LASTING)
    assert not any(line in of_a_program.head for line in (*CORS, *LASTING))
    assert len(upstream.requests) == 4


def test_required_header(launch: Launcher, upstream: Upstream) -> None:
    """A server that is tricked into fetching a URL can't add a field: 412, and it is not passed on (R139)."""
    proxy = launch(upstream, "policy.require_header={name: X-THG-Proxy, value: s3same}")
    with proxy.connect() as client:
        refused: list[tuple[bytes, ...]] = [
            (),
            (b"X-THG-Proxy: ",),
            (b"X-THG-Proxy: S3SAME",),
            (b"X-THG-Proxy: s3same", b"X-THG-Proxy: s3same"),
            (b"X_THG_Proxy: s3same",),
        ]
        for fields in refused:
            response = client.get(b"/a", *fields)
            assert (response.status, code(response)) == (412, "header_required")
            assert b"s3same" not in response.head + response.body
        assert client.get(b"/a", b"x-thg-proxy: s3same", b"X-A: 1").status == 200
        assert client.get(b"/a", b"Connection: X-THG-Proxy", b"X-THG-Proxy: s3same").status == 200

    for received in upstream.requests:
        assert b"s3same" not in received.head
        assert b"thg-proxy" not in received.head.lower().replace(b"via: 1.1 thg-proxy", b"")
    assert len(upstream.requests) == 2


def test_rules(launch: Launcher, upstream: Upstream) -> None:
    """With policy.allow only listed methods and paths are sent, and none with two readings (R35, R45)."""
    rules = "[{methods: [GET], path: /v1/status}, {path: '/v1/vehicles/*'}, {methods: [GET, HEAD], path: '/v2/**'}]"
    proxy = launch(upstream, f"policy.allow={rules}")
    sent = [
        (b"GET", b"/v1/status"),
        (b"GET", b"/v1/status?x=/v1/secret&y=%2e%2e"),
        (b"DELETE", b"/v1/vehicles/7"),
        (b"GET", b"/v2/a/b/c"),
        (b"GET", b"http://localhost/v1/status"),
    ]
    refused = [
        (b"POST", b"/v1/status"),
        (b"HEAD", b"/v1/status"),
        (b"GET", b"/v1/secret?x=/v1/status"),
        (b"GET", b"/v1/status/x"),
        (b"GET", b"/v1/vehicles/"),
        (b"GET", b"/v1/vehicles/7/positions"),
        (b"GET", b"http://localhost/v1/secret"),
        (b"OPTIONS", b"*"),
    ]
    ambiguous = [
        b"/v2/../v1/secret",
        b"/v2/%2e%2e/v1/secret",
        b"/v2/..%2fv1/secret",
        b"/v2/%252e%252e/v1/secret",
        b"/v2/..;/v1/secret",
        b"/v2//v1/secret",
        b"/v2\\..\\v1/secret",
        b"/v2/a%00",
    ]
    with proxy.connect() as client:
        for method, target in sent:
            client.send(request(method, target))
            assert client.response().status == 200, target
        for method, target in refused:
            client.send(request(method, target, b"X-Forwarded-Uri: /v1/status", b"X-Original-URL: /v1/status"))
            response = client.response(to_head=method == b"HEAD")
            assert response.status == 403, target
            assert response.values(b"Proxy-Status") == [b"thg-proxy; error=http_request_denied"]
        for target in ambiguous:
            response = client.get(target)
            assert (response.status, code(response)) == (400, "bad_target"), target
    with proxy.connect() as client:
        assert client.get(b"/v1/status").status == 200

    assert len(upstream.requests) == len(sent) + 1


def test_rules_are_about_what_is_sent(launch: Launcher, upstream: Upstream) -> None:
    """Below a base path the rules are about the path that the API gets (R45)."""
    proxy = launch(upstream.url + "/api", "policy.allow=[{path: '/api/v1/*'}]")
    with proxy.connect() as client:
        assert client.get(b"/v1/a").status == 200
        assert client.get(b"/api/v1/a").status == 403

    assert [received.target for received in upstream.requests] == [b"/api/v1/a"]


def test_refused_callers_cost_nothing(launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """A refusal does not wait for a token, asks for no body with 100 Continue, and opens no connection upstream."""
    provider.faults.token = faults.hang
    proxy = launch(
        upstream,
        "oauth.refresh.wait=1h",
        "oauth.timeout=1h",
        "policy.require_header={name: X-THG-Proxy, value: '1'}",
        "policy.allow=[{path: /a}]",
        ready=False,
    )
    until(lambda: len(provider.received) == 1)
    key = b"X-THG-Proxy: 1"
    expecting = (b"Expect: 100-continue", b"Content-Length: 4")
    for refused, status in [
        (request(b"POST", b"/a", key, *expecting, host=b"evil.com"), 421),
        (request(b"POST", b"/a", key, *expecting, b"Origin: null"), 403),
        (request(b"POST", b"/a", *expecting), 412),
        (request(b"POST", b"/b", key, *expecting), 403),
        (request(b"POST", b"/../a", key, *expecting), 400),
    ]:
        with proxy.connect() as client:
            client.send(refused)
            response = client.response()
            assert response.status == status
            assert response.values(b"Connection") == [b"close"]

    assert proxy.metric("thg_proxy_requests_in_flight") == 0
    assert upstream.connections == 0
    assert all(proxy.metric("thg_proxy_token_waits_total", result=result) == 0 for result in ("ok", "timeout", "error"))
