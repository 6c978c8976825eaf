"""How much is tried: `THG_FUZZ=50` tries fifty times as much, and something else each time."""

import os
from collections.abc import Callable
from functools import wraps
from itertools import count
from typing import Any

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("THG_FUZZ", "1"))
# Of the examples that were tried in this process.
numbers = count()


def tries(examples: int) -> Callable[[Any], Any]:
    """The ordinary run is bounded, and the same each time: it must not fail a change that is not to blame."""
    limits = settings(
        max_examples=examples * FACTOR,
        derandomize=FACTOR == 1,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )

    def bounded(test: Any) -> Any:
        inner = test.hypothesis.inner_test

        @wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> None:
            next(numbers)
            inner(*args, **kwargs)

        test.hypothesis.inner_test = counted
        return limits(test)

    return bounded
