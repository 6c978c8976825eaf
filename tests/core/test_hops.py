"""Max-Forwards."""

import pytest

from proxy.core.headers import RequestRules
from proxy.core.hops import FIELD, hops_left, with_hops

RULES = RequestRules(b"api.example", noted=[FIELD])


@pytest.mark.parametrize(
    "value, hops",
    [
        (b"0", 0),
        (b"5", 5),
        (b"000", 0),
        (b"0000000000005", 5),
        (b"999999999", 999_999_999),
        (b"9" * 5000, 10**9),
        (b"", None),
        (b"-1", None),
        (b"1.5", None),
        (b"one", None),
        (b"\xb2", None),
    ],
)
def test_hops(value: bytes, hops: int | None) -> None:
    """A number limits OPTIONS; anything else limits nothing, and neither does a number of absurd length (R57)."""
    fields = RULES.read([(b"Max-Forwards", value)])
    assert hops_left("OPTIONS", fields) == hops
    assert hops_left("GET", fields) is None


def test_two_numbers() -> None:
    """Two lines make a list, which is no number (R57)."""
    assert hops_left("OPTIONS", RULES.read([(b"Max-Forwards", b"1"), (b"max-forwards", b"0")])) is None


def test_no_number() -> None:
    """A request that says nothing is not limited (R57)."""
    assert hops_left("OPTIONS", RULES.read([(b"X-A", b"1")])) is None


def test_another_number() -> None:
    """Only the number changes, in its place (R57)."""
    fields = RULES.read([(b"X-A", b"1"), (b"MAX-forwards", b"5"), (b"X-Max-Forwards", b"5")])
    assert with_hops(fields, 4).lines == [b"X-A: 1\r\n", b"Max-Forwards: 4\r\n", b"X-Max-Forwards: 5\r\n"]
