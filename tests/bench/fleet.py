"""`python -m tests.bench.fleet`: a week of a thousand instances, as the identity provider and the apps notice it.

The real `TokenSource` runs a thousand times, in a time that jumps from event to event; chance is seeded, so every run
gives the same figures. The shared store is a `MemoryStore`: one in a file or in Redis adds its own latency.
"""

import asyncio
import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import pytest
from prometheus_client import Gauge

from proxy import tokens
from proxy.log import Log
from proxy.metrics import Metrics
from proxy.settings import Duration, OAuth, Refresh, Verify
from proxy.stores.memory import MemoryStore
from proxy.tokens import TokenSource
from tests.token_stage import CLIENTS, DAY, TRANSIENT, Clock, JumpingLoop, Script, token

HOUR = 3600.0
# The instances start one after another in this time.
ROLLOUT = HOUR / 6
# The provider is down as the first tokens are due, from 15.6 h on; all instances are restarted meanwhile.
OUTAGE_BEGINS = 15.5 * HOUR
RESTARTS_BEGIN, RESTARTS_END = 16 * HOUR, 17 * HOUR
OUTAGE_ENDS = 17.5 * HOUR
RECOVERY = HOUR / 6


@dataclass(frozen=True)
class Scenario:
    title: str
    shares_store: bool = False
    jitter: float = Refresh().jitter
    outage: bool = False
    restarts: bool = False


SCENARIOS = (
    Scenario("each its own token"),
    Scenario("the same, `refresh.jitter: 0.375`", jitter=0.375),
    Scenario("shared store", shares_store=True),
    Scenario("each its own token; outage", outage=True),
    Scenario("shared store; outage", shares_store=True, outage=True),
    Scenario("each its own token; outage, restarts", outage=True, restarts=True),
    Scenario("shared store; outage, restarts", shares_store=True, outage=True, restarts=True),
)


@dataclass(frozen=True)
class Outcome:
    """`asked`: when the provider was asked for a token, in seconds after the first start. `granted`: how many it gave.

    `tokenless`: seconds in which an instance had no token to send requests with, summed up over the instances.
    """

    scenario: Scenario
    days: float
    asked: Sequence[float]
    granted: int
    tokenless: float

    @property
    def refused(self) -> int:
        return len(self.asked) - self.granted

    @property
    def per_lifetime(self) -> float:
        """Tokens for the whole fleet; one lives for a day."""
        return self.granted / self.days

    @property
    def later(self) -> list[float]:
        """Without those for the first tokens, for which a fleet without a store has to ask as it starts."""
        return [moment for moment in self.asked if moment > HOUR]

    @property
    def busiest_hour(self) -> int:
        return most(self.later, HOUR)

    @property
    def mean_hour(self) -> float:
        return len(self.later) / (self.days * DAY / HOUR - 1)

    @property
    def in_recovery(self) -> list[float]:
        return [moment for moment in self.asked if OUTAGE_ENDS <= moment < OUTAGE_ENDS + RECOVERY]


def most(moments: Sequence[float], width: float) -> int:
    """How many fall into the fullest of the equal parts, `width` seconds each, of the time."""
    return max(Counter(moment // width for moment in moments).values(), default=0)


class Tokenless(Gauge):
    """`thg_proxy_token_usable` of one instance, which adds up for how many seconds it was 0."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("token_usable", "As that of proxy.metrics.", registry=None)
        self.seconds = 0.0
        self._clock = clock
        self._since: float | None = clock.monotonic()

    def set(self, value: float) -> None:
        now = self._clock.monotonic()
        if self._since is not None:
            self.seconds += now - self._since
        self._since = None if value else now


class Fleet:
    """Instances of one client, and the provider that they ask."""

    def __init__(self, scenario: Scenario) -> None:
        self.clock = Clock()
        self.provider = Script(self.clock, token(lifetime=DAY))
        self.metrics = Metrics()
        self.gauges: list[Tokenless] = []
        self.instances: list[TokenSource] = []
        self._oauth = OAuth(
            clients=CLIENTS,
            refresh=Refresh(jitter=scenario.jitter),
            # There are no keys to look at.
            verify=Verify(mode="off", jwks_max_age=Duration(DAY)),
        )
        self._store = MemoryStore() if scenario.shares_store else None
        self._random = Random(1).random

    def started(self) -> TokenSource:
        """A process that knows nothing of one before it but what is in the shared store."""
        metrics = copy.copy(self.metrics)
        metrics.token_usable = gauge = Tokenless(self.clock)
        self.gauges.append(gauge)
        source = TokenSource(
            self._oauth,
            self.provider,
            metrics,
            Log(None),
            store=self._store or MemoryStore(),
            clock=self.clock,
            random=self._random,
        )
        source.start()
        return source

    async def roll_out(self, size: int) -> None:
        for index in range(size):
            await self.until(ROLLOUT * index / size)
            self.instances.append(self.started())

    async def restart(self) -> None:
        for index, instance in enumerate(self.instances):
            await self.until(RESTARTS_BEGIN + (RESTARTS_END - RESTARTS_BEGIN) * index / len(self.instances))
            await instance.stop()
            self.instances[index] = self.started()

    async def until(self, seconds: float) -> None:
        """Lets the time be `seconds` after the start."""
        await asyncio.sleep(1000 + seconds - self.clock.monotonic())


def simulate(scenario: Scenario, *, size: int = 1000, days: float = 7) -> Outcome:
    fleet = Fleet(scenario)
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=lambda: JumpingLoop(fleet.clock)) as runner:
        # No clock jumps here, and to look at a thousand every 30 seconds is nearly all that would be done.
        patch.setattr(tokens, "CLOCK_CHECK", DAY)
        runner.run(_play(fleet, scenario, size, days))
    granted = fleet.metrics.registry.get_sample_value(
        "thg_proxy_token_requests_total", {"client": CLIENTS[0].name, "result": "ok"}
    )
    tokenless = sum(gauge.seconds for gauge in fleet.gauges)
    return Outcome(scenario, days, fleet.provider.asked, int(granted or 0), tokenless)


async def _play(fleet: Fleet, scenario: Scenario, size: int, days: float) -> None:
    await fleet.roll_out(size)
    if scenario.outage:
        await fleet.until(OUTAGE_BEGINS)
        works, fleet.provider.answer = fleet.provider.answer, TRANSIENT
        if scenario.restarts:
            await fleet.restart()
        await fleet.until(OUTAGE_ENDS)
        fleet.provider.answer = works
    await fleet.until(days * DAY)
    for instance in fleet.instances:
        await instance.stop()


COLUMNS: dict[str, Callable[[Outcome], str]] = {
    "token requests": lambda outcome: f"{len(outcome.asked):,}",
    "of these refused": lambda outcome: f"{outcome.refused:,}",
    "tokens per lifetime": lambda outcome: f"{outcome.per_lifetime:,.1f}",
    "busiest second": lambda outcome: f"{most(outcome.asked, 1)}",
    "after the outage": lambda outcome: f"{most(outcome.in_recovery, 1)}" if outcome.scenario.outage else "",
    "busiest hour": lambda outcome: f"{outcome.busiest_hour:,}",
    "mean hour": lambda outcome: f"{outcome.mean_hour:,.1f}",
    "seconds without a token": lambda outcome: f"{outcome.tokenless:,.0f}",
}


def main() -> None:
    """Prints a Markdown table."""
    rows = [["1,000 instances, 7 days", *COLUMNS]]
    for scenario in SCENARIOS:
        outcome = simulate(scenario)
        rows.append([scenario.title, *(cell(outcome) for cell in COLUMNS.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        print(f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |")


if __name__ == "__main__":
    main()
