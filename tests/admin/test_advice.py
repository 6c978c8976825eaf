"""What the proxy tells a person to do."""

from dataclasses import replace

import pytest

from proxy.admin.advice import Facts, Use, advice
from proxy.credential import ClientStatus, JwksStatus, TokenStatus

TOKEN = TokenStatus(
    state="fresh",
    usable=True,
    ever_obtained=True,
    client="primary",
    generation=1,
    issued_at=1_700_000_000.0,
    expires_at=1_700_003_600.0,
    refresh_at=1_700_002_700.0,
    last_error=None,
    last_error_at=None,
    retry_after=None,
    scope=None,
    verification="require",
    jwks=JwksStatus(keys=2, fetched_at=1_700_000_000.0, last_error=None),
    clients=(ClientStatus("primary", "active", 1_700_000_000.0, None),),
)
WELL = Facts(
    TOKEN,
    clock_skew=2.0,
    workers=Use(2, 2),
    in_flight=Use(3, 1024),
    descriptors=Use(40, 1024),
    requests=100,
    failures=3,
)
REJECTED = ClientStatus("primary", "rejected", 1_700_000_000.0, "invalid_client")


def token(**changes: object) -> Facts:
    return WELL._replace(token=replace(TOKEN, **changes))  # type: ignore[arg-type] # of any field


def test_nothing_to_say() -> None:
    """A proxy that is well asks for nobody."""
    assert advice(WELL) == []


@pytest.mark.parametrize(
    "facts, code",
    [
        (token(last_error="timeout"), "token_refresh_failing"),
        (token(last_error="timeout", usable=False, state="stale"), "token_unavailable"),
        (token(clients=(REJECTED, replace(REJECTED, name="reserve", state="active"))), "client_rejected"),
        (token(clients=(REJECTED,), last_error="invalid_client", usable=False, state="rejected"), "client_rejected"),
        (token(jwks=JwksStatus(keys=0, fetched_at=None, last_error="http_5xx")), "jwks_unavailable"),
        (WELL._replace(clock_skew=30.0), "clock_skew"),
        (WELL._replace(clock_skew=-30.0), "clock_skew"),
        (WELL._replace(in_flight=Use(820, 1024)), "in_flight_limit_near"),
        (WELL._replace(descriptors=Use(820, 1024)), "descriptors_low"),
        (WELL._replace(workers=Use(1, 2)), "workers_missing"),
        (WELL._replace(requests=10, failures=5), "requests_failing"),
    ],
)
def test_each_trouble_has_one_warning(facts: Facts, code: str) -> None:
    """What is wrong is said once, with what to do about it."""
    (found,) = advice(facts)
    assert (found.level, found.code) == ("warning", code)
    assert found.text.endswith(".")
    assert found.action.endswith(".")


@pytest.mark.parametrize("mode", ["off", "warn"])
def test_unverified_tokens_are_noticed(mode: str) -> None:
    """It is a choice to use tokens unverified, and no alarm."""
    (found,) = advice(token(verification=mode))
    assert (found.level, found.code) == ("notice", "token_not_verified")


def test_the_side_of_the_skew() -> None:
    """Whose clock is behind is said, not just that one is."""
    assert "clock is 30 s behind the" in advice(WELL._replace(clock_skew=30.0))[0].text
    assert "clock is 30 s ahead of the" in advice(WELL._replace(clock_skew=-30.0))[0].text


@pytest.mark.parametrize(
    "facts",
    [
        WELL._replace(requests=4, failures=4),
        WELL._replace(requests=0, failures=0),
        WELL._replace(descriptors=None),
        token(jwks=None),
    ],
)
def test_what_is_not_known_is_not_warned_of(facts: Facts) -> None:
    """Few requests, and what the system does not tell, give no alarm."""
    assert advice(facts) == []


@pytest.mark.parametrize(
    "result, says",
    [
        ("invalid_client", "Customer Portal"),
        ("invalid_scope", "oauth.scope"),
        ("invalid_target", "oauth.resource"),
        ("network", "thg-proxy doctor"),
        ("rate_limited", "keeps trying"),
        ("never_heard_of", "thg-proxy doctor"),
    ],
)
def test_the_advice_fits_the_error(result: str, says: str) -> None:
    """What to do depends on what the provider answered."""
    (found,) = advice(token(last_error=result, usable=False, state="stale"))
    assert result in found.text
    assert says in found.action


def test_several_troubles_are_all_told() -> None:
    """The token comes first: without it nothing else matters."""
    facts = token(last_error="timeout", verification="off")._replace(clock_skew=60.0)
    assert [found.code for found in advice(facts)] == ["token_refresh_failing", "clock_skew", "token_not_verified"]
