"""HTTP clients as apps have them: each makes the same calls in its own way, and says what it saw."""

import asyncio
import hashlib
import io
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import httpx2
import msgspec
import requests

from tests.real_parts import real_part

PIECE = 1 << 16
Pairs = list[tuple[str, str]]


class Call(msgspec.Struct, frozen=True):
    """`body`: a file, sent with its length or `chunked`. `leaves`: goes in the middle of the answer."""

    method: str = "GET"
    target: str = "/small"
    fields: dict[str, str] = {}
    body: str | None = None
    chunked: bool = False
    leaves: bool = False


class Seen(msgspec.Struct):
    """The bytes of a field are given as characters; some clients put the fields into an order of their own."""

    status: int
    fields: Pairs
    length: int
    digest: str
    trailers: Pairs = []


class RealClient(Protocol):
    def run(self, url: str, calls: Sequence[Call], *, at_once: bool = False) -> list[Seen]:
        """Makes the calls one after another on a connection that is kept, or all `at_once`."""


def sight(status: int, fields: Iterable[tuple[str, str]], pieces: Iterable[bytes]) -> Seen:
    digest = hashlib.sha256()
    length = 0
    for piece in pieces:
        digest.update(piece)
        length += len(piece)
    return Seen(status, list(fields), length, digest.hexdigest())


def text(pairs: Iterable[tuple[bytes, bytes]]) -> Pairs:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs]


def pieces(path: str) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        yield from iter(lambda: file.read(PIECE), b"")


class InThreads:
    """A client whose calls block."""

    def _all(self, exchange: Callable[[Call], Seen | None], calls: Sequence[Call], *, at_once: bool) -> list[Seen]:
        with ThreadPoolExecutor() as pool:
            seen = (pool.map if at_once else map)(exchange, calls)
            return [one for one in seen if one is not None]


class Requests(InThreads):
    def run(self, url: str, calls: Sequence[Call], *, at_once: bool = False) -> list[Seen]:
        with requests.Session() as session:
            session.trust_env = False
            return self._all(lambda call: self._exchange(session, url, call), calls, at_once=at_once)

    def _exchange(self, session: requests.Session, url: str, call: Call) -> Seen | None:
        body: Any = None
        if call.body is not None:
            body = pieces(call.body) if call.chunked else Path(call.body).open("rb")  # noqa: SIM115 - closed below
        try:
            with session.request(
                call.method, url + call.target, headers=call.fields, data=body, stream=True, allow_redirects=False
            ) as response:
                if call.leaves:
                    return None
                fields = response.raw.headers.iteritems()
                return sight(response.status_code, fields, response.raw.stream(PIECE, decode_content=False))
        finally:
            if body is not None:
                body.close()


class Httpx(InThreads):
    def run(self, url: str, calls: Sequence[Call], *, at_once: bool = False) -> list[Seen]:
        with httpx2.Client(trust_env=False) as client:
            return self._all(lambda call: self._exchange(client, url, call), calls, at_once=at_once)

    def _exchange(self, client: httpx2.Client, url: str, call: Call) -> Seen | None:
        body: Any = None
        if call.body is not None:
            body = pieces(call.body) if call.chunked else Path(call.body).read_bytes()
        with client.stream(call.method, url + call.target, headers=call.fields, content=body) as response:
            if call.leaves:
                return None
            return sight(response.status_code, text(response.headers.raw), response.iter_raw())


class Aiohttp:
    def run(self, url: str, calls: Sequence[Call], *, at_once: bool = False) -> list[Seen]:
        return asyncio.run(self._run(url, calls, at_once=at_once))

    async def _run(self, url: str, calls: Sequence[Call], *, at_once: bool) -> list[Seen]:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            if at_once:
                seen = await asyncio.gather(*(self._exchange(session, url, call) for call in calls))
            else:
                seen = [await self._exchange(session, url, call) for call in calls]
        return [one for one in seen if one is not None]

    async def _exchange(self, session: aiohttp.ClientSession, url: str, call: Call) -> Seen | None:
        body: Any = None
        if call.body is not None:
            body = self._chunks(call.body) if call.chunked else io.BytesIO(b"".join(pieces(call.body)))
        fields = dict(call.fields)
        expects = fields.pop("Expect", None) is not None
        async with session.request(
            call.method, url + call.target, headers=fields, data=body, allow_redirects=False, expect100=expects
        ) as response:
            if call.leaves:
                response.close()
                return None
            received = [piece async for piece in response.content.iter_any()]
            return sight(response.status, text(response.raw_headers), received)

    async def _chunks(self, path: str) -> AsyncIterator[bytes]:
        for piece in pieces(path):
            yield piece


class Program:
    """A program that reads a plan, and writes what it saw."""

    def __init__(self, *command: str | Path) -> None:
        self._command = command

    def run(self, url: str, calls: Sequence[Call], *, at_once: bool = False) -> list[Seen]:
        plan = msgspec.json.encode({"url": url, "calls": calls, "at_once": at_once})
        done = subprocess.run(self._command, input=plan, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return msgspec.json.decode(done.stdout, type=list[Seen])


class Curl:
    """`version`: an option like --http1.0."""

    def __init__(self, directory: Path, version: str = "--http1.1") -> None:
        self._directory = directory
        self._version = version

    def run(self, url: str, calls: Sequence[Call], *, at_once: bool = False) -> list[Seen]:
        curl = real_part("curl", "curl")
        command = [curl, "--disable", *(["--parallel"] if at_once else [])]
        outputs = [
            (self._directory / f"{number}.head", self._directory / f"{number}.body") for number in range(len(calls))
        ]
        for number, (call, (head, body)) in enumerate(zip(calls, outputs, strict=True)):
            body.write_bytes(b"")
            command += ["--next"] if number else []
            # curl takes the head that it asks for with --head for the body, too.
            kept = "/dev/null" if call.method == "HEAD" else str(body)
            command += [*self._options(call), "--dump-header", str(head), "--output", kept, url + call.target]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return [self._read(head, body) for call, (head, body) in zip(calls, outputs, strict=True) if not call.leaves]

    def _options(self, call: Call) -> Iterator[str]:
        yield from ("--silent", "--show-error", "--path-as-is", "--noproxy", "*", self._version)
        yield from ("--head",) if call.method == "HEAD" else ("--request", call.method)
        for name, value in call.fields.items():
            yield from ("--header", f"{name}: {value}")
        if call.body is not None:
            yield from ("--upload-file", call.body)
        if call.chunked:
            yield from ("--header", "Transfer-Encoding: chunked")
        if call.leaves:
            # It gives up as soon as it knows how much there is.
            yield from ("--max-filesize", "1000")

    def _read(self, head: Path, body: Path) -> Seen:
        blocks = [block.split("\r\n") for block in head.read_bytes().decode("latin-1").split("\r\n\r\n") if block]
        # Before the last one there are interim answers, behind it may be trailers.
        last = max(number for number, block in enumerate(blocks) if block[0].startswith("HTTP/"))
        status_line, *lines = blocks[last]
        seen = sight(int(status_line.split(" ")[1]), map(split, lines), pieces(str(body)))
        seen.trailers = [split(line) for block in blocks[last + 1 :] for line in block if line]
        return seen


def split(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()
