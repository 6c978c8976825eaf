"""What an upstream may answer, and what the client sees of it: the cases in `upstream/`."""

import pytest

from tests.conformance.cases import Case, load
from tests.conformance.conftest import Play


@pytest.mark.parametrize("case", load("upstream"), ids=lambda case: case.id)
def test_upstream(play: Play, case: Case) -> None:
    """Each answer is relayed, cut or replaced as its case says, and the request after it gets its own answer."""
    play(case)
