"""A peer's JSON: an object, or nothing."""

import json
from typing import Any


def json_object(document: bytes) -> dict[str, Any]:
    """A peer's JSON object. ValueError for everything else, two members of one name (RFC 8259 §4) and NaN included."""
    try:
        value = json.loads(document.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except ValueError:
        # `from None`: the decoder's error holds the document.
        raise ValueError("is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - one error for all that a peer can get wrong
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _refuse(constant: str) -> None:
    raise ValueError(constant)
