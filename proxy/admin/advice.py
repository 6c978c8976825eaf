"""What is wrong, or will be soon, in words, and what a person can do about it."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from proxy.clients import TOLERABLE_SKEW
from proxy.core.remedies import remedy
from proxy.credential import TokenStatus

_NEARLY_ALL = 0.8
# Fewer requests than this say nothing about the API.
_FEW_REQUESTS = 5
_MANY_FAILURES = 0.5

Level = Literal["warning", "notice"]


class Use(NamedTuple):
    """How much of something that has a limit is in use."""

    used: int
    limit: int

    @property
    def is_nearly_all(self) -> bool:
        return self.used >= _NEARLY_ALL * self.limit


class Facts(NamedTuple):
    """What is known of the proxy. `clock_skew`: the provider's clock minus ours, in seconds.

    `workers`: how many serve, of how many. `requests`, `failures`: of the last minute; a failure is not the client's
    doing. `descriptors` is None where the system does not tell.
    """

    token: TokenStatus
    clock_skew: float
    workers: Use
    in_flight: Use
    descriptors: Use | None
    requests: int
    failures: int


class Advice(NamedTuple):
    """`level`: a warning asks for somebody; a notice is for whoever looks anyway."""

    level: Level
    code: str
    text: str
    action: str


_DOCTOR = "Run thg-proxy doctor: it finds the step that fails."
_LATER = "The proxy keeps trying. If it goes on, ask whoever runs the identity provider."
# By the result of a token request, as the metric names it; core.remedies knows the others.
_TOKEN_ACTIONS = {
    "http_5xx": _LATER,
    "rate_limited": _LATER,
    "server_error": _LATER,
    "temporarily_unavailable": _LATER,
    "timeout": f"Does this machine reach the identity provider? {_DOCTOR}",
    "network": f"Does this machine reach the identity provider? {_DOCTOR}",
    "invalid_response": f"Is oauth.token_url the provider's token endpoint? {_DOCTOR}",
    "rejected_token": f"Does oauth.verify fit the tokens that the provider issues? {_DOCTOR}",
    "secret_unreadable": f"The source of the client's secret gives no usable value. {_DOCTOR}",
}


def advice(facts: Facts) -> list[Advice]:
    """The most urgent first."""
    return [found for rule in _RULES for found in rule(facts)]


def _after(result: str) -> str:
    """What to do after a token request with this result."""
    known = remedy(result)
    return _TOKEN_ACTIONS.get(result, _DOCTOR) if known is None else f"{known} Then POST /refresh on this port."


def _token(facts: Facts) -> Iterator[Advice]:
    token = facts.token
    rejected = {client.last_error for client in token.clients if client.state == "rejected"}
    if token.last_error is not None and token.last_error not in rejected:
        code = "token_refresh_failing" if token.usable else "token_unavailable"
        effect = "the token in use is still good" if token.usable else "there is no usable token"
        yield Advice("warning", code, f"Token requests fail ({token.last_error}): {effect}.", _after(token.last_error))


def _clients(facts: Facts) -> Iterator[Advice]:
    for client in facts.token.clients:
        if client.state == "rejected":
            result = client.last_error or "rejected"
            text = f"The identity provider rejects the client {client.name} ({result})."
            yield Advice("warning", "client_rejected", text, _after(result))


def _workers(facts: Facts) -> Iterator[Advice]:
    serving, configured = facts.workers
    if serving < configured:
        yield Advice(
            "warning",
            "workers_missing",
            f"{serving} of {configured} workers serve.",
            "If that does not change by itself, worker_died, worker_failed or worker_stuck in the log says why.",
        )


def _traffic(facts: Facts) -> Iterator[Advice]:
    if facts.requests >= _FEW_REQUESTS and facts.failures >= _MANY_FAILURES * facts.requests:
        yield Advice(
            "warning",
            "requests_failing",
            f"{facts.failures} of the {facts.requests} requests of the last minute failed.",
            "The errors by code say why. A status of 5xx without a code is the API's own.",
        )


def _load(facts: Facts) -> Iterator[Advice]:
    if facts.in_flight.is_nearly_all:
        yield Advice(
            "warning",
            "in_flight_limit_near",
            f"{facts.in_flight.used} requests are in flight, of the {facts.in_flight.limit} that may be.",
            "Find out why the API is slow, or raise limits.max_in_flight.",
        )


def _descriptors(facts: Facts) -> Iterator[Advice]:
    if facts.descriptors is not None and facts.descriptors.is_nearly_all:
        yield Advice(
            "warning",
            "descriptors_low",
            f"{facts.descriptors.used} file descriptors are open, of the {facts.descriptors.limit} that may be; when"
            " they run out, clients wait for a connection.",
            "Raise the limit (ulimit -n, LimitNOFILE of systemd), or look for clients that keep too many connections.",
        )


def _clock(facts: Facts) -> Iterator[Advice]:
    if abs(facts.clock_skew) > TOLERABLE_SKEW:
        side = "behind" if facts.clock_skew > 0 else "ahead of"
        yield Advice(
            "warning",
            "clock_skew",
            f"This machine's clock is {abs(facts.clock_skew):.0f} s {side} the identity provider's.",
            "Let NTP set this machine's clock.",
        )


def _jwks(facts: Facts) -> Iterator[Advice]:
    jwks = facts.token.jwks
    if jwks is not None and jwks.last_error is not None:
        yield Advice(
            "warning",
            "jwks_unavailable",
            f"The provider's signing keys could not be fetched ({jwks.last_error}).",
            "Does this machine reach oauth.jwks_url? Until then, tokens that are signed with a new key are refused.",
        )


def _verification(facts: Facts) -> Iterator[Advice]:
    if facts.token.verification != "require":
        yield Advice(
            "notice",
            "token_not_verified",
            "Tokens are used without a valid signature being required.",
            "Set oauth.issuer or oauth.jwks_url, and leave oauth.verify.mode at auto.",
        )


_RULES: tuple[Callable[[Facts], Iterator[Advice]], ...] = (
    _token,
    _clients,
    _workers,
    _traffic,
    _load,
    _descriptors,
    _clock,
    _jwks,
    _verification,
)
