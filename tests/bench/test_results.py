"""What is kept of a run."""

from datetime import UTC, datetime

from .report import Row
from .results import entry


def test_entry_says_all_that_the_figures_depend_on() -> None:
    """When, with which command and on what it was measured; the table of each case; the goals."""
    lines = entry(
        "python -m tests.bench --case idle",
        datetime(2026, 11, 28, 9, 5, tzinfo=UTC),
        {"machine": "2 x CPU", "python": "3.11"},
        {"idle": [Row("thg-proxy", [{"rss_idle": 50.0}]), Row("envoy", [{"rss_idle": 100.0}])]},
    ).splitlines()

    assert lines[0] == "## 2026-11-28 09:05 UTC"
    assert "    python -m tests.bench --case idle" in lines
    assert "- machine: 2 x CPU" in lines
    assert "### idle" in lines
    assert "| thg-proxy | 50.0 | 0.50 |" in lines
