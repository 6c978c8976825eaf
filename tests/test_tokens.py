"""The token source against a scripted provider, in a time that jumps from event to event."""

import asyncio
import json
from dataclasses import replace

import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey

from proxy.core.grant import Refusal, TokenResponse
from proxy.core.secret import Secret
from proxy.credential import Credential, Loan
from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.idp import DemoProvider
from proxy.errors import ClientRejected, Stopping, TokenUnavailable, Unavailable
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.settings import Client, Duration, OAuth, Refresh, Verify
from proxy.stores.memory import MemoryStore
from proxy.tokens import TokenSource
from tests.token_stage import CLIENTS, DAY, EPOCH, REJECTED, TRANSIENT, TWO, Stage, failure, literal, token


def sent(credential: Credential | None) -> tuple[bytes, int] | None:
    return None if credential is None else (credential.line, credential.generation)


def test_first_token() -> None:
    """A request that comes before the token waits for it, and gets the whole header field (R85)."""

    async def play(stage: Stage) -> None:
        assert stage.source.current() is None
        credential = await stage.source.acquire()
        assert sent(credential) == (b"Authorization: Bearer abc\r\n", 1)
        assert stage.source.current() is credential
        assert stage.clock.monotonic() == pytest.approx(1000.1)

    stage = Stage()
    stage.run(play)

    assert len(stage.provider.asked) == 1
    assert stage.metric("token_waits_total", result="ok") == 1
    assert stage.metric("token_requests_total", client="primary", result="ok") == 1
    assert stage.metric("token_request_duration_seconds_count") == 1
    assert stage.metric("token_issued_timestamp_seconds") == EPOCH
    assert stage.metric("token_expiry_timestamp_seconds") == EPOCH + 1000
    assert stage.metric("token_generation") == 1
    assert stage.metric("token_usable") == 1
    assert stage.metric("client_last_used_timestamp_seconds", client="primary") == pytest.approx(EPOCH + 0.1)


def test_token_is_replaced_without_traffic() -> None:
    """The timer alone keeps a token at hand, which keeps the client registration in use (R88, R99)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(2500)
        assert sent(stage.source.current()) == (b"Authorization: Bearer abc\r\n", 4)

    stage = Stage()
    stage.run(play)

    # Refreshed at 0.75 of the lifetime, less half of the jitter of 0.1.
    assert stage.provider.asked == pytest.approx([0, 700, 1400, 2100], abs=0.5)
    assert stage.events == [("info", "token_obtained")] * 4


def test_request_starts_the_refresh_when_it_is_due() -> None:
    """`current` asks for a successor once the token is due, and serves the old one meanwhile (R88)."""

    async def play(stage: Stage) -> None:
        await stage.source.acquire()
        stage.provider.latency = 30
        await stage.until(699)
        assert sent(stage.source.current()) == (b"Authorization: Bearer abc\r\n", 1)
        await stage.until(701)
        for _ in range(3):
            assert sent(stage.source.current()) == (b"Authorization: Bearer abc\r\n", 1)
            await asyncio.sleep(1)
        assert stage.provider.asked == pytest.approx([0, 701])
        await stage.until(732)
        assert sent(stage.source.current()) == (b"Authorization: Bearer abc\r\n", 2)

    Stage().run(play)


def test_loans() -> None:
    """Who borrows the token gets the one there is and each that comes, with the time of its end (R90)."""
    loans: list[Loan] = []

    async def play(stage: Stage) -> None:
        stage.source.lend(loans.append)
        assert loans == []
        stage.source.start()
        await stage.until(1)
        assert stage.source.current() is not None
        stage.source.lend(loans.append)
        await stage.until(701)

    stage = Stage()
    stage.run(play)

    assert [(loan.token.reveal(), loan.generation) for loan in loans] == [("abc", 1), ("abc", 1), ("abc", 2)]
    # A lifetime of 1000 seconds, less the margin.
    assert loans[0].until == (1000 + 940, EPOCH + 940)


def test_outage_is_invisible_while_the_token_lives() -> None:
    """A day's token outlives a day's outage, with one line in the log, and ends at its margin (R89, R90, F3)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(1)
        stage.provider.answer = TRANSIENT
        for hour in range(1, 24):
            await stage.until(hour * 3600)
            assert stage.source.current() is not None
        degraded = stage.source.status()
        assert (degraded.state, degraded.usable, degraded.last_error) == ("due", True, "network")
        await stage.until(DAY - 61)
        assert stage.source.current() is not None
        await stage.until(DAY - 59)
        assert stage.metric("token_usable") == 0
        assert stage.source.current() is None
        assert stage.source.status().state == "stale"
        stage.provider.answer = token("def")
        await stage.until(DAY + 60)
        assert sent(stage.source.current()) == (b"Authorization: Bearer def\r\n", 2)

    stage = Stage(token(lifetime=DAY))
    stage.run(play)

    assert stage.metric("token_usable") == 1
    assert stage.events == [
        ("info", "token_obtained"),
        ("warning", "token_refresh_failed"),
        ("error", "token_unavailable"),
        ("info", "token_obtained"),
    ]
    assert stage.metric("token_requests_total", client="primary", result="network") == len(stage.provider.asked) - 2


def test_request_fails_at_once_during_a_backoff() -> None:
    """After a failure nobody waits: 503, with the time until the next attempt (F4, F6, R131)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(10)
        error = await failure(stage.source.acquire())
        assert isinstance(error, TokenUnavailable)
        assert error.retry_after == 21
        assert stage.source.status().retry_after == pytest.approx(20.1)
        assert stage.clock.monotonic() == 1010

    stage = Stage(Refusal("transient", "rate_limited", "status 429", retry_after=30))
    stage.run(play)

    assert stage.metric("token_waits_total", result="error") == 1


def test_failure_wakes_everybody() -> None:
    """When the shared request fails, all who wait for it get its error (R85)."""

    async def play(stage: Stage) -> None:
        errors = await asyncio.gather(*(stage.source.acquire() for _ in range(10)), return_exceptions=True)
        assert [type(error) for error in errors] == [ClientRejected] * 10
        assert {error.retry_after for error in errors if isinstance(error, Unavailable)} == {300}

    stage = Stage(REJECTED)
    stage.run(play)

    assert len(stage.provider.asked) == 1


def test_rejected_client() -> None:
    """`invalid_client` is asked again every five minutes, and the log says what to look at (R82, F7)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        for minute in range(10):
            await stage.until(minute * 60 + 1)
            assert isinstance(await failure(stage.source.acquire()), ClientRejected)
        status = stage.source.status()
        assert (status.state, status.usable, status.last_error) == ("rejected", False, "invalid_client")
        assert status.last_error_at == pytest.approx(EPOCH + 300.2)
        assert status.retry_after == pytest.approx(59.2)

    stage = Stage(REJECTED)
    stage.run(play)

    assert len(stage.provider.asked) == 2
    (line,) = stage.log
    assert (line["level"], line["event"], line["result"]) == ("error", "token_unavailable", "invalid_client")
    assert "4 weeks" in line["hint"]
    assert "12 weeks" in line["hint"]
    assert "Customer Portal, API Settings" in line["hint"]


def test_reload_asks_a_provider_that_refused() -> None:
    """Who has registered the client at last, and reloads, does not wait for the slow retry (R82)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(60)
        stage.source.reconsider()
        await stage.until(61)
        assert stage.source.current() is None
        stage.provider.answer = token()
        await stage.until(120)
        stage.source.reconsider()
        await stage.until(121)
        assert stage.source.current() is not None
        stage.source.reconsider()
        await stage.until(180)

    stage = Stage(REJECTED)
    stage.run(play)

    assert stage.provider.asked == pytest.approx([0, 60, 120])


def test_valid_token_outlives_a_rejected_client() -> None:
    """A permanent refusal is a warning while the token is good (F7)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(1)
        stage.provider.answer = REJECTED
        await stage.until(939)
        assert stage.source.current() is not None
        assert stage.source.status().state == "rejected"

    stage = Stage()
    stage.run(play)

    assert stage.events == [("info", "token_obtained"), ("warning", "token_refresh_failed")]


def test_slow_provider() -> None:
    """A cold request waits for `refresh.wait`, and all who wait share one request (R86, F2)."""

    async def play(stage: Stage) -> None:
        stage.provider.latency = 30
        errors = await asyncio.gather(*(stage.source.acquire() for _ in range(5)), return_exceptions=True)
        assert [type(error) for error in errors] == [TokenUnavailable] * 5
        assert stage.clock.monotonic() == pytest.approx(1005)
        await stage.until(31)
        assert stage.source.current() is not None

    stage = Stage()
    stage.run(play)

    assert stage.provider.asked == [0]
    assert stage.metric("token_waits_total", result="timeout") == 5


def test_slow_refresh_is_invisible() -> None:
    """A refresh that hangs adds nothing to a request while the old token is good (F1)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(1)
        stage.provider.latency = 100
        await stage.until(750)
        before = stage.clock.monotonic()
        assert (await stage.source.acquire()).generation == 1
        assert stage.clock.monotonic() == before

    Stage().run(play)


def test_client_that_leaves_does_not_cancel_the_request() -> None:
    """The first to wait may go: the others get the token that it caused to be fetched (R85, F16)."""

    async def play(stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        first = loop.create_task(stage.source.acquire())
        others = [loop.create_task(stage.source.acquire()) for _ in range(3)]
        await stage.until(0.05)
        first.cancel()
        credentials = await asyncio.gather(*others)
        assert {credential.generation for credential in credentials} == {1}
        assert first.cancelled()

    stage = Stage()
    stage.run(play)

    assert stage.provider.asked == [0]


def test_stop() -> None:
    """Stopping ends the request in flight, refuses those who wait, and leaves a good token in use."""

    async def play(stage: Stage) -> None:
        stage.provider.latency = 100
        waiting = asyncio.get_running_loop().create_task(stage.source.acquire())
        await stage.until(1)
        await stage.source.stop()
        assert isinstance(await failure(waiting), Stopping)
        assert stage.clock.monotonic() == 1001
        assert isinstance(await failure(stage.source.acquire()), Stopping)
        assert await stage.source.refresh() is False
        assert stage.source.status().state == "stopping"

    Stage().run(play)

    async def play_with_token(stage: Stage) -> None:
        stage.source.start()
        await stage.until(1)
        await stage.source.stop()
        await stage.until(939)
        assert stage.source.current() is not None
        await stage.until(941)
        assert stage.source.current() is None

    Stage().run(play_with_token)


def test_refresh_by_the_operator() -> None:
    """A demanded refresh says whether a new token came; it joins a request in flight (R85)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(10)
        assert all(await asyncio.gather(stage.source.refresh(), stage.source.refresh()))
        assert stage.source.status().generation == 2
        stage.provider.answer = TRANSIENT
        await stage.until(20)
        assert await stage.source.refresh() is False
        stage.provider.answer = token("def")
        assert await stage.source.refresh() is True
        assert sent(stage.source.current()) == (b"Authorization: Bearer def\r\n", 3)

    stage = Stage()
    stage.run(play)

    assert stage.provider.asked == pytest.approx([0, 10, 20, 21])


def test_refresh_that_takes_too_long() -> None:
    """An operator waits no longer than a token request may take."""

    async def play(stage: Stage) -> None:
        stage.provider.latency = 100
        assert await stage.source.refresh() is False
        assert stage.clock.monotonic() == pytest.approx(1010)

    Stage().run(play)


@pytest.mark.parametrize("lifetime", [1, 2, 3, 4, 5])
def test_short_lifetimes(lifetime: float) -> None:
    """Every request of a minute gets a token, however short they live; one request a second at most (R92, F11)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        while stage.clock.monotonic() < 1060:
            await stage.source.acquire()
            await asyncio.sleep(0.09)

    stage = Stage(token(lifetime=lifetime))
    stage.run(play)

    assert len(stage.provider.asked) <= 61
    assert set(stage.events) == {("info", "token_obtained")}


def test_token_that_is_over_when_it_arrives() -> None:
    """A token that can't be used is a failure, and backed off from (F12)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(60)
        assert stage.source.status().last_error == "rejected_token"

    stage = Stage(token(lifetime=0.1))
    stage.run(play)

    assert 2 < len(stage.provider.asked) < 10
    assert stage.events == [("error", "token_unavailable")]


@pytest.mark.parametrize("requests", [True, False])
def test_wall_clock_jumps_ahead(requests: bool) -> None:
    """After a jump ahead the token is not used: requests see it at once, the gauge soon (R91, F19)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(100)
        stage.provider.answer = TRANSIENT
        stage.clock.skip(2 * DAY)
        if requests:
            assert stage.source.current() is None
        else:
            await stage.until(131)
        assert stage.metric("token_usable") == 0
        stage.provider.answer = token("def")
        await stage.until(200)
        assert sent(stage.source.current()) == (b"Authorization: Bearer def\r\n", 2)

    Stage().run(play)


def test_wall_clock_jumps_back() -> None:
    """A jump back causes no request, and does not lengthen the token's life (R91, F19)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(100)
        stage.provider.answer = TRANSIENT
        stage.clock.skip(-2 * DAY)
        await stage.until(699)
        assert len(stage.provider.asked) == 1
        await stage.until(939)
        assert stage.source.current() is not None
        await stage.until(941)
        assert stage.source.current() is None

    Stage().run(play)


def test_status() -> None:
    """Times are Unix seconds; errors are of the last request only; the token is not in it (R145)."""

    async def play(stage: Stage) -> None:
        before = stage.source.status()
        assert (before.state, before.usable, before.ever_obtained, before.generation) == ("none", False, False, 0)
        assert (before.issued_at, before.expires_at, before.refresh_at, before.last_error) == (None, None, None, None)
        stage.source.start()
        await stage.until(1)
        status = stage.source.status()
        assert (status.state, status.usable, status.ever_obtained, status.client) == ("fresh", True, True, "primary")
        assert (status.issued_at, status.expires_at, status.refresh_at) == (EPOCH, EPOCH + 1000, EPOCH + 700)
        assert (status.scope, status.verification, status.jwks, status.retry_after) == ("a", "off", None, None)
        assert "abc" not in repr(status) + repr(stage.source.current())

    stage = Stage(token(scope="a"), oauth=OAuth(clients=CLIENTS, scope="a b"))
    stage.run(play)

    (line,) = stage.log
    assert (line["scope"], line["scope_asked"], line["lifetime"], line["lifetime_assumed"]) == ("a", "a b", 1000, False)
    assert "abc" not in stage.stream.getvalue()


def test_lifetime_that_is_not_told() -> None:
    """A token without a lifetime is used for a few minutes, and the log says that this is a guess (R77)."""

    async def play(stage: Stage) -> None:
        await stage.source.acquire()
        assert stage.source.status().expires_at == EPOCH + 300

    stage = Stage(TokenResponse(Secret("abc"), None, None, None, 0))
    stage.run(play)

    assert stage.log[0]["lifetime_assumed"] is True


def test_bug_does_not_end_the_refreshing() -> None:
    """An error that nobody thought of is a failed attempt like others."""

    async def play(stage: Stage) -> None:
        stage.provider.answer = None  # type: ignore[assignment]  # what a bug would give
        assert isinstance(await failure(stage.source.acquire()), TokenUnavailable)
        stage.provider.answer = token()
        await stage.until(5)
        await stage.source.acquire()

    stage = Stage()
    stage.run(play)

    assert stage.log[0]["reason"] == "internal error: AttributeError"


def test_retired_source_leaves_the_metrics_alone() -> None:
    """After a reload they are those of the token in use, whatever becomes of the old one."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(1)
        stage.provider.answer = TRANSIENT
        stage.source.retire()
        await stage.until(2000)
        assert stage.source.current() is None
        assert stage.metric("token_usable") == 1

    Stage().run(play)


# ---- verification

KEY, NEXT = (ECKey.generate_key("P-256", {"kid": kid}) for kid in ("one", "two"))
VERIFIED = OAuth(clients=CLIENTS, verify=Verify(issuer="https://idp.example"))


def signed(
    key: ECKey = KEY, *, kid: str | None = None, at: float = 0, skew: float = 0, **claims: object
) -> TokenResponse:
    """A token of 1000 s, signed `at` seconds after the start."""
    issued = EPOCH + at + skew
    content = {"iss": "https://idp.example", "iat": issued, "exp": issued + 1000} | claims
    return token(jwt.encode({"alg": "ES256", "kid": kid or key.kid}, content, key, algorithms=["ES256"]), skew=skew)


def lasting(key: ECKey = KEY) -> TokenResponse:
    """A token of a day."""
    return replace(signed(key, exp=EPOCH + DAY), expires_in=DAY)


def published(*keys: ECKey) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


def test_token_is_verified() -> None:
    """Where a key set is known, a token is checked before it is used (R114)."""

    async def play(stage: Stage) -> None:
        await stage.source.acquire()
        status = stage.source.status()
        assert status.verification == "require"
        assert status.jwks is not None
        assert (status.jwks.keys, status.jwks.last_error) == (1, None)
        assert status.jwks.fetched_at == pytest.approx(EPOCH + 0.2)

    stage = Stage(signed(), published(KEY), VERIFIED)
    stage.run(play)

    assert stage.metric("jwks_fetches_total", result="ok") == 1


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(signed(NEXT, kid="one"), id="foreign key"),
        pytest.param(signed(iss="https://evil.example"), id="issuer"),
        pytest.param(signed(exp=EPOCH - 100), id="over"),
        pytest.param(token("opaque"), id="opaque"),
    ],
)
def test_bad_token_is_not_used(bad: TokenResponse) -> None:
    """A token that fails its check is dropped, with an alarm and a backoff; the old one stays (R114, F24)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(60)
        assert isinstance(await failure(stage.source.acquire()), TokenUnavailable)
        assert stage.source.status().last_error == "rejected_token"

    stage = Stage(bad, published(KEY), VERIFIED)
    stage.run(play)

    assert 2 < len(stage.provider.asked) < 12
    assert stage.events == [("error", "token_unavailable")]
    assert stage.metric("token_requests_total", client="primary", result="rejected_token") == len(stage.provider.asked)

    async def play_after_a_good_one(stage: Stage) -> None:
        stage.source.start()
        await stage.until(1)
        stage.provider.answer = bad
        await stage.until(900)
        assert stage.source.current() is not None
        assert stage.source.status().last_error == "rejected_token"

    Stage(signed(), published(KEY), VERIFIED).run(play_after_a_good_one)


@pytest.mark.parametrize("type_, usable", [(None, True), ("at+jwt", False)])
def test_token_type(type_: str | None, *, usable: bool) -> None:
    """`verify.type` is what the token must say that it is (R111)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(1)
        assert stage.source.status().usable == usable

    Stage(signed(), published(KEY), OAuth(clients=CLIENTS, verify=Verify(type=type_))).run(play)


@pytest.mark.parametrize(
    "verify, keys, mode",
    [
        (Verify(mode="auto"), None, "off"),
        (Verify(mode="off"), published(NEXT), "off"),
        (Verify(mode="warn"), published(NEXT), "warn"),
    ],
)
def test_unverified_token_is_used(verify: Verify, keys: bytes | None, mode: str) -> None:
    """Verification is off without a key set or by choice; `warn` says so, and uses the token (R113)."""

    async def play(stage: Stage) -> None:
        await stage.source.acquire()
        assert stage.source.status().verification == mode

    stage = Stage(token("opaque"), keys, OAuth(clients=CLIENTS, verify=verify))
    stage.run(play)

    warnings = [("warning", "token_not_verified")] if mode == "warn" else []
    assert stage.events == [*warnings, ("info", "token_obtained")]


def test_unknown_key_is_not_waited_for_in_vain() -> None:
    """With `warn` the token is used without its key."""

    async def play(stage: Stage) -> None:
        await stage.source.acquire()
        assert stage.clock.monotonic() < 1001

    Stage(signed(NEXT), published(KEY), OAuth(clients=CLIENTS, verify=Verify(mode="warn"))).run(play)


def test_warning_is_not_repeated() -> None:
    """`warn` has one line for each new reason, not for each token."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(5000)

    stage = Stage(token("opaque"), published(KEY), OAuth(clients=CLIENTS, verify=Verify(mode="warn")))
    stage.run(play)

    assert stage.events.count(("warning", "token_not_verified")) == 1
    assert len(stage.provider.asked) > 5


def test_rotated_key() -> None:
    """A token with a new key id has the key set fetched once more, and is used (R112, F21)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(600)
        stage.provider.answer, stage.provider.keys = signed(NEXT, at=700), published(KEY, NEXT)
        await stage.until(710)
        assert stage.source.status().generation == 2

    stage = Stage(signed(), published(KEY), VERIFIED)
    stage.run(play)

    assert stage.provider.asked_keys == pytest.approx([0.1, 700.1])


def test_key_that_is_published_late() -> None:
    """While the key set lags behind the signer the old token is used, and no other is asked for (F21a)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(600)
        stage.provider.answer = signed(NEXT, at=700)
        await stage.until(760)
        assert (await stage.source.acquire()).generation == 1
        stage.provider.keys = published(KEY, NEXT)
        await stage.until(830)
        assert (await stage.source.acquire()).generation == 2

    stage = Stage(signed(), published(KEY), VERIFIED)
    stage.run(play)

    assert len(stage.provider.asked) == 2
    assert 4 < len(stage.provider.asked_keys) < 12
    assert stage.events == [
        ("info", "token_obtained"),
        ("warning", "token_waits_for_its_key"),
        ("info", "token_obtained"),
    ]


def test_cold_start_with_a_key_that_is_published_late() -> None:
    """Without an old token there is none until the key shows (F21a)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        error = await failure(stage.source.acquire())
        assert isinstance(error, TokenUnavailable)
        stage.provider.keys = published(NEXT)
        await stage.until(60)
        assert (await stage.source.acquire()).generation == 1

    stage = Stage(signed(NEXT), published(KEY), VERIFIED)
    stage.run(play)

    assert len(stage.provider.asked) == 1
    first, second, *_ = stage.provider.asked_keys
    assert second - first > 0.5, "the key set had only just been fetched"


def test_key_that_is_never_published() -> None:
    """The wait for a key ends, and the token with it; the next one is asked for after a backoff (R112, F24)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(1000)
        assert stage.source.status().last_error == "rejected_token"

    stage = Stage(signed(NEXT, exp=EPOCH + DAY), published(KEY), VERIFIED)
    stage.run(play)

    assert len(stage.provider.asked) < 6


def test_key_set_is_down() -> None:
    """The last good key set serves while no newer one can be had (R113, F22)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(600)
        stage.provider.keys = TRANSIENT
        for at in (700, 1400):
            stage.provider.answer = signed(at=at)
            await stage.until(at + 10)
        status = stage.source.status()
        assert status.generation == 3
        assert status.jwks is not None
        assert (status.jwks.keys, status.jwks.last_error) == (1, "network")
        assert stage.metric("jwks_fetches_total", result="network") == 2

    Stage(signed(), published(KEY), VERIFIED).run(play)


def test_key_set_is_down_for_too_long() -> None:
    """A key set of yesterday proves nothing any more (R112)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(600)
        stage.provider.keys = TRANSIENT
        stage.clock.skip(2 * DAY)
        stage.provider.answer = signed(at=2 * DAY + 600)
        await stage.until(700)
        status = stage.source.status()
        assert not status.usable
        assert status.jwks is not None
        assert status.jwks.keys == 0

    Stage(signed(), published(KEY), VERIFIED).run(play)


def test_removed_key_stops_counting() -> None:
    """A key that is published no longer verifies nothing once the set's age has passed (R112)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(600)
        stage.provider.keys = published(NEXT)
        stage.provider.answer = signed(at=700)
        await stage.until(699)
        assert await stage.source.refresh()
        await stage.until(2000)
        assert stage.source.status().generation == 2

    Stage(signed(), published(KEY), VERIFIED).run(play)


def test_clock_of_the_provider() -> None:
    """A provider whose clock is an hour ahead is believed about its own tokens (R90, F20)."""

    async def play(stage: Stage) -> None:
        await stage.source.acquire()
        assert stage.source.status().expires_at == pytest.approx(EPOCH + 1000, abs=1)

    stage = Stage(signed(skew=3600), published(KEY), VERIFIED)
    stage.run(play)

    assert stage.metric("clock_skew_seconds") == 3600


def test_thousand_cold_requests() -> None:
    """Single flight over real connections: a thousand cold requests cause one token call (R85)."""
    client = Client(client_id=literal("demo"), client_secret=literal("demo-secret"))

    async def main() -> tuple[list[Credential], DemoProvider]:
        async with DemoProvider(RegisteredClient()).running() as peer:
            refresh = Refresh(wait=Duration(60))
            oauth = OAuth(token_url=peer.token_url, jwks_url=peer.jwks_url, clients=(client,), refresh=refresh)
            arrived, gate = asyncio.Event(), asyncio.Event()

            async def answer(request: web.BaseRequest) -> web.StreamResponse:
                arrived.set()
                await gate.wait()
                return await peer.issue_token(request)

            peer.faults.token = answer
            provider = Provider(oauth)
            source = TokenSource(oauth, provider, Metrics(), Log(None), store=MemoryStore())
            waiting = [asyncio.get_running_loop().create_task(source.acquire()) for _ in range(1000)]
            await arrived.wait()
            waiting.pop(0).cancel()
            gate.set()
            credentials = await asyncio.gather(*waiting)
            await source.stop()
            await provider.close()
            return credentials, peer

    credentials, peer = asyncio.run(main())

    assert len(credentials) == 999
    assert len(set(credentials)) == peer.minted == 1
    assert peer.requests == 2, "the token and the key set"


def test_withdrawn_key() -> None:
    """A token whose key is no longer published is replaced before the API refuses it, once (R112)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(600)
        stage.provider.keys = published(NEXT)
        stage.provider.answer = lasting(NEXT)
        await stage.until(899)
        assert stage.source.status().generation == 1
        await stage.until(902)
        assert stage.source.status().generation == 2
        await stage.until(1850)
        assert stage.source.status().generation == 2

    stage = Stage(lasting(), published(KEY), VERIFIED)
    stage.run(play)

    assert ("warning", "signing_key_withdrawn") in stage.events


def test_withdrawn_key_beside_a_standby_client() -> None:
    """That another token has been verified meanwhile changes nothing (R112)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(0.15)
        stage.provider.answer = lasting()
        await stage.until(600)
        assert len(stage.provider.asked) == 2
        stage.provider.keys = published(NEXT)
        stage.provider.answer = lasting(NEXT)
        await stage.until(902)
        assert stage.source.status().generation == 2

    Stage(lasting(), published(KEY), OAuth(clients=TWO.clients, verify=VERIFIED.verify)).run(play)


def test_key_set_that_can_not_be_fetched_withdraws_nothing() -> None:
    """The last good keys vouch for the token while no others can be had (R113, F22)."""

    async def play(stage: Stage) -> None:
        stage.source.start()
        await stage.until(600)
        stage.provider.keys = TRANSIENT
        await stage.until(5000)
        assert stage.source.status().generation == 1

    Stage(lasting(), published(KEY), VERIFIED).run(play)
