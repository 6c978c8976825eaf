"""What to do about a refused token request."""

from proxy.core import grant
from proxy.core.remedies import remedy


def test_every_refusal_for_good_has_a_remedy() -> None:
    """Whoever reads of it learns where to look (R81)."""
    assert all(remedy(error) for error in grant._PERMANENT)


def test_rejected_client() -> None:
    """The likely causes, and where to look."""
    text = remedy("invalid_client") or ""
    assert all(part in text for part in ("4 weeks", "12 weeks", "secret is wrong", "Customer Portal, API Settings"))


def test_no_remedy() -> None:
    """What passes by itself is for whoever shows it to comment on."""
    assert remedy("timeout") is None
