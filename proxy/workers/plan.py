"""What is decided without waiting: who gets how much, who stands in for whom, and when one is started again."""

from collections.abc import Collection, Mapping

import msgspec

from proxy.settings import OAuth, Refresh, Settings

# A worker that has served for so long died of something new.
_LONG_LIFE = 10.0
_MAX_INTERVAL = 30.0


def settings_for_worker(settings: Settings) -> Settings:
    """One worker's share of the limits; and of `oauth`, nothing that leads to the provider or to a secret."""
    return msgspec.structs.replace(
        settings,
        limits=msgspec.structs.replace(
            settings.limits, max_in_flight=_share(settings.limits.max_in_flight, settings.workers)
        ),
        upstream=msgspec.structs.replace(
            settings.upstream, max_connections=_share(settings.upstream.max_connections, settings.workers)
        ),
        oauth=OAuth(clients=(), scope=settings.oauth.scope, refresh=Refresh(wait=settings.oauth.refresh.wait)),
    )


def _share(total: int, workers: int) -> int:
    return -(-total // workers)


def to_watch(serving: Collection[int], workers: int) -> Mapping[int, tuple[int, ...]]:
    """Whose sockets each worker that serves accepts on: its own, and those of workers that don't serve, in turn."""
    there = sorted(serving)
    watched = {number: [number] for number in there}
    missing = [number for number in range(1, workers + 1) if number not in watched]
    for index, number in enumerate(missing if there else ()):
        watched[there[index % len(there)]].append(number)
    return {number: tuple(numbers) for number, numbers in watched.items()}


class Restarts:
    """When one is started in the place of a worker that has died: at once, or later and later where each dies young."""

    def __init__(self) -> None:
        self.count = 0
        self._died_young = 0

    def delay(self, lived: float) -> float:
        """Seconds to wait, after a life of `lived` seconds."""
        self.count += 1
        self._died_young = 0 if lived >= _LONG_LIFE else self._died_young + 1
        # From one start to the next.
        interval = min(_MAX_INTERVAL, 2.0 ** (self._died_young - 1))
        return max(0.0, interval - lived)
