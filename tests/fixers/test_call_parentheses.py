from __future__ import annotations

import pytest

from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("before", "expression", "after"),
    [
        pytest.param("model.eval  # off\n", "model.eval", "model.eval()  # off\n", id="attribute"),
        pytest.param("(model.eval)\n", "(model.eval)", "(model.eval)()\n", id="own-parentheses"),
        pytest.param("(a or b)\n", "(a or b)", "(a or b)()\n", id="operator-in-parentheses"),
        pytest.param("a or b\n", "a or b", "(a or b)()\n", id="operator"),
    ],
)
def test_calls_it(repair: Repair, before: str, expression: str, after: str) -> None:
    assert repair(before, {"expression": expression}) == after
