"""How a case is played: a raw client, an upstream with a script, a trap, and the proxy's process between them."""

import asyncio
from dataclasses import dataclass, field

from tests.conformance.cases import Answer, Case, Script, as_bytes, steps
from tests.conformance.checks import check_answer, check_requests, check_secrets, credential
from tests.conformance.ends import End, News, UpstreamEnd
from tests.conformance.messages import Message, read_response
from tests.peers import Trap

# A plain request, which the settings of every group allow; the upstream answers it with its target.
_PROBE = b"/v1/vehicles/probe"
_PROBE_REQUEST = b"GET %b HTTP/1.1\r\nHost: localhost\r\nX-Probe: 1\r\n\r\n" % _PROBE
_PROBE_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_PROBE), _PROBE)


@dataclass
class Act:
    """A case in play: its client, and the requests that have come to the upstream."""

    case: Case
    client: End
    begun: int = 0
    playing: int = 0
    requests: list[Message] = field(default_factory=list)

    def next_script(self) -> Script:
        """One script a request, the last one again and again."""
        script = self.case.answers[min(self.begun, len(self.case.answers) - 1)]
        self.begun += 1
        return script


class Stage:
    """The ends that all cases of a module share, on one event loop."""

    def __init__(self, trap: Trap) -> None:
        self._trap = trap
        self._news = News()
        self._clients: list[End] = []
        self._connections: list[UpstreamEnd] = []
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: UpstreamEnd(self._news, self._accepted), "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def play(self, case: Case, proxy_port: int) -> None:
        """Raises AssertionError for whatever is not as the case says, or as it must be in every case."""
        case = case.with_ports({"trap": self._trap.port, "upstream": self.port, "proxy": proxy_port})
        client = await self._connect(proxy_port)
        self._act = act = Act(case, client)
        try:
            await self._perform(client, case.send)
            at = await self._compare_answers(act)
            await self._news.until(lambda: not act.playing, "the end of an upstream's script")
            await self._check_what_follows(act, at)
            await self._probe(await self._connect(proxy_port))
            check_requests(case, act.requests, self.port)
            check_secrets(client.data, act.requests)
            self._check_leftovers(act)
        except AssertionError as exc:
            exc.add_note(f"the client got {client.data[:2000]!r}, ended by {client.ended or 'nobody'}")
            raise
        finally:
            await self._clear()

    async def _connect(self, port: int) -> End:
        loop = asyncio.get_running_loop()
        _, end = await loop.create_connection(lambda: End(self._news), "127.0.0.1", port)
        self._clients.append(end)
        return end

    async def _perform(self, end: End, script: Script, token: bytes = b"") -> None:
        for step in steps(script):
            end.write(as_bytes(step).replace(b"{token}", token))
            if isinstance(step, str):
                continue
            if step.client_has is not None:
                await self._until_seen(step.client_has, [self._act.client])
            elif step.upstream_has is not None:
                await self._until_seen(step.upstream_has, self._connections)
            elif step.until is not None:
                await self._news.until(lambda: end.ended, "the proxy closes")
            elif step.close is not None:
                end.close(step.close)

    async def _until_seen(self, text: str, ends: list[End] | list[UpstreamEnd]) -> None:
        sought = text.encode("latin-1")
        await self._news.until(lambda: any(sought in end.data for end in ends), f"somebody has {text!r}")

    # The client's side.

    async def _compare_answers(self, act: Act) -> int:
        """Returns how many bytes the expected answers took."""
        at = 0
        expected = act.case.expected_answers
        for number, answer in enumerate(expected, 1):
            message = await self._answer(act.client, at, answer, f"answer {number}")
            check_answer(answer, message, act.client.ended, is_last=act.case.close and number == len(expected))
            at += message.size
        return at

    async def _check_what_follows(self, act: Act, at: int) -> None:
        """Behind the last answer the connection ends, or else serves the next request."""
        if act.case.ends_connection:
            await self._news.until(lambda: act.client.ended, "the end of the client's connection")
            assert act.client.data[at:] == b"", "more than was expected came to the client"
        else:
            await self._probe(act.client, at)

    async def _answer(self, client: End, at: int, answer: Answer, what: str) -> Message:
        def message() -> Message | None:
            ended = client.ended == "fin"
            found = read_response(client.data[at:], ended=ended, bodiless=answer.bodiless)
            assert found or not client.ended, f"no {what}, but {client.data[at:]!r} and a {client.ended}"
            return found if found and (found.complete or client.ended) else None

        return await self._news.until(message, what)

    async def _probe(self, end: End, at: int = 0) -> None:
        """A plain request gets the answer that is its own, and nothing else."""
        end.write(_PROBE_REQUEST)
        response = await self._answer(end, at, Answer(status=200), "answer to the request that follows")
        assert (response.status, response.body) == (200, _PROBE), "another request's answer"
        assert end.data[at + response.size :] == b""

    # The upstream's side.

    def _accepted(self, end: UpstreamEnd) -> None:
        self._connections.append(end)
        self._serving.add(asyncio.get_running_loop().create_task(self._serve(end)))

    async def _serve(self, end: UpstreamEnd) -> None:
        while (head := await end.head()) and await self._exchange(self._act, end, head):
            pass

    async def _exchange(self, act: Act, end: UpstreamEnd, head: Message) -> bool:
        """Answers one request; False if it never came to its end."""
        if head.target.endswith(_PROBE):
            end.write(_PROBE_ANSWER)
            return await end.whole() is not None
        if act.case.early:
            await self._play_script(act, end, head)
        request = await end.whole()
        if request is None:
            return False
        act.requests.append(request)
        if not act.case.early:
            await self._play_script(act, end, request)
        return True

    async def _play_script(self, act: Act, end: UpstreamEnd, request: Message) -> None:
        act.playing += 1
        try:
            await self._perform(end, act.next_script(), credential(request))
        finally:
            act.playing -= 1
            self._news.tell()

    def _check_leftovers(self, act: Act) -> None:
        unread = b"".join(end.unread for end in self._connections)
        assert not unread or act.case.upstream == "incomplete", f"the upstream got {unread!r}"
        assert self._trap.hits == 0

    async def _clear(self) -> None:
        """Ends all connections, and waits until the proxy has, too: each case begins with an empty pool."""
        for end in self._clients:
            end.leave()
        for end in self._connections:
            end.close("fin")
        await self._news.until(lambda: all(end.ended for end in self._connections), "the proxy gives up a connection")
        for end in self._connections:
            end.leave()
        serving = list(self._serving)
        self._clients, self._connections, self._serving = [], [], set()
        await asyncio.gather(*serving)
