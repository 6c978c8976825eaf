"""The cases as data: YAML, read strictly into frozen values. README.md describes the format for those who write it."""

import re
from pathlib import Path
from typing import Literal, Self

import msgspec
import yaml
from msgspec import Struct

# Where a case comes from: a requirement or fault, a rule, an advisory, an issue, or somebody's own mind.
SOURCE = re.compile(r"[RF]\d+|RFC \d+ §[\d.]+|CVE-\d{4}-\d+|GHSA(-\w{4}){3}|[\w-]+/[\w.-]+#\d+|own")


class Step(Struct, frozen=True, forbid_unknown_fields=True):
    """What an end does beside sending a string; one of these."""

    repeat: str | None = None
    times: int = 1
    client_has: str | None = None
    upstream_has: str | None = None
    until: Literal["closed"] | None = None
    close: Literal["fin", "reset"] | None = None

    def __post_init__(self) -> None:
        actions = (self.repeat, self.client_has, self.upstream_has, self.until, self.close)
        if sum(action is not None for action in actions) != 1:
            raise ValueError("A step does exactly one thing.")


Script = str | Step | tuple[str | Step, ...]


class Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """What the client must get: a response of the upstream, or with `code` a problem document of the proxy."""

    status: int | tuple[int, ...]
    code: str | tuple[str, ...] | None = None
    fields: tuple[str, ...] = ()
    no_fields: tuple[str, ...] = ()
    body: Script | None = None
    bodiless: bool = False
    end: Literal["complete", "truncated", "reset"] = "complete"
    times: int = 1


class Sent(Struct, frozen=True, forbid_unknown_fields=True):
    """What the upstream must get: one whole request."""

    line: str
    fields: tuple[str, ...] = ()
    no_fields: tuple[str, ...] = ()
    only: bool = False
    body: Script = ""
    times: int = 1


class Case(Struct, frozen=True, forbid_unknown_fields=True):
    """One connection of a client, from its first byte to its end."""

    id: str
    source: tuple[str, ...]
    expect: Answer | tuple[Answer, ...]
    send: Script = "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"
    close: bool = False
    answers: tuple[Script, ...] = ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",)
    early: bool = False
    upstream: Literal["none", "incomplete"] | tuple[Sent, ...] = (Sent(line="GET /a HTTP/1.1"),)
    settings: dict[str, str] = {}
    known: str | None = None

    def __post_init__(self) -> None:
        if not self.source or not all(map(SOURCE.fullmatch, self.source)):
            raise ValueError(f"{self.id}: a source is a row, a section of an RFC, an advisory, an issue or `own`.")

    def with_ports(self, ports: dict[str, int]) -> Self:
        """Puts the number in for each `{name}`, which the author of a case can't know."""
        encoded = msgspec.json.encode(self)
        for name, port in ports.items():
            encoded = encoded.replace(b"{%b}" % name.encode(), b"%d" % port)
        return msgspec.json.decode(encoded, type=type(self))

    @property
    def ends_connection(self) -> bool:
        """Is no further request possible on the client's connection?"""
        return self.close or any(answer.end != "complete" for answer in self.expected_answers)

    @property
    def expected_answers(self) -> list[Answer]:
        answers = self.expect if isinstance(self.expect, tuple) else (self.expect,)
        return [answer for answer in answers for _ in range(answer.times)]

    @property
    def expected_requests(self) -> list[Sent]:
        requests = self.upstream if isinstance(self.upstream, tuple) else ()
        return [sent for sent in requests for _ in range(sent.times)]


class Group(Struct, frozen=True, forbid_unknown_fields=True):
    """One file: cases of one subject, and the settings of the proxy that they are for."""

    about: str
    cases: tuple[Case, ...]
    settings: dict[str, str] = {}


def load(folder: str) -> list[Case]:
    """The cases of all files of a folder beside this module, with their file in their id.

    Raises msgspec.ValidationError, which names the place.
    """
    return [case for path in sorted((Path(__file__).parent / folder).glob("*.yaml")) for case in _load_file(path)]


def _load_file(path: Path) -> list[Case]:
    group = msgspec.convert(yaml.safe_load(path.read_bytes()), Group)
    return [
        msgspec.structs.replace(case, id=f"{path.stem}/{case.id}", settings=group.settings | case.settings)
        for case in group.cases
    ]


def steps(script: Script) -> tuple[str | Step, ...]:
    return script if isinstance(script, tuple) else (script,)


def text(script: Script) -> bytes:
    """The bytes that a script sends, all in one."""
    return b"".join(as_bytes(step) for step in steps(script))


def as_bytes(step: str | Step) -> bytes:
    """What one step sends; nothing where it waits. A character is a byte (latin-1)."""
    if isinstance(step, str):
        return step.encode("latin-1")
    return (step.repeat or "").encode("latin-1") * step.times
