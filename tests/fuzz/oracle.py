"""What an independent implementation, h11, reads in the bytes of a connection."""

from contextlib import suppress
from typing import NamedTuple

import h11

Fields = list[tuple[bytes, bytes]]

# The proxy bounds a head; h11's own bound must not be what ends one.
_MAX_HEAD = 1 << 20
_REFUSAL = h11.Response(status_code=400, headers=[("Content-Length", "0")])


class Request(NamedTuple):
    """A whole request. Names of fields are in lower case."""

    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


class Response(NamedTuple):
    """A response; `complete` is false where its connection ended before it."""

    status: int
    reason: bytes
    fields: Fields
    body: bytes
    complete: bool

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


class Reading(NamedTuple):
    """`responses` in their order, `interim` their 1xx, `rest` the bytes that belong to none of them.

    `error`: what h11 finds wrong, else None.
    """

    responses: list[Response]
    interim: list[int]
    rest: bytes
    error: str | None


class Server:
    """Reads the requests of one connection, as they come; each must be answered before the next is read."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._head: h11.Request | None = None
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        if data:
            self._connection.receive_data(data)

    @property
    def head(self) -> Request | None:
        """The request that has begun and is not whole, with what there is of its body."""
        return None if self._head is None else self._request(self._head)

    @property
    def waits_for_continue(self) -> bool:
        return self._head is not None and self._connection.they_are_waiting_for_100_continue

    def next(self) -> Request | None:
        """The next whole request, if it is there. Raises h11.RemoteProtocolError."""
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.Request):
                self._head = event
                self._body.clear()
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert self._head is not None
                head, self._head = self._head, None
                return self._request(head)
            else:
                return None

    def _request(self, head: h11.Request) -> Request:
        return Request(head.method, head.target, head.http_version, list(head.headers), bytes(self._body))

    @property
    def rest(self) -> bytes:
        """What has come, and was not read."""
        return self._connection.trailing_data[0]

    def answered(self) -> bool:
        """The request has been answered; will there be another?"""
        self._connection.send(_REFUSAL)
        self._connection.send(h11.EndOfMessage())
        if self._connection.our_state is not h11.DONE or self._connection.their_state is not h11.DONE:
            return False
        self._connection.start_next_cycle()
        return True


def requests(raw: bytes) -> list[Request]:
    """The whole requests in `raw`, up to the first that h11 does not understand, or that ends the connection."""
    found: list[Request] = []
    with suppress(h11.RemoteProtocolError):
        while raw:
            server = Server()
            # llhttp takes any line ends before a request, h11 none.
            server.feed(raw.lstrip(b"\r\n"))
            request = server.next()
            if request is None:
                break
            found.append(request)
            raw = server.rest if server.answered() else b""
    return found


def responses(raw: bytes, methods: list[bytes], *, ended: bool) -> Reading:
    """The answers in `raw` to requests with these methods; `ended`: nothing comes after them."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    connection.receive_data(raw)
    if ended:
        connection.receive_data(b"")
    found: list[Response] = []
    interim: list[int] = []
    error = None
    for method in methods:
        connection.send(h11.Request(method=method, target=b"/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
        try:
            response = _response(connection, interim)
        except _Broken as exc:
            response, error = exc.response, str(exc)
        if response is not None:
            found.append(response)
        if response is None or not response.complete or connection.their_state is not h11.DONE:
            break
        if connection.our_state is not h11.DONE:
            break
        connection.start_next_cycle()
    return Reading(found, interim, connection.trailing_data[0], error)


class _Broken(Exception):
    def __init__(self, why: str, response: Response | None) -> None:
        super().__init__(why)
        self.response = response


def _response(connection: h11.Connection, interim: list[int]) -> Response | None:
    """The next response, as far as it goes; None where there is none. Raises _Broken."""
    found: Response | None = None
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                found = Response(event.status_code, event.reason, list(event.headers), b"", complete=False)
            elif isinstance(event, h11.Data):
                assert found is not None
                found = found._replace(body=found.body + event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert found is not None
                return found._replace(complete=True)
            else:
                return found
    except h11.RemoteProtocolError as exc:
        raise _Broken(str(exc), found) from exc
