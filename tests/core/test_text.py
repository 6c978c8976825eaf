"""What strangers write, as it is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.text import MAX_TEXT, one_line


@pytest.mark.parametrize(
    "text, shown",
    [
        ("", ""),
        ("/v1/vehicles", "/v1/vehicles"),
        ("müde 漢字", "müde 漢字"),
        ("a\r\nb", r"a\r\nb"),
        ("müde\n", r"müde\n"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\ud800", r"\ud800"),
        ("x" * MAX_TEXT, "x" * MAX_TEXT),
        ("x" * (MAX_TEXT + 1), "x" * (MAX_TEXT - 1) + "…"),
        ("\n" * (MAX_TEXT // 2), r"\n" * (MAX_TEXT // 2)),
        ("\n" * MAX_TEXT, (r"\n" * MAX_TEXT)[: MAX_TEXT - 1] + "…"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    """What could end the line, move the cursor or turn the text round is escaped, and what is long is cut (R151)."""
    assert one_line(text) == shown


@given(st.text(max_size=2 * MAX_TEXT))
def test_any_text(text: str) -> None:
    """Whatever it is, it is one printable line of bounded length (R151)."""
    assert one_line(text).isprintable()
    assert len(one_line(text)) <= MAX_TEXT
