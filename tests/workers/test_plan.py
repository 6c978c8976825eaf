"""Shares, stand-ins and restarts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.secret import Secret
from proxy.secret import SecretRef
from proxy.settings import Client, ClientTls, Duration, Limits, OAuth, Refresh, Settings, Upstream
from proxy.workers.plan import Restarts, settings_for_worker, to_watch
from proxy.workers.protocol import Configure, encode


@pytest.mark.parametrize("total, workers, share", [(1024, 2, 512), (1024, 3, 342), (1, 4, 1), (7, 7, 1)])
def test_shares(total: int, workers: int, share: int) -> None:
    """Limits of the whole proxy are shared out evenly, rounded up."""
    settings = Settings(limits=Limits(max_in_flight=total), upstream=Upstream(max_connections=total), workers=workers)
    for_worker = settings_for_worker(settings)
    assert for_worker.limits.max_in_flight == share
    assert for_worker.upstream.max_connections == share


def test_what_a_worker_knows() -> None:
    """Of the identity provider and its client a worker knows nothing; everything else is as configured (R147)."""
    literal = SecretRef("literal", "", Secret("canary"))
    oauth = OAuth(
        token_url="https://canary.example/token",
        issuer="https://canary.example",
        clients=(Client(client_id=literal, client_secret=SecretRef("env", "CANARY")),),
        params={"canary": "canary"},
        tls=ClientTls(key_file="/canary"),
        store="redis://:canary@cache",
        scope="read",
        refresh=Refresh(wait=Duration(7)),
    )
    settings = Settings(oauth=oauth, workers=2)
    for_worker = settings_for_worker(settings)

    assert b"canary" not in encode(Configure(1, 1, for_worker)).lower()
    assert (for_worker.oauth.scope, float(for_worker.oauth.refresh.wait)) == ("read", 7.0)
    assert (for_worker.listen, for_worker.policy, for_worker.log) == (settings.listen, settings.policy, settings.log)
    assert for_worker.shutdown == settings.shutdown


@pytest.mark.parametrize(
    "serving, workers, watched",
    [
        ([1, 2], 2, {1: (1,), 2: (2,)}),
        ([2], 2, {2: (2, 1)}),
        ([], 2, {}),
        ([1, 3], 4, {1: (1, 2), 3: (3, 4)}),
        ([4], 4, {4: (4, 1, 2, 3)}),
    ],
)
def test_stand_ins(serving: list[int], workers: int, watched: dict[int, tuple[int, ...]]) -> None:
    """The sockets of workers that are not there are shared out among the others."""
    assert to_watch(serving, workers) == watched


@given(st.sets(st.integers(1, 12)))
def test_nobody_is_left_out(serving: set[int]) -> None:
    """While one worker serves, all sockets are accepted on, each by one worker, and its own by each."""
    watched = to_watch(serving, 12)
    assert all(number in numbers for number, numbers in watched.items())
    assert sorted(number for numbers in watched.values() for number in numbers) == (
        list(range(1, 13)) if serving else []
    )


@pytest.mark.parametrize(
    "lives, delays",
    [
        ([60.0], [0.0]),
        ([0.25], [0.75]),
        ([0.0] * 8, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]),
        ([0.0, 0.0, 3600.0, 0.0], [1.0, 2.0, 0.0, 1.0]),
        ([5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 3.0]),
    ],
)
def test_restarts(lives: list[float], delays: list[float]) -> None:
    """At most one start a second, and fewer and fewer of what dies young; who has lived long is replaced at once."""
    restarts = Restarts()
    assert [restarts.delay(lived) for lived in lives] == delays
    assert restarts.count == len(lives)
