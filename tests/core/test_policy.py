import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.policy import PathRule, check_browser, check_header, check_path, host_allowed, host_names, is_host
from proxy.errors import BadTarget, BrowserRefused, HeaderRequired, NotAllowed
from proxy.settings import Policy

ALLOWED = host_names(Policy().allowed_hosts)


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LocalHost",
        b"localhost:8080",
        b"localhost:1",
        b"127.0.0.1",
        b"127.0.0.1:8080",
        b"[::1]",
        b"[::1]:65535",
    ],
)
def test_host_on_the_list_passes(host: bytes) -> None:
    """A listed host passes in any case, with any port or none (R134)."""
    assert host_allowed(host, ALLOWED)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":8080",
        b"evil.com",
        b"evil.com:8080",
        b"localhost.evil.com",
        b"evil-localhost",
        b"evil.localhost",
        b"127.0.0.1.nip.io",
        b"localhost.",
        b"localhost.:8080",
        b"0.0.0.0:8080",
        b"127.1",
        b"127.0.0.2",
        b"2130706433",
        b"0x7f000001",
        b"[::ffff:127.0.0.1]",
        b"[0:0:0:0:0:0:0:1]",
        b"::1",
        b"[::1",
        b"[::1]8080",
        b"[::1%25lo]",
        b"localhost:",
        b"localhost:http",
        b"localhost:-1",
        b"localhost:123456",
        b"localhost:80:80",
        b"localhost,evil.com",
        b"localhost evil.com",
        b" localhost",
        b"localhost\t",
        b"localhost/",
        b"user@localhost",
        b"localhost\x00",
        b"localhost:\xb2",
        b"l\xc3\xb6calhost",
    ],
)
def test_any_other_host_is_refused(host: bytes) -> None:
    """The list is anchored: what only resembles a listed host, or is another spelling of its address, fails (R134)."""
    assert not host_allowed(host, ALLOWED)


def test_listed_name_is_compared_without_case() -> None:
    """A name may be written in any case in the configuration (R134)."""
    assert host_allowed(b"proxy.internal:80", host_names(["Proxy.Internal"]))


@pytest.mark.parametrize(
    "value, expected",
    [
        (b"", True),
        (b"localhost", True),
        (b"localhost:", True),
        (b"api.example:443", True),
        (b"[::1]:8080", True),
        (b"[FEDC:ba98::192.0.2.1]:65535", True),
        (b"AZaz09._~!$&'()*+,;=%-:", True),
        (b"api.example:123456", False),
        (b"api.example:port", False),
        (b"a b", False),
        (b"user@a", False),
        (b"a/b", False),
        (b"[::1", False),
        (b"[]", False),
        (b"[g::1]", False),
        (b"a,b c", False),
        (b"a\x00", False),
        (b"caf\xe9", False),
    ],
)
def test_form_of_a_host(value: bytes, expected: bool) -> None:
    """What is no `uri-host [ ":" port ]` is told apart from a host that is not on the list (R32, RFC 9110 §7.2)."""
    assert is_host(value) is expected


@given(st.binary(max_size=40))
@example(b"localhost:99999")
def test_nothing_but_a_listed_name_and_a_port_passes(host: bytes) -> None:
    """Whatever passes is a listed name, followed at most by a colon and digits (R134)."""
    if host_allowed(host, ALLOWED):
        rest = min((host.lower().removeprefix(name) for name in ALLOWED), key=len)
        assert rest == b"" or rest[1:].isdigit()


@pytest.mark.parametrize(
    "noted",
    [
        {},
        {b"sec-fetch-mode": b"cors"},
        {b"sec-fetch-mode": b"websocket"},
        {b"sec-fetch-mode": b"cors", b"sec-fetch-dest": b"empty"},
        {b"sec-fetch-site": b"none"},
        {b"via": b"1.1 fred"},
    ],
)
def test_programs_pass(noted: dict[bytes, bytes]) -> None:
    """What is no browser passes, fetch() and WebSocket of Node.js with their `Sec-Fetch-Mode` included (R136)."""
    check_browser(noted, frozenset())


@pytest.mark.parametrize(
    "noted",
    [
        {b"origin": b"https://evil.example"},
        {b"origin": b"null"},
        {b"origin": b""},
        {b"origin": b"http://127.0.0.1:9999"},
        {b"origin": b"http://localhost"},
        {b"origin": b"http://localhost.evil"},
        {b"sec-fetch-site": b"cross-site"},
        {b"sec-fetch-site": b"same-site"},
        {b"sec-fetch-site": b"same-origin"},
        {b"sec-fetch-site": b""},
        {b"sec-fetch-mode": b"no-cors"},
        {b"sec-fetch-mode": b"cors", b"sec-fetch-dest": b"empty", b"sec-fetch-site": b"none"},
        {b"sec-fetch-mode": b"cors", b"sec-fetch-site": b"none"},
        {b"sec-fetch-mode": b"navigate", b"sec-fetch-site": b"none"},
        {b"sec-fetch-mode": b"websocket", b"origin": b"https://evil.example"},
        {b"sec-fetch-mode": b"websocket", b"sec-fetch-site": b"cross-site"},
        {b"sec-fetch-mode": b"websocket", b"sec-fetch-site": b"same-origin"},
        {b"sec-fetch-mode": b"websocket", b"sec-fetch-dest": b"websocket"},
        {b"sec-fetch-mode": b"cors,cors"},
        {b"sec-fetch-mode": b"websocket,websocket"},
        {b"sec-fetch-dest": b"document"},
        {b"sec-fetch-dest": b"image", b"sec-fetch-mode": b"cors"},
        {b"access-control-request-method": b"GET"},
    ],
)
def test_pages_do_not_pass(noted: dict[bytes, bytes]) -> None:
    """Whatever a page can make a browser send is refused, preflights and navigations too (R135, R136, R137, R144)."""
    with pytest.raises(BrowserRefused):
        check_browser(noted, frozenset())


ALLOWED_ORIGINS = frozenset({b"https://app.example", b"http://localhost:3000"})


@pytest.mark.parametrize("origin", sorted(ALLOWED_ORIGINS))
def test_a_listed_origin_passes(origin: bytes) -> None:
    """A listed origin passes with all that its browser adds, and so does its preflight (R135)."""
    added = {b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"cors", b"access-control-request-method": b"PUT"}
    check_browser({b"origin": origin, **added}, ALLOWED_ORIGINS)


@pytest.mark.parametrize(
    "noted",
    [
        {b"origin": b"https://app.example.evil"},
        {b"origin": b"http://app.example"},
        {b"origin": b"https://app.example:8443"},
        {b"origin": b"https://app.example/"},
        {b"origin": b"https://app.example,https://app.example"},
        {b"origin": b"null"},
        {b"sec-fetch-site": b"cross-site"},
        {b"sec-fetch-mode": b"no-cors"},
    ],
)
def test_the_list_of_origins_is_exact(noted: dict[bytes, bytes]) -> None:
    """Only the very origin passes, and only where the browser says that it is the one (R135)."""
    with pytest.raises(BrowserRefused):
        check_browser(noted, ALLOWED_ORIGINS)


def test_the_required_header() -> None:
    """The field must be there, once, with the very value (R139)."""
    check_header(b"1", b"1")
    for value in (None, b"", b"0", b"1,1", b"11", b"1 "):
        with pytest.raises(HeaderRequired):
            check_header(value, b"1")


def allowed(path: str, method: str, target: bytes, *, methods: tuple[str, ...] = ()) -> bool:
    try:
        check_path((PathRule.parse(methods, path),), method, target)
    except NotAllowed:
        return False
    return True


@pytest.mark.parametrize(
    "path, target, expected",
    [
        ("/v1/status", b"/v1/status", True),
        ("/v1/status", b"/v1/status?x=/v1/secret", True),
        ("/v1/status", b"/v1/status/", False),
        ("/v1/status", b"/v1/status/x", False),
        ("/v1/status", b"/V1/status", False),
        ("/v1/status", b"/v1/stat%75s", False),
        ("/v1/status", b"/v1/secret?x=/v1/status", False),
        ("/v1/status", b"/", False),
        ("/v1/status", b"*", False),
        ("/v1/*", b"/v1/a", True),
        ("/v1/*", b"/v1/a%20b", True),
        ("/v1/*", b"/v1/%C3%A4", True),
        ("/v1/*", b"/v1/...", True),
        ("/v1/*", b"/v1/", False),
        ("/v1/*", b"/v1", False),
        ("/v1/*", b"/v1/a/b", False),
        ("/v1/*/positions", b"/v1/7/positions", True),
        ("/v1/*/positions", b"/v1/7/8/positions", False),
        ("/v1/*/positions", b"/v1/positions", False),
        ("/v1/**", b"/v1", True),
        ("/v1/**", b"/v1/", True),
        ("/v1/**", b"/v1/a/b/c", True),
        ("/v1/**", b"/v10", False),
        ("/v1/**", b"/v2/a", False),
        ("/**", b"/", True),
        ("/**", b"/a/b", True),
        ("/**", b"*", False),
        ("/", b"/", True),
        ("/", b"/a", False),
    ],
)
def test_path_rules(path: str, target: bytes, *, expected: bool) -> None:
    """`*` is one segment that is not empty, a last `**` any number; the query counts for nothing (R45)."""
    assert allowed(path, "GET", target) is expected


@pytest.mark.parametrize("method, expected", [("GET", True), ("HEAD", True), ("POST", False), ("get", False)])
def test_methods_of_a_rule(method: str, *, expected: bool) -> None:
    """A rule without methods is one for all of them (R45)."""
    assert allowed("/a", method, b"/a", methods=("GET", "HEAD")) is expected
    assert allowed("/a", method, b"/a")


def test_any_rule_will_do() -> None:
    """The rules are alternatives (R45)."""
    rules = (PathRule.parse(["GET"], "/a"), PathRule.parse(["POST"], "/b"))
    check_path(rules, "GET", b"/a")
    check_path(rules, "POST", b"/b")
    for method, target in (("GET", b"/b"), ("POST", b"/a"), ("PUT", b"/a")):
        with pytest.raises(NotAllowed):
            check_path(rules, method, target)


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/../admin",
        b"/v1/..",
        b"/v1/.",
        b"/v1/./a",
        b"/./v1",
        b"/v1/%2e%2e/admin",
        b"/v1/%2E./admin",
        b"/v1/..%2fadmin",
        b"/v1/a%2Fb",
        b"/v1/%252e%252e/admin",
        b"/v1/a%25",
        b"/v1/..\\admin",
        b"/v1/a%5cb",
        b"/v1/.;/admin",
        b"/v1/..;x=1/admin",
        b"/v1/a;b",
        b"/v1//admin",
        b"//v1",
        b"/v1/a%00",
        b"/v1/a%0d%0aX:1",
        b"/v1/%1f",
        b"/v1/%7f",
        b"/v1/%c0%ae%c0%ae/admin",
        b"/v1/%C0%AF",
        b"/v1/%c1%9c",
        b"/v1/%e0%80%ae",
        b"/v1/%e0%9c%80",
        b"/v1/%f0%80%80%ae",
        b"/v1/%f8%80%80%80%ae",
        b"/v1/%f9",
        b"/v1/%fa",
        b"/v1/%ff",
        b"/v1/%ef%bc%8e%EF%BC%8E/admin",
        b"/v1/a%ef%bc%8fb",
        b"/v1/a%ef%bc%bcb",
        b"/v1/%u002e%u002e/admin",
        b"/v1/%zz",
        b"/v1/%4",
        b"/v1/%4z",
        b"/v1/%",
    ],
)
def test_a_path_with_two_readings(path: bytes) -> None:
    """With rules, a path that a server could take for another one is refused, whatever the rule says (R35, R45)."""
    with pytest.raises(BadTarget) as caught:
        check_path((PathRule.parse((), "/**"),), "GET", path)

    sentence = "With policy.allow, the path must have one reading: no encoded dots or slashes, no `..`."
    assert caught.value.detail == sentence


@given(st.binary(max_size=20))
def test_a_rule_is_no_prefix(tail: bytes) -> None:
    """Whatever follows the one allowed path, only a query passes (R45)."""
    try:
        check_path((PathRule.parse((), "/v1/status"),), "GET", b"/v1/status" + tail)
    except (BadTarget, NotAllowed):
        return
    assert tail == b"" or tail.startswith(b"?")
