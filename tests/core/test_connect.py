import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.connect import MAX_ANSWER, authority, connect_request, final_status, is_tunnel

GOOD: dict[bytes, int] = {
    b"HTTP/1.1 200 OK\r\n\r\n": 200,
    b"HTTP/1.0 200 Connection established\r\n\r\n": 200,
    b"HTTP/1.1 200 connection established\r\n\r\n": 200,
    b"HTTP/1.1 200 \r\n\r\n": 200,
    b"HTTP/1.1 200\r\n\r\n": 200,
    b"HTTP/1.1 200 \xc3\xa9tabli\r\n\r\n": 200,
    b"HTTP/1.1 204 No Content\r\n\r\n": 204,
    b"HTTP/1.1 299 Fine\r\n\r\n": 299,
    b"HTTP/1.1 200 OK\r\nProxy-Agent: squid\r\nX-Empty:\r\nX-Latin: \xff\r\n\r\n": 200,
    b"HTTP/1.1 200 O\tK\r\n!#$%&'*+.^_`|~09AZaz-: a\tb\r\n\r\n": 200,
    # What they say of a body counts for nothing.
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n": 200,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n": 200,
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nContent-Length: -1\r\nTransfer-Encoding: gzip\r\n\r\n": 200,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n": 200,
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\r\n": 200,
    b"HTTP/1.1 302 Found\r\nLocation: https://login.example\r\n\r\n": 302,
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n": 407,
    b"HTTP/1.1 403 Filtered\r\nContent-Length: 2\r\n\r\nno": 403,
    b"HTTP/1.0 502 Bad Gateway\r\n\r\n<html>\r\n\r\n</html>": 502,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n": 503,
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100 + b"\r\n": 200,
}

BAD = [
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",  # a TLS alert: its listener speaks TLS
    b"\x05\xff",  # SOCKS
    b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"http/1.1 200 OK\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.2 200 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"HTTP/1.1\t200 OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 099 OK\r\n\r\n",
    b"HTTP/1.1 600 OK\r\n\r\n",
    b"HTTP/1.1 +20 OK\r\n\r\n",
    b"HTTP/1.1 200OK\r\n\r\n",
    b"HTTP/1.1 200 O\nK\r\n\r\n",
    b"HTTP/1.1 200 O\x00K\r\n\r\n",
    b"HTTP/1.1 200 O\x1b[2J\r\n\r\n",
    b"HTTP/1.1 200 OK\nA: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tls\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nno HTTP",
    # Before our own bytes there are none in the tunnel.
    b"HTTP/1.1 200 OK\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n(: a\r\n\r\n",
    # Heads without an end.
    b"HTTP/1.1 200 OK\r\nA: ".ljust(MAX_ANSWER, b"a"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)[:MAX_ANSWER],
]


@pytest.mark.parametrize("answer", GOOD, ids=repr)
def test_good(answer: bytes) -> None:
    """The status is known with the last byte of the final head, and not before (RFC 9110 §9.3.6)."""
    assert final_status(answer) == GOOD[answer]
    end = answer.index(b"\r\n\r\n", answer.index(b" %d" % GOOD[answer])) + 4
    assert {final_status(answer[:size]) for size in range(end)} == {None}


@pytest.mark.parametrize("answer", BAD, ids=lambda answer: repr(answer[:60]))
def test_bad(answer: bytes) -> None:
    """What no HTTP proxy would say is no answer, as soon as that is sure."""
    with pytest.raises(ValueError, match=r"\w"):
        final_status(answer)


@pytest.mark.parametrize("status", [200, 204, 299])
def test_every_2xx_is_a_tunnel(status: int) -> None:
    assert is_tunnel(status)


@pytest.mark.parametrize("status", [100, 199, 300, 304, 407, 500, 599])
def test_nothing_else_is_a_tunnel(status: int) -> None:
    assert not is_tunnel(status)


@pytest.mark.parametrize(
    "host, port, expected",
    [
        ("api.example", 443, b"api.example:443"),
        ("192.0.2.1", 80, b"192.0.2.1:80"),
        ("2001:db8::1", 8443, b"[2001:db8::1]:8443"),
    ],
)
def test_request(host: str, port: int, expected: bytes) -> None:
    """The target and `Host` are host and port, and the request is one in the eyes of others, too (RFC 9110 §9.3.6)."""
    assert authority(host, port).encode() == expected
    server = h11.Connection(h11.SERVER)
    server.receive_data(connect_request(host, port))
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target, list(request.headers)) == (b"CONNECT", expected, [(b"host", expected)])
    assert isinstance(server.next_event(), h11.EndOfMessage)
    assert server.trailing_data == (b"", False)


PIECES = st.sampled_from(
    [
        *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"100", b"200", b"407", b"101", b" OK", b" ", b"\r\n", b"\r", b"\n", b"\0"),
        *(b"A: b\r\n", b"Content-Length: 4\r\n", b": ", b"\r\n\r\n", b"\xff", b"HTTP/1.1 200 OK\r\n\r\n"),
    ]
)


@given(st.lists(PIECES | st.binary(max_size=4), max_size=12).map(b"".join))
def test_any_bytes(received: bytes) -> None:
    """Whatever comes is refused, or has a status, or goes on; a tunnel is nothing that h11 would not take for one."""
    try:
        status = final_status(received)
    except ValueError:
        return
    if status is None or not is_tunnel(status):
        return
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="CONNECT", target="a:1", headers=[("Host", "a:1")]))
    client.send(h11.EndOfMessage())
    client.receive_data(received)
    while isinstance(event := client.next_event(), h11.InformationalResponse):
        pass
    assert isinstance(event, h11.Response)
    assert event.status_code == status
    assert client.next_event() is h11.PAUSED
    assert client.trailing_data == (b"", False)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_what_is_refused_stays_refused(received: bytes, more: bytes) -> None:
    """No byte that comes later makes an answer of what was none."""
    begin = b"HTTP/1.1 200 OK\r\n" + received
    try:
        final_status(begin)
    except ValueError:
        with pytest.raises(ValueError, match=r"\w"):
            final_status(begin + more)
