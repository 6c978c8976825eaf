import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.document import json_object


def test_object() -> None:
    """An object is given as it is."""
    assert json_object(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    "document",
    [b"", b"1", b"[1]", b"null", b"[" * 100_000, b"\xff", b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}', b'{"a":NaN}', b"{"],
)
def test_anything_else(document: bytes) -> None:
    """Everything else is a ValueError that does not hold the document (R78, R79)."""
    with pytest.raises(ValueError, match=r"^is n") as caught:
        json_object(document)

    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "document, fault",
    [(b"<html>", "is not JSON"), (b"[1]", "is not a JSON object"), (b"[" * 100_000, "is nested too deep")],
)
def test_fault(document: bytes, fault: str) -> None:
    """What is wrong goes on from "the body", "the JWK Set"."""
    with pytest.raises(ValueError, match=f"^{fault}$"):
        json_object(document)


@given(st.binary())
def test_no_bytes_break_the_json_parser(document: bytes) -> None:
    """Any bytes are an object or a ValueError (R78)."""
    try:
        assert isinstance(json_object(document), dict)
    except ValueError as exc:
        assert exc.__cause__ is None  # noqa: PT017 - both outcomes are right
