"""Several clients: who obtains the token, and what keeps the others in use."""

import asyncio
from pathlib import Path

import pytest

from proxy.core.grant import Refusal
from proxy.errors import ClientRejected
from proxy.secret import SecretRef
from proxy.settings import Client, OAuth
from tests.token_stage import DAY, EPOCH, TRANSIENT, TWO, Stage, failure, literal, token


def states(stage: Stage) -> dict[str, str]:
    return {client.name: client.state for client in stage.source.status().clients}


def test_next_client_takes_over_at_once() -> None:
    """A request that waits for the first token gets that of the second client, and operators hear of it loudly."""

    async def play(stage: Stage) -> None:
        stage.provider.refused = {"id"}
        await stage.source.acquire()
        assert stage.clock.monotonic() == pytest.approx(1000.2)
        assert stage.source.status().client == "backup"
        assert states(stage) == {"primary": "rejected", "backup": "active"}

    stage = Stage(oauth=TWO)
    stage.run(play)

    assert stage.provider.shown == [("id", "secret"), ("id2", "secret2")]
    assert stage.events == [
        ("error", "client_rejected"),
        ("warning", "client_takes_over"),
        ("info", "token_obtained"),
    ]
    assert "4 weeks without use" in stage.log[0]["hint"]
    assert "Customer Portal" in stage.log[0]["hint"]
    assert stage.metric("token_requests_total", client="primary", result="invalid_client") == 1
    assert stage.metric("token_requests_total", client="backup", result="ok") == 1
    assert stage.metric("client_last_used_timestamp_seconds", client="backup") == pytest.approx(EPOCH + 0.2)


def test_client_whose_secret_can_not_be_read(tmp_path: Path) -> None:
    """The next one takes over, and operators hear which file it is (R100)."""
    secret = tmp_path / "secret"
    primary = Client(client_id=literal("id"), client_secret=SecretRef("file", str(secret)))

    async def play(stage: Stage) -> None:
        await stage.source.acquire()
        assert states(stage) == {"primary": "rejected", "backup": "active"}

    stage = Stage(oauth=OAuth(clients=(primary, TWO.clients[1])))
    stage.run(play)

    assert stage.provider.shown == [("id2", "secret2")]
    assert (
        stage.log[0]
        | {
            "event": "client_rejected",
            "client": "primary",
            "result": "secret_unreadable",
            "reason": f"the file {secret} can't be read: No such file or directory",
        }
        == stage.log[0]
    )
    assert stage.metric("token_requests_total", client="primary", result="secret_unreadable") == 1


def test_first_client_is_taken_back() -> None:
    """It is tried on the slow schedule, and its token used as soon as there is one (R82)."""

    async def play(stage: Stage) -> None:
        stage.provider.refused = {"id"}
        stage.source.start()
        await stage.until(599)
        assert [shown for shown, _ in stage.provider.shown] == ["id", "id2", "id"]
        assert states(stage) == {"primary": "rejected", "backup": "active"}
        stage.provider.refused = set()
        await stage.until(602)
        assert states(stage) == {"primary": "active", "backup": "standby"}
        assert stage.source.status().generation == 2
        assert stage.source.status().last_error is None

    stage = Stage(token(lifetime=DAY), oauth=TWO)
    stage.run(play)

    assert len(stage.provider.asked) == 4
    assert stage.events.count(("error", "client_rejected")) == 1
    assert stage.log[-2] | {"client": "primary", "before": "backup"} == stage.log[-2]


def test_refresh_by_the_second_client() -> None:
    """While the first is refused, the second refreshes the token, and asks for no more than the first would."""

    async def play(stage: Stage) -> None:
        stage.provider.refused = {"id"}
        stage.source.start()
        await stage.until(1500)
        assert stage.source.current() is not None

    stage = Stage(oauth=TWO)
    stage.run(play)

    shown = [shown for shown, _ in stage.provider.shown]
    assert shown.count("id2") == 3
    assert shown.count("id") <= 1500 / 300 + 1


def test_standby_client_is_exercised() -> None:
    """It obtains a token when the proxy starts and every `standby_exercise`; the first one's stays in use."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(15 * DAY)
        assert states(stage) == {"primary": "active", "backup": "standby"}
        assert stage.source.status().client == "primary"

    stage = Stage(token(lifetime=DAY), oauth=TWO)
    stage.run(play)

    used = [at for at, (shown, _) in zip(stage.provider.asked, stage.provider.shown, strict=True) if shown == "id2"]
    assert used == [pytest.approx(day * 7 * DAY, abs=60) for day in range(3)]
    assert stage.metric("client_last_used_timestamp_seconds", client="backup") == pytest.approx(
        EPOCH + 14 * DAY, abs=60
    )


def test_refused_standby_client_is_reported() -> None:
    """That the second client is gone is said before it is needed; requests notice nothing."""

    async def play(stage: Stage) -> None:
        stage.provider.refused = {"id2"}
        stage.source.start()
        await stage.until(250)
        assert states(stage) == {"primary": "active", "backup": "rejected"}
        assert stage.source.status().last_error is None
        assert (await stage.source.acquire()).generation == 1

    stage = Stage(oauth=TWO)
    stage.run(play)

    assert ("error", "client_rejected") in stage.events
    assert len(stage.provider.asked) == 2


def test_all_clients_are_refused() -> None:
    """Each is asked once on the slow schedule, and requests fail at once (R82, F7)."""

    async def play(stage: Stage) -> None:
        stage.provider.refused = {"id", "id2"}
        stage.source.start()
        await stage.until(290)
        assert isinstance(await failure(stage.source.acquire()), ClientRejected)
        assert len(stage.provider.asked) == 2
        await stage.until(600)
        assert len(stage.provider.asked) == 4
        stage.provider.refused = {"id"}
        await stage.until(610)
        assert states(stage) == {"primary": "rejected", "backup": "active"}

    Stage(oauth=TWO).run(play)


@pytest.mark.parametrize("refusal", [TRANSIENT, Refusal("rejected", "invalid_scope", "status 400; 'invalid_scope'")])
def test_other_failures_are_not_of_the_client(refusal: Refusal) -> None:
    """Where another client would fail as well, it is not asked (R81)."""

    async def play(stage: Stage) -> None:
        await failure(stage.source.acquire())

    stage = Stage(refusal, oauth=TWO)
    stage.run(play)

    assert stage.provider.shown == [("id", "secret")]


def test_requests_are_never_under_way_at_once() -> None:
    """A trial and a refresh at the same moment follow one another (R85)."""
    under_way = 0
    most = 0

    async def play(stage: Stage) -> None:
        request = stage.provider.request_token

        async def counted(credentials: object) -> object:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                return await request(credentials)  # type: ignore[arg-type]
            finally:
                under_way -= 1

        stage.provider.request_token = counted  # type: ignore[method-assign, assignment]
        stage.provider.latency = 5
        stage.source.start()
        await stage.until(5.5)
        await asyncio.gather(*(stage.source.refresh() for _ in range(3)))
        await stage.until(30)

    stage = Stage(oauth=TWO)
    stage.run(play)

    assert [shown for shown, _ in stage.provider.shown] == ["id", "id2", "id"]
    assert most == 1


@pytest.mark.parametrize("skew, warned", [(3600.0, True), (-30.0, True), (5.0, False), (0.0, False)])
def test_clock_skew(skew: float, *, warned: bool) -> None:
    """How far the provider's clock is ahead is shown, and more than some seconds are a warning, once (F20)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(3000)

    stage = Stage(token(skew=skew))
    stage.run(play)

    assert stage.metric("clock_skew_seconds") == skew
    assert stage.events.count(("warning", "clock_skew")) == warned
