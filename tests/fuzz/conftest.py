"""One stage for all modules: what an example leaves behind would be found by the next one, too."""

from collections.abc import Iterator

import pytest

from tests.fuzz.profile import numbers
from tests.fuzz.stage import Stage, opened


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with opened() as stage:
        yield stage


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Tells the summary how many examples a test has tried; a property gets there from any process."""
    before = next(numbers)
    try:
        yield
    finally:
        item.user_properties.append(("fuzz_examples", next(numbers) - before - 1))
