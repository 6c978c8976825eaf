"""How figures become tables."""

from math import isnan

import pytest

from .report import Column, Row, as_json, markdown, spread, table

LATENCY = Column("p50", "p50 ms", "{:.2f}")
ADDED = Column("p50", "added", "{:.2f}", ratio="envoy", over="direct")
RATE = Column("rate", "requests/s", "{:.0f}", ratio="envoy")


def rows() -> list[Row]:
    return [
        Row("direct", [{"p50": 0.1, "rate": 900}]),
        Row("thg-proxy", [{"p50": 0.3, "rate": 300}, {"p50": 0.2, "rate": 400}, {"p50": 9.0, "rate": 500}]),
        Row("envoy", [{"p50": 0.5, "rate": 200}]),
    ]


def test_table_compares_the_medians_of_the_rounds() -> None:
    """Each figure is the median of its rounds; beside it stands that divided by the figure of the reference."""
    assert table((LATENCY, RATE), rows()).splitlines() == [
        "           p50 ms  requests/s  x envoy",
        "   direct    0.10         900     4.50",
        "thg-proxy    0.30         400     2.00",
        "    envoy    0.50         200     1.00",
    ]


def test_added_is_what_comes_on_top_of_another_row() -> None:
    """What a proxy adds is compared with what the reference adds, and the row on top of which it comes adds nothing."""
    assert ADDED.value("thg-proxy", rows()) == pytest.approx(0.2)
    assert ADDED.compared("thg-proxy", rows()) == pytest.approx(0.5)
    assert isnan(ADDED.value("direct", rows()))


@pytest.mark.parametrize("missing", ["direct", "envoy"])
def test_what_has_nothing_to_be_compared_with_is_a_dash(missing: str) -> None:
    """A ratio to a row that failed, or to nothing, is not invented."""
    measured = rows()
    for row in measured:
        if row.name == missing:
            row.failure = "did not start"

    lines = table((ADDED,), measured).splitlines()

    assert lines[-1] == f"{missing}: FAILED: did not start"
    assert next(line for line in lines if "thg-proxy" in line).split()[-1] == "-"


def test_reference_that_adds_nothing_gives_no_ratio() -> None:
    """Where noise is larger than what the reference adds, dividing by it means nothing."""
    measured = [*rows()[:2], Row("envoy", [{"p50": 0.1}])]

    assert isnan(ADDED.compared("thg-proxy", measured))


def test_a_figure_that_a_row_lacks_is_a_dash() -> None:
    """Not every row has every figure."""
    measured = [Row("direct", [{"rate": 1}]), *rows()[1:]]

    assert table((LATENCY,), measured).splitlines()[1].split() == ["direct", "-"]


def test_markdown_is_the_same_table() -> None:
    """For RESULTS.md; a failure is a paragraph of its own."""
    measured = [*rows()[:1], Row("envoy", failure="ended with 1")]

    assert markdown((LATENCY,), measured) == (
        "|  | p50 ms |\n| --- | ---: |\n| direct | 0.10 |\n\nenvoy: FAILED: ended with 1"
    )


def test_spread_is_a_part_of_the_median() -> None:
    """Below it a difference means nothing."""
    assert spread([9, 10, 12]) == pytest.approx(0.3)


def test_json_keeps_every_round() -> None:
    """For whoever wants to look closer."""
    assert as_json(rows()[1:2]) == {
        "thg-proxy": {"failure": "", "median": {"p50": 0.3, "rate": 400}, "rounds": rows()[1].rounds}
    }
