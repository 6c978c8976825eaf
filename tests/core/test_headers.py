"""Header blocks as the other side reads them: what is sent is read back by llhttp, as strict as any peer."""

import re
from collections.abc import Iterable, Mapping

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.headers import (
    BROWSER_GRANTS,
    Fields,
    MessageFields,
    RequestRules,
    ResponseRules,
    connection_options,
    names_us,
    request_head,
    request_section,
    response_head,
)

Pairs = list[tuple[bytes, bytes]]

HOST = (b"Host", b"api.example")
VIA = (b"Via", b"1.1 thg-proxy")
TOKEN = (b"Authorization", b"Bearer token")


class Messages:
    """Collects whole messages; feeding it anything that is not HTTP/1.1 raises."""

    def __init__(self) -> None:
        self.began = self.completed = 0
        self.fields: Pairs = []

    def on_message_begin(self) -> None:
        self.began += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_message_complete(self) -> None:
        self.completed += 1


def sent(
    fields: Fields,
    *,
    via: bool = True,
    added: Mapping[str, str] | None = None,
    removed: Iterable[str] = (),
    minor: int = 1,
    framing: bytes = b"",
) -> Pairs:
    """The fields that the upstream reads for a request with these."""
    rules = RequestRules(b"api.example", via=via, added=added, removed=removed)
    section = request_section(rules, rules.read(fields).lines, version_minor=minor, framing=framing)
    head = request_head("GET", b"/a", section, b"Authorization: Bearer token\r\n")
    messages = Messages()
    httptools.HttpRequestParser(messages).feed_data(head)
    assert (messages.began, messages.completed) == (1, 1)
    return messages.fields


def read(fields: Fields, **rules: Iterable[bytes]) -> MessageFields:
    """The fields of a response."""
    return ResponseRules(**rules).read([b"%b: %b\r\n" % field for field in fields])


def returned(fields: Fields, removed: Iterable[bytes] = ()) -> Pairs:
    """The fields that the client reads for a response with these."""
    messages = Messages()
    head = response_head(200, b"OK", read(fields, removed=removed).lines, b"Content-Length: 0\r\n")
    httptools.HttpResponseParser(messages).feed_data(head)
    assert (messages.began, messages.completed) == (1, 1)
    assert messages.fields.pop() == (b"Content-Length", b"0")
    return messages.fields


HOP_BY_HOP = [
    b"Connection",
    b"Keep-Alive",
    b"Proxy-Connection",
    b"Transfer-Encoding",
    b"TE",
    b"Trailer",
    b"Upgrade",
    b"HTTP2-Settings",
    b"Proxy-Authenticate",
    b"Proxy-Authentication-Info",
    b"Proxy-Authorization",
]


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_hop_by_hop_fields_of_a_request_end_here(name: bytes) -> None:
    """A field of one hop is not forwarded, in whatever case it is written (R48)."""
    spellings = [(name, b"a"), (name.lower(), b"b"), (name.upper(), b"c")]
    assert sent([(b"X-A", b"1"), *spellings, (b"X-B", b"2")]) == [HOST, (b"X-A", b"1"), (b"X-B", b"2"), VIA, TOKEN]


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_hop_by_hop_fields_of_a_response_end_here(name: bytes) -> None:
    """The same fields end here on the way back (R49)."""
    spellings = [(name, b"a"), (name.lower(), b"b"), (name.upper(), b"c")]
    assert returned([(b"X-A", b"1"), *spellings, (b"X-B", b"2")]) == [(b"X-A", b"1"), (b"X-B", b"2")]


@pytest.mark.parametrize(
    "connection",
    [
        [b"X-Secret"],
        [b"x-SECRET"],
        [b"", b"X-Secret"],
        [b"X-Secret", b""],
        [b"close", b"keep-alive", b"X-Secret"],
        [b"close, X-Secret , keep-alive"],
        [b",, ,X-Secret,,"],
        [b"\tX-Secret\t"],
    ],
)
def test_nominated_fields_end_here(connection: list[bytes]) -> None:
    """What any `Connection` line names goes no further, in either direction, wherever the line stands (R46, R49)."""
    lines = [(b"Connection", value) for value in connection]
    for fields in ([(b"X-Secret", b"1"), *lines, (b"X-A", b"1")], [*lines, (b"x-secret", b"1"), (b"X-A", b"1")]):
        assert sent(fields) == [HOST, (b"X-A", b"1"), VIA, TOKEN]
        assert returned(fields) == [(b"X-A", b"1")]


def test_nominated_field_with_a_colon_in_its_value() -> None:
    """The name ends at the first colon (R46)."""
    fields = [(b"Connection", b"X-Secret"), (b"X-Secret", b"https://a"), (b"X-A", b"X-Secret: 1")]
    assert sent(fields) == [HOST, (b"X-A", b"X-Secret: 1"), VIA, TOKEN]
    assert returned(fields) == [(b"X-A", b"X-Secret: 1")]


def test_a_client_cannot_drop_what_we_add() -> None:
    """Naming our own fields in `Connection` drops the client's lines at most, never ours (R47)."""
    named = b"Authorization, Host, Content-Length, Via, traceparent, X-Tenant, X-Request-Id"
    fields = [
        (b"Connection", named),
        (b"Host", b"localhost"),
        (b"Content-Length", b"0"),
        (b"Via", b"1.1 other"),
        (b"traceparent", b"00-1-1-00"),
        (b"X-Tenant", b"evil"),
    ]
    expected = [HOST, (b"X-Tenant", b"ours"), VIA, (b"Content-Length", b"0"), TOKEN]
    assert sent(fields, added={"X-Tenant": "ours"}, framing=b"Content-Length: 0\r\n") == expected


def test_an_upstream_cannot_drop_the_length() -> None:
    """`Connection: Content-Length` in a response does not hide where the message ends (R47, R49)."""
    fields = read([(b"Connection", b"Content-Length"), (b"Content-Length", b"5")])
    assert (fields.lines, fields.noted[b"content-length"]) == ([], b"5")


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization",
        b"authorization",
        b"Cookie",
        b"Forwarded",
        b"X-Real-IP",
        b"X_Real_IP",
        b"X-Real_IP",
        b"X-Forwarded-For",
        b"X_Forwarded_For",
        b"X_FORWARDED_FOR",
        b"X-Forwarded_Host",
        b"X_Forwarded-Proto",
        b"x-forwarded-anything-at-all",
        b"Proxy_Authorization",
        b"Transfer_Encoding",
        b"Content_Length",
    ],
)
def test_identity_is_not_the_clients_to_give(name: bytes) -> None:
    """Credentials, cookies, forwarding metadata and their twins with underscores are dropped (R60, R65, R71)."""
    assert sent([(name, b"Basic E2"), (name, b"Bearer EVIL")]) == [HOST, VIA, TOKEN]


@pytest.mark.parametrize("name", [b"X-Forward", b"X_Custom", b"X-Authorization", b"Cookie2", b"X-Real-IP-2", b"Via_"])
def test_names_that_only_resemble_them_pass(name: bytes) -> None:
    """Nothing else is dropped: the published list is exact (R52, R60)."""
    assert sent([(name, b"1")]) == [HOST, (name, b"1"), VIA, TOKEN]


def test_order_duplicates_and_spelling_are_kept() -> None:
    """Unknown fields arrive in their order, every line of them, spelled as they came (R52, R53)."""
    fields = [
        (b"X-A", b"1"),
        (b"if-none-MATCH", b'W/"a", "b"'),
        (b"X-A", b"2"),
        (b"x-b", b"3"),
        (b"Range", b"bytes=0-1,3-"),
        (b"x-a", b""),
    ]
    assert sent(fields) == [HOST, *fields, VIA, TOKEN]
    assert returned(fields) == fields


def test_set_cookie_and_challenges_come_back_whole() -> None:
    """Repeated `Set-Cookie`, `WWW-Authenticate` and `Allow` reach the client as they are (R52, R63)."""
    fields = [
        (b"Set-Cookie", b"a=1; Path=/"),
        (b"WWW-Authenticate", b'Bearer error="invalid_token", error_description="x"'),
        (b"Set-Cookie", b"b=2"),
        (b"Allow", b"GET,  HEAD"),
        (b"Via", b"1.1 edge"),
    ]
    assert returned(fields) == fields


def test_no_field_is_invented() -> None:
    """A request without fields gets Host, Via and the credential, and nothing else (R37, R54)."""
    assert sent([]) == [HOST, VIA, TOKEN]


def test_values_are_kept_byte_for_byte() -> None:
    """obs-text and inner white space survive both ways (R18)."""
    value = b'caf\xe9 \xff\x80\t"a  b"'
    assert sent([(b"X-A", value)]) == [HOST, (b"X-A", value), VIA, TOKEN]
    assert returned([(b"X-A", value)]) == [(b"X-A", value)]


@pytest.mark.parametrize("minor", [0, 1])
def test_via_is_appended(minor: int) -> None:
    """Our Via comes last, says the version that was received, and names no host (R50)."""
    ours = (b"Via", b"1.%d thg-proxy" % minor)
    assert sent([(b"Via", b"1.1 a"), (b"Via", b"1.0 b")], minor=minor) == [
        HOST,
        (b"Via", b"1.1 a"),
        (b"Via", b"1.0 b"),
        ours,
        TOKEN,
    ]


def test_via_can_be_turned_off() -> None:
    """`upstream.via: false` adds none, and leaves the client's (R50)."""
    assert sent([(b"Via", b"1.1 a")], via=False) == [HOST, (b"Via", b"1.1 a"), TOKEN]


@pytest.mark.parametrize(
    "via, ours",
    [
        (b"1.1 thg-proxy", True),
        (b"1.0 THG-Proxy", True),
        (b"1.1 a, HTTP/1.1 thg-proxy (comment)", True),
        (b"1.1 a,1.1  thg-proxy ,1.1 b", True),
        (b"1.1 a", False),
        (b"", False),
        (b",", False),
        (b"thg-proxy", False),
        (b"1.1 thg-proxy.example", False),
        (b"1.1 not-thg-proxy", False),
        (b"1.1 a thg-proxy", False),
        (b"1.1 a (thg-proxy)", False),
    ],
)
def test_a_loop_is_recognised(via: bytes, ours: bool) -> None:
    """A Via entry whose received-by is our pseudonym means that the request has been here (R42)."""
    assert names_us(via) is ours


@pytest.mark.parametrize(
    "rules",
    [RequestRules(b"api.example", removed=["Via"]), RequestRules(b"api.example", added={"Via": "1.1 other"})],
)
def test_the_loop_detector_cannot_be_configured_away(rules: RequestRules) -> None:
    """`upstream.headers` may drop the client's Via from what is sent, not from what is looked at (R42)."""
    assert names_us(rules.read([(b"Via", b"1.1 thg-proxy")]).noted.get(b"via", b""))


def test_configured_fields_replace_the_clients() -> None:
    """`upstream.headers.set` takes the place of a client's field and of its twins; `remove` drops one."""
    fields = [(b"X-TENANT", b"evil"), (b"x_tenant", b"evil"), (b"X-Debug", b"1"), (b"x_debug", b"1"), (b"X-A", b"1")]
    assert sent(fields, added={"X-Tenant": "ours", "X-New": "2"}, removed=["x-debug"]) == [
        HOST,
        (b"X-A", b"1"),
        (b"X-Tenant", b"ours"),
        (b"X-New", b"2"),
        VIA,
        TOKEN,
    ]


def test_noted_fields_are_joined() -> None:
    """What is looked at later is there under its lower-case name, several lines joined by commas (RFC 9110 §5.3)."""
    fields = [(b"HOST", b"localhost"), (b"Expect", b"100-continue"), (b"Via", b"1.1 a"), (b"via", b"1.1 b")]
    noted = RequestRules(b"api.example").read(fields).noted
    assert noted == {b"host": b"localhost", b"expect": b"100-continue", b"via": b"1.1 a,1.1 b"}


def test_fields_that_somebody_wants_to_see() -> None:
    """A noted field is passed on, a withheld one ends here with its twin; both can be looked at (R136, R139)."""
    rules = RequestRules(b"a", removed=["Sec-Fetch-Mode"], noted=[b"origin", b"sec-fetch-mode"], withheld=[b"x-key"])
    fields = [(b"Origin", b"http://a"), (b"Sec-Fetch-Mode", b"cors"), (b"X-Key", b"1"), (b"X_Key", b"1"), (b"X-A", b"")]
    assert rules.read(fields)[:2] == (
        [b"Origin: http://a\r\n", b"X-A: \r\n"],
        {b"origin": b"http://a", b"sec-fetch-mode": b"cors", b"x-key": b"1"},
    )


def test_size_of_a_section() -> None:
    """All that was sent counts, with what ends here: a limit on it can't be got round by dropped fields."""
    fields = [(b"Cookie", b"a" * 10), (b"X-A", b"1"), (b"Connection", b"X-A")]
    size = sum(len(b"%b: %b\r\n" % field) for field in fields)
    assert RequestRules(b"api.example").read(fields).size == size
    assert read(fields).size == size


def test_names_that_never_come_again() -> None:
    """A sender who has another name each time does not fill the memory, and each name is handled as the first was."""
    rules = RequestRules(b"api.example")
    for number in range(2000):
        fields = [(b"X-%d" % number, b"1"), (b"Cookie", b"1"), (b"X_Forwarded_%d" % number, b"1")]
        assert rules.read(fields).lines == [b"X-%d: 1\r\n" % number]
        assert len(rules._handlings.known) <= 512


def test_what_a_response_may_not_say() -> None:
    """Fields that would speak for every program on this machine can be taken out of a response, in any case (R138)."""
    fields = [(name.title(), b"*") for name in sorted(BROWSER_GRANTS)]
    assert returned([*fields, (b"X-A", b"1")], BROWSER_GRANTS) == [(b"X-A", b"1")]
    assert returned(fields) == fields


def test_what_of_a_response_is_for_us() -> None:
    """A withheld field of a response can be looked at, and ends here (R105)."""
    noted = read([(b"DPoP-Nonce", b"n"), (b"X-A", b"1")], withheld=[b"dpop-nonce"])
    assert noted[:2] == ([b"X-A: 1\r\n"], {b"dpop-nonce": b"n"})


def test_the_date_is_noted() -> None:
    """Whether the origin gave a Date is known, and it is passed on as it is (R62)."""
    fields = read([(b"Date", b"Sun, 06 Nov 1994 08:49:37 GMT")])
    assert fields.lines == [b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"]
    assert b"date" in fields.noted


def test_what_decides_over_a_second_sending() -> None:
    """The challenge of a 401 can be looked at, and is passed on (R93, R96)."""
    fields = read([(b"WWW-Authenticate", b"Bearer"), (b"WWW-Authenticate", b"Basic")])
    assert fields.lines == [b"WWW-Authenticate: Bearer\r\n", b"WWW-Authenticate: Basic\r\n"]
    assert fields.noted[b"www-authenticate"] == b"Bearer,Basic"


def test_what_decides_over_a_tunnel() -> None:
    """The protocol that a 101 switches to can be looked at, and ends here (R48)."""
    fields = read([(b"Upgrade", b"websocket")])
    assert (fields.lines, fields.noted) == ([], {b"upgrade": b"websocket"})


def test_response_framing_is_noted_and_rebuilt() -> None:
    """Length and coding of a response are for `forward` to write anew (RFC 9112 §6.3)."""
    fields = read([(b"Content-Length", b"5"), (b"X-A", b"1"), (b"Transfer-Encoding", b"gzip")])
    assert fields[:2] == ([b"X-A: 1\r\n"], {b"content-length": b"5", b"transfer-encoding": b"gzip"})


@pytest.mark.parametrize("reason, line", [(b"OK", b"HTTP/1.1 200 OK\r\n\r\n"), (b"", b"HTTP/1.1 200 \r\n\r\n")])
def test_status_line(reason: bytes, line: bytes) -> None:
    """An empty reason keeps its space (RFC 9112 §4)."""
    assert response_head(200, reason, [], b"") == line


def test_connection_options_are_compared_without_case() -> None:
    """Options are a comma-separated list of tokens in any case (RFC 9110 §7.6.1)."""
    assert connection_options(b"Close, X-A ,\tUpgrade,,") == {b"close", b"x-a", b"upgrade", b""}


# Properties over any list of valid fields (RFC 9110 §5.1, §5.5).

TCHARS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
OURS_TO_WRITE = re.compile(
    rb"(?i)host|connection|keep-alive|proxy-(connection|authenticate|authentication-info|authorization)|te|trailer"
    rb"|transfer-encoding|upgrade|http2-settings|content-length|expect|authorization|cookie|forwarded|x-real-ip"
    rb"|x-forwarded-.*"
)
KNOWN = [
    *HOP_BY_HOP,
    *(b"Host", b"Content-Length", b"Expect", b"Authorization", b"Cookie", b"Forwarded", b"X-Real-IP", b"X_Real_IP"),
    *(b"X-Forwarded-For", b"X_Forwarded_For", b"Via", b"X-A", b"x-a", b"X-B", b"Set-Cookie"),
]
names = st.one_of(st.sampled_from(KNOWN), st.text(TCHARS, min_size=1, max_size=12).map(str.encode))
visible = [*range(0x21, 0x7F), *range(0x80, 0x100)]
inner = [*visible, 0x20, 0x09]
values = st.one_of(
    st.sampled_from([b"", b"close", b"keep-alive, x-a", b"Host, Authorization, Via", b"X-B", b"chunked", b"5"]),
    st.lists(st.sampled_from(inner), max_size=20).map(lambda octets: bytes(octets).strip(b" \t")),
)
any_fields = st.lists(st.tuples(names, values), max_size=12)


def nominated(fields: Pairs) -> set[bytes]:
    joined = b",".join(value for name, value in fields if name.lower() == b"connection")
    return {option.strip(b" \t").lower() for option in joined.split(b",")} - {b"close", b"keep-alive"}


def passes_upstream(name: bytes) -> bool:
    return not OURS_TO_WRITE.fullmatch(name) and not OURS_TO_WRITE.fullmatch(name.replace(b"_", b"-"))


@given(any_fields)
@example([(b"Connection", b"Authorization, Host, Via"), (b"Authorization", b"Bearer EVIL")])
def test_any_request_becomes_one_request(fields: Pairs) -> None:
    """Any valid fields give one message: our Host, all that may pass in order, our credential (R46-R52, R60, R65)."""
    hidden = nominated(fields)
    expected = [(name, value) for name, value in fields if passes_upstream(name) and name.lower() not in hidden]
    assert sent(fields) == [HOST, *expected, VIA, TOKEN]


@given(any_fields)
def test_any_response_becomes_one_response(fields: Pairs) -> None:
    """Any valid fields of a response arrive in order, without those of one hop (R49, R52)."""
    hidden = nominated(fields) | {name.lower() for name in HOP_BY_HOP} | {b"content-length"}
    assert returned(fields) == [(name, value) for name, value in fields if name.lower() not in hidden]
