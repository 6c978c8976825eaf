"""One soak, from the start of its servers to the exit of the proxy."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Backstage, Proxy, until
from tests.soak.api import Api
from tests.soak.clients import Clients, Exchange
from tests.soak.process import Configuration, Sample, at_rest, sampled, started

TOKEN_LIFETIME = 5
# Seconds from one to the next; in a short soak there is one of each at least.
ROTATION, RELOAD, PROVIDER_RESTART, API_RESTART = 20.0, 7.0, 31.0, 45.0
# Seconds that the servers are away, and after which nobody suffers from an API that was.
_PROVIDER_AWAY, _API_AWAY, _AFTER = 0.5, 1.0, 1.0
_TICK = 0.1
_KEYS = 2


@dataclass
class Outcome:
    """`outages`: from when until when the API was away. `before`, `after`: descriptors without traffic."""

    exchanges: list[Exchange] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    refused: int = 0
    reloads: dict[str, int] = field(default_factory=dict)
    before: int = 0
    after: int = 0
    in_flight: int = 0
    bugs: list[str] = field(default_factory=list)
    exit_code: int | None = None


class Disturbances:
    """What happens to a proxy during a soak, each at its own time."""

    def __init__(self, stage: "Stage", proxy: Proxy, seconds: float) -> None:
        self._stage = stage
        self._proxy = proxy
        self.outages: list[tuple[float, float]] = []
        self.counts = dict.fromkeys(("key rotations", "reloads", "provider restarts", "API restarts"), 0)
        periods = (ROTATION, RELOAD, PROVIDER_RESTART, API_RESTART)
        actions = (self._rotate, self._reload, self._restart_provider, self._restart_api)
        now = time.monotonic()
        self._periods = [min(period, seconds / 2) for period in periods]
        # Not two at once: what one of them does could be taken for what another does.
        self._due = [now + period * (index + 1) / len(periods) for index, period in enumerate(self._periods)]
        self._actions: list[Callable[[], None]] = list(actions)

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._proxy.process.poll() is None:
            for index, name in enumerate(self.counts):
                if time.monotonic() >= self._due[index]:
                    self._actions[index]()
                    self.counts[name] += 1
                    self._due[index] += self._periods[index]
            time.sleep(_TICK)

    def _rotate(self) -> None:
        provider = self._stage.provider
        provider.rotate_keys()
        provider.published = provider.published[-_KEYS:]

    def _reload(self) -> None:
        self._stage.configuration.write(self.counts["reloads"] + 1)
        self._proxy.process.send_signal(signal.SIGHUP)

    def _restart_provider(self) -> None:
        self._restart(self._stage.provider, _PROVIDER_AWAY)

    def _restart_api(self) -> None:
        began = time.monotonic()
        self._restart(self._stage.api, _API_AWAY)
        self.outages.append((began, time.monotonic() + _AFTER))

    def _restart(self, server: DemoProvider | Api, away: float) -> None:
        self._stage.backstage.run(server.stop())
        time.sleep(away)
        self._stage.backstage.run(server.start(port=server.port))


@dataclass
class Stage:
    backstage: Backstage
    provider: DemoProvider
    api: Api
    configuration: Configuration


@contextmanager
def _staged(directory: Path, workers: int, api_of: Callable[[DemoProvider], Api]) -> Iterator[Stage]:
    # What a restart cuts is nothing to tell of.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    backstage = Backstage()
    provider = DemoProvider(RegisteredClient(client_secret="canary-6f1d9c0b"), lifetime=TOKEN_LIFETIME)
    api = api_of(provider)
    for server in (provider, api):
        backstage.run(server.start())
    try:
        yield Stage(backstage, provider, api, Configuration.of(directory / "config.yaml", provider, api, workers))
    finally:
        for server in (provider, api):
            backstage.run(server.stop())
        backstage.close()


def soak(directory: Path, seconds: float, workers: int = 1, api_of: Callable[[DemoProvider], Api] = Api) -> Outcome:
    """Everything that can happen, for so many seconds. `directory` is for its files."""
    outcome = Outcome()
    with _staged(directory, workers, api_of) as stage, started(stage.configuration, stage.provider) as proxy:
        until(lambda: [worker["state"] for worker in proxy.status()["workers"]] == ["serving"] * workers)
        outcome.before = at_rest(proxy)
        disturbances = Disturbances(stage, proxy, seconds)
        with sampled(proxy) as outcome.samples, Clients(proxy.port) as clients:
            disturbances.run(seconds)
        outcome.exchanges = clients.exchanges
        outcome.outages, outcome.events = disturbances.outages, disturbances.counts
        outcome.tokens, outcome.refused = len(stage.api.tokens), stage.api.refused
        if proxy.process.poll() is None:
            _look_at(proxy, outcome)
        outcome.exit_code = proxy.stop()
        outcome.bugs = _bugs(proxy)
    return outcome


def _look_at(proxy: Proxy, outcome: Outcome) -> None:
    """When the clients have gone."""
    results = ("ok", "failed")
    outcome.reloads = {name: int(proxy.metric("thg_proxy_config_reloads_total", result=name)) for name in results}
    with suppress(AssertionError):  # then it has not settled, and the figures say so
        until(lambda: proxy.metric("thg_proxy_requests_in_flight") == 0 and at_rest(proxy) <= outcome.before)
    outcome.in_flight = int(proxy.metric("thg_proxy_requests_in_flight"))
    outcome.after = at_rest(proxy)


def _bugs(proxy: Proxy) -> list[str]:
    """What a log has of a bug in it, and nothing else has."""
    signs = ('"unexpected_error"', '"library_message"', '"worker_died"', "Traceback")
    return [line for line in proxy.log.splitlines() if any(sign in line for sign in signs)]
