"""One worker, as its parent sees it."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import cast

from proxy.errors import Stopping, Unavailable
from proxy.tokens import TokenSource
from proxy.workers.channel import Channel
from proxy.workers.protocol import (
    NOBODY,
    Acquire,
    Answer,
    Configured,
    Drain,
    Forget,
    Refused,
    Report,
    Serving,
    Start,
    ToParent,
    ToWorker,
)

# Seconds without a report after which others stand in for a worker, and after which it is ended.
STUCK, LOST = 3, 10
# Seconds from the last word of a worker to the end of its process.
_TO_EXIT = 5.0
# Of the environment, workers get what an interpreter and its libraries go by. A secret can have any other name.
_VARIABLES = frozenset(
    {"AIOHTTP_NO_EXTENSIONS", "HOME", "LANG", "LANGUAGE", "NO_COLOR", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TERM"}
) | {"TMPDIR", "TZ"}
_PREFIXES = ("COVERAGE_", "LC_", "LD_", "MALLOC_", "OPENSSL_", "PYTHON")


class Worker:
    """A process that serves, or will.

    `source`: the token source of a number; `reported` gets each report; `news`: called when its state may be another.
    `state`: starting, serving, stuck, stopping or ended; `has_exited`: and its process, too. `watched`: the workers on
    whose sockets it accepts. `report`: its last one. `configured`: what it said last of a configuration.
    """

    def __init__(
        self,
        number: int,
        *,
        source: Callable[[int], TokenSource | None],
        reported: Callable[[Report], None],
        news: Callable[[], None],
    ) -> None:
        self.number = number
        self.started = time.time()
        self.state = "starting"
        self.has_exited = False
        self.watched: tuple[int, ...] = ()
        self.report: Report | None = None
        self.configured = Configured(0)
        self._silence = 0
        self._source = source
        self._reported = reported
        self._news = news
        self._channel: Channel[ToParent] = Channel(ToParent, self._received)
        self._answers: dict[int, asyncio.Task[None]] = {}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, sockets: Collection[Collection[socket.socket]]) -> None:
        """Raises OSError."""
        descriptors = tuple(tuple(listening.fileno() for listening in each) for each in sockets)
        ours, its = socket.socketpair()
        try:
            with its:
                self._process = await _spawn(its.fileno(), {fd for each in descriptors for fd in each})
        except OSError:
            ours.close()
            raise
        await self._channel.open(ours)
        self.send(Start(self.number, descriptors))

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def in_flight(self) -> int:
        return self.report.in_flight if self.report is not None and self.state != "ended" else 0

    @property
    def is_clogged(self) -> bool:
        """Does it not read what it is sent?"""
        return self._channel.is_clogged

    def has_configured(self, version: int) -> bool:
        """Or can't any more."""
        return self.configured.version >= version or self.state == "ended"

    def has_told(self, question: int) -> bool:
        """Or can't any more."""
        return (self.report is not None and self.report.answers >= question) or self.state == "ended"

    def has_got_stuck(self) -> bool:
        """Asked every second, in which a report should come: one that does not report does not serve."""
        if self.state in ("serving", "stuck"):
            self._silence += 1
        if self._silence == LOST:
            self.kill()
        if self._silence != STUCK:
            return False
        self.state = "stuck"
        return True

    def send(self, message: ToWorker) -> None:
        self._channel.send(message)

    def drain(self) -> None:
        """One that has not begun to serve has nothing to end."""
        if self.state == "starting":
            self.kill()
        elif self.state != "ended":
            self.state = "stopping"
            self.send(Drain())

    async def ended(self) -> int:
        """Its exit code, or minus the signal that ended it; by then all that it had to say has been heard."""
        process = cast(asyncio.subprocess.Process, self._process)
        await self._channel.gone()
        self.state = "ended"
        self._news()
        for task in self._answers.values():
            task.cancel()
        try:
            async with asyncio.timeout(_TO_EXIT):
                return await process.wait()
        except TimeoutError:
            self.kill()
            return await process.wait()
        finally:
            self.has_exited = True

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            cast(asyncio.subprocess.Process, self._process).kill()

    def _received(self, message: ToParent) -> None:
        match message:
            case Acquire(question, source):
                self._answer(question, source, lambda tokens: tokens.acquire())
            case Refused(question, source, generation):
                wait = question != NOBODY
                self._answer(question, source, lambda tokens: tokens.replace(generation, wait=wait))
            case Forget(question):
                if question in self._answers:
                    self._answers[question].cancel()
            case Configured():
                self.configured = message
            case Serving() if self.state == "starting":
                self.state = "serving"
            case Report():
                self._report(message)
        self._news()

    def _report(self, report: Report) -> None:
        self.report = report
        self._silence = 0
        if self.state == "stuck":
            self.state = "serving"
        self._reported(report)

    def _answer(self, question: int, source: int, ask: Callable[[TokenSource], Awaitable[object]]) -> None:
        async def answer() -> None:
            tokens = self._source(source)
            try:
                if tokens is None:
                    raise Stopping
                await ask(tokens)
            except Unavailable as exc:
                self.send(Answer(question, exc.code, exc.retry_after))
            else:
                self.send(Answer(question))

        task = self._answers[question] = asyncio.get_running_loop().create_task(answer())
        task.add_done_callback(lambda _: self._answers.pop(question, None))


async def _spawn(control: int, sockets: Collection[int]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        # What the working directory holds is not imported.
        "-P",
        "-m",
        "proxy.workers",
        str(control),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=(control, *sockets),
        env=environment(os.environ, sys.path),
    )


def environment(environ: Mapping[str, str], path: Iterable[str]) -> dict[str, str]:
    """Of a worker: nothing in it is a secret, and it imports from where its parent does."""
    kept = {name: value for name, value in environ.items() if name in _VARIABLES or name.startswith(_PREFIXES)}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
