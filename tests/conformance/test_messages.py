"""The strict reader on which every case stands: what it lets through, nothing else would notice."""

import pytest

from tests.conformance.messages import read_request, read_response

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 999 OK\r\n\r\n",
        HEAD + b"X : y\r\n\r\n",
        HEAD + b"X: a\r\n b\r\n\r\n",
        HEAD + b"X: a\nY: b\r\n\r\n",
        HEAD + b"X: a\x00b\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    ],
)
def test_deviations_are_found(data: bytes) -> None:
    """A response of the proxy that is not in the grammar, or is framed twice, fails its case."""
    with pytest.raises(AssertionError):
        read_response(data, ended=True, bodiless=False)


@pytest.mark.parametrize("line", [b"GET  /a HTTP/1.1", b"GET /a b HTTP/1.1", b"GET /a HTTP/1.0", b"GET /\xe9 HTTP/1.1"])
def test_odd_request_lines_are_found(line: bytes) -> None:
    """A request line that another server could read in another way fails its case."""
    with pytest.raises(AssertionError):
        read_request(line + b"\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize(
    "data, ended, body, complete",
    [
        (HEAD + b"Content-Length: 5\r\n\r\nhel", True, b"hel", False),
        (HEAD + b"Content-Length: 3\r\n\r\nhello", False, b"hel", True),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n", True, b"hello", False),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nmore", False, b"hello", True),
        (HEAD + b"\r\nhello", False, b"hello", False),
        (HEAD + b"\r\nhello", True, b"hello", True),
        (b"HTTP/1.1 204 No Content\r\n\r\nmore", False, b"", True),
    ],
)
def test_bodies(data: bytes, ended: bool, body: bytes, complete: bool) -> None:
    """A whole body is told from one that was cut (RFC 9112 §6.3)."""
    message = read_response(data, ended=ended, bodiless=False)
    assert message is not None
    assert (message.body, message.complete) == (body, complete)
