"""What a client may send, and what becomes of it: the cases in `client/`."""

import pytest

from tests.conformance.cases import Case, load
from tests.conformance.conftest import Play


@pytest.mark.parametrize("case", load("client"), ids=lambda case: case.id)
def test_client(play: Play, case: Case) -> None:
    """Each request is served or refused as its case says, and the one after it gets its own answer."""
    play(case)
