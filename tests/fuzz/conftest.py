"""One stage for all modules: what an example leaves behind would be found by the next one, too."""

from collections.abc import Iterator

import pytest

from tests.fuzz.stage import Stage, opened


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with opened() as stage:
        yield stage
