"""The shares of the file descriptors."""

import errno
import os
import resource
import sys
from math import inf
from pathlib import Path

import pytest

from proxy.server import descriptors
from proxy.server.descriptors import ADMIN, RESERVE, for_admin, for_clients, in_use, raise_limit


@pytest.mark.parametrize(
    "limit, admin, clients",
    [(64, 8, 12), (256, 32, 96), (1024, ADMIN, 672), (1 << 16, ADMIN, (1 << 16) - RESERVE - ADMIN - 256)],
)
def test_shares(monkeypatch: pytest.MonkeyPatch, limit: int, admin: int, clients: int) -> None:
    """All of them together leave the reserve, without which no token could be renewed (R160, F48)."""
    monkeypatch.setattr(descriptors, "limit", lambda: limit)
    assert (for_admin(), for_clients(256)) == (admin, clients)
    assert for_admin() + for_clients(256) + min(for_clients(256), 256) <= limit - RESERVE


def test_few_upstream_connections_leave_more_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is kept for the upstream than `upstream.max_connections`."""
    monkeypatch.setattr(descriptors, "limit", lambda: 80)
    assert for_clients(1) == 80 - 10 - RESERVE - 1


@pytest.mark.parametrize("limit", [1, 10, RESERVE])
def test_somebody_is_served(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """However few there are, one client may try."""
    monkeypatch.setattr(descriptors, "limit", lambda: limit)
    assert for_clients(256) == 1


def test_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, clients have none; operators do."""
    monkeypatch.setattr(descriptors, "limit", lambda: inf)
    assert (for_admin(), for_clients(256)) == (ADMIN, inf)


@pytest.mark.skipif(sys.platform != "linux", reason="it is /proc that it is about")
def test_in_use() -> None:
    """What is open is counted, beside what may be."""
    used, most = in_use() or (0, 0)
    assert most == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with Path(os.devnull).open():
        assert (in_use() or (0, 0))[0] == used + 1


def test_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no limit, or nothing to look with, there is no figure."""
    monkeypatch.setattr(descriptors, "limit", lambda: inf)
    assert in_use() is None
    monkeypatch.setattr(descriptors, "limit", lambda: 64)
    monkeypatch.setattr(os, "listdir", no_descriptor_left)
    assert in_use() is None


def no_descriptor_left(_path: str) -> list[str]:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize(
    "soft, hard, raised",
    [
        (1024, 4096, 4096),
        (1024, 1 << 30, 1 << 16),
        (1024, resource.RLIM_INFINITY, 1 << 16),
        (4096, 4096, None),
        (1 << 20, 1 << 30, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_raising_the_limit(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int | None) -> None:
    """To what is allowed and of use, never down."""
    wanted: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _what, limits: wanted.append(limits))
    raise_limit()
    assert wanted == ([] if raised is None else [(raised, hard)])


def test_a_limit_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that allows less than it says does not keep the proxy from starting."""

    def refuse(_what: int, _limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _what: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_limit()
