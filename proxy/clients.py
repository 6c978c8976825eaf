"""The registered clients: who asks the provider for a token, with what, and what came of it."""

from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import NamedTuple

from proxy.clock import Clock, read
from proxy.core.client_auth import ClientCredentials
from proxy.core.grant import Refusal, TokenResponse
from proxy.core.lifecycle import Now
from proxy.core.remedies import remedy
from proxy.core.roster import Roster, Trial
from proxy.credential import ClientStatus
from proxy.errors import SecretUnreadable
from proxy.idp import Provider
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.rotation import RotatingSecret
from proxy.settings import OAuth

# A clock that is wrong by more than this is worth a warning, in seconds: tokens seem to be issued in the future, or end
# early.
TOLERABLE_SKEW = 10.0

# After these the next client is asked: nothing but an operator's hand helps this one (RFC 6749 §5.2).
_OF_THE_CLIENT = frozenset({"invalid_client", "unauthorized_client", "secret_unreadable"})


class Answer(NamedTuple):
    """A token, asked for at `sent` by the client of that index."""

    response: TokenResponse
    sent: Now
    client: int


class _Member:
    """A client, and what is known of it. `last_used`: Unix seconds."""

    def __init__(self, name: str, secret: RotatingSecret) -> None:
        self.name = name
        self.secret = secret
        self.last_used: float | None = None
        self.last_error: str | None = None


class Clients:
    """Those of `oauth.clients`, in order of preference, known by their index."""

    def __init__(self, oauth: OAuth, provider: Provider, metrics: Metrics, log: Log, *, clock: Clock) -> None:
        self._provider = provider
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._members = [_Member(client.name, RotatingSecret(oauth, client, log)) for client in oauth.clients]
        retry = oauth.refresh.backoff.rejected
        self._roster = Roster(len(self._members), exercise=oauth.standby_exercise, retry=retry)
        self._is_skewed = False

    @property
    def active(self) -> str:
        """The name of the client that obtained the token in use."""
        return self.name(self._roster.active)

    def name(self, index: int) -> str:
        return self._members[index].name

    def index(self, name: str) -> int | None:
        """None where no client has that name."""
        return next((index for index, member in enumerate(self._members) if member.name == name), None)

    def status(self) -> tuple[ClientStatus, ...]:
        return tuple(
            ClientStatus(member.name, self._state(index), member.last_used, member.last_error)
            for index, member in enumerate(self._members)
        )

    def _state(self, index: int) -> str:
        if self._roster.is_refused(index):
            return "rejected"
        return "active" if index == self._roster.active else "standby"

    # Who.

    def turns(self) -> list[int]:
        """Who is asked for the next token, until one is accepted."""
        return self._roster.turns()

    def next_trial(self) -> Trial | None:
        """When a client that does not ask for the ordinary tokens is to ask for one; None where there is none."""
        return self._roster.trial(self._clock.monotonic())

    def is_exercised(self, index: int, used: Mapping[str, float]) -> bool:
        """Has another process exercised the client? `used`: when each obtained its latest token, in Unix seconds."""
        now, at = read(self._clock), used.get(self.name(index), -inf)
        return self._roster.exercised(index, now.mono - max(0.0, now.wall - at), now.mono)

    def put_off(self, index: int) -> None:
        """The trial of a client could not be made."""
        self._roster.untold(index, self._clock.monotonic())

    def is_to_take_over(self, index: int) -> bool:
        return self._roster.outranks_active(index)

    def put_in_charge(self, index: int) -> None:
        """The token of this client is used from here on."""
        before, self._roster.active = self._roster.active, index
        if index != before:
            self._log.warning("client_takes_over", client=self.name(index), before=self.name(before))

    # With what.

    @property
    def secret_files(self) -> set[str]:
        """The files that hold what lasts."""
        return {file for member in self._members for file in member.secret.files}

    async def secret_files_changed(self, files: Collection[str]) -> bool:
        """Has the client that asks for the ordinary tokens a new secret, which the next token request proves?

        Those of the others are proved by trials, which are due at once then.
        """
        is_active = False
        for index, member in enumerate(self._members):
            if not set(files).isdisjoint(member.secret.files) and await member.secret.is_news():
                self._roster.changed(index)
                is_active = is_active or index == self._roster.active
        return is_active

    # What came of it.

    async def ask(self, turns: Sequence[int]) -> Answer | Refusal:
        """Asks the provider by the first of `turns`, and by the next where that client is refused."""
        answer = await self._ask(turns[0])
        for index in turns[1:]:
            if not (isinstance(answer, Refusal) and answer.result in _OF_THE_CLIENT):
                break
            answer = await self._ask(index)
        return answer

    async def _ask(self, index: int) -> Answer | Refusal:
        answer = await self._present(index)
        if isinstance(answer, Refusal):
            self._refused(index, answer)
        else:
            now, member = read(self._clock), self._members[index]
            self._roster.worked(index, now.mono)
            member.last_used, member.last_error = now.wall, None
            self._metrics.client_last_used.labels(member.name).set(now.wall)
            self._note_skew(answer.response.clock_skew)
        return answer

    async def _present(self, index: int) -> Answer | Refusal:
        """Shows the provider the client's secret, and the one before it where that is refused."""
        try:
            offers = await self._members[index].secret.offers()
        except SecretUnreadable as exc:
            return Refusal("rejected", exc.code, exc.detail)
        answer = await self._request(index, offers[0])
        for other in offers[1:]:
            if not (isinstance(answer, Refusal) and answer.result == "invalid_client"):
                break
            answer = await self._request(index, other)
        return answer

    async def _request(self, index: int, credentials: ClientCredentials) -> Answer | Refusal:
        secret, sent = self._members[index].secret, read(self._clock)
        response = await self._provider.request_token(credentials)
        self._metrics.token_request_duration.observe(self._clock.monotonic() - sent.mono)
        if not isinstance(response, Refusal):
            secret.accepted(credentials)
            return Answer(response, sent, index)
        if response.result == "invalid_client":
            secret.refused(credentials)
        return response

    def _refused(self, index: int, refusal: Refusal) -> None:
        member, now = self._members[index], self._clock.monotonic()
        self._metrics.token_requests.labels(member.name, refusal.result).inc()
        member.last_error = refusal.result
        if refusal.result not in _OF_THE_CLIENT:
            self._roster.untold(index, now)
            return
        if len(self._members) > 1 and not self._roster.is_refused(index):
            self._log.error(
                "client_rejected",
                client=member.name,
                result=refusal.result,
                reason=refusal.description,
                hint=remedy(refusal.result),
            )
        self._roster.refused(index, now)

    def _note_skew(self, skew: float) -> None:
        self._metrics.clock_skew.set(skew)
        is_skewed = abs(skew) > TOLERABLE_SKEW
        if is_skewed and not self._is_skewed:
            self._log.warning("clock_skew", seconds=round(skew, 1), hint="let NTP set this machine's clock")
        self._is_skewed = is_skewed
