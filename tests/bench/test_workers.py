"""Whose cores are whose, and how evenly the work is spread."""

import pytest

from .workers import Places, busiest, places


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_too_few_cores(cores: int) -> None:
    """A rate that something else than the proxy limits is not that of the proxy."""
    assert places(frozenset(range(cores)), workers=2) is None


def test_enough_cores() -> None:
    """The proxy, the API and the load are not in each other's way."""
    assert places(frozenset({1, 2, 3, 5, 8}), workers=2) == Places(
        proxy=frozenset({1, 2}), api=frozenset({3, 5}), load=frozenset({8})
    )
    many = places(frozenset(range(64)), workers=8)
    assert many is not None
    assert [len(each) for each in (many.proxy, many.api, many.load)] == [8, 8, 4]
    assert len(many.proxy | many.api | many.load) == 20


def test_busiest() -> None:
    """Of the work between two moments, the part of the process that did most; one that has ended counts no more."""
    assert busiest({1: 100, 2: 50}, {1: 130, 2: 60}) == 0.75
    assert busiest({1: 100, 2: 50, 3: 0}, {1: 110, 2: 60, 4: 99}) == 0.5
