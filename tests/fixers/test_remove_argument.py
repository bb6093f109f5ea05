from __future__ import annotations

import pytest

from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("call", "after"),
    [
        pytest.param("f(k=1)", "f()", id="only"),
        pytest.param("f(\n    k=1,\n)", "f()", id="only-on-its-row"),
        pytest.param("f(  # why\n    k=1,\n)", "f(  # why\n    \n)", id="only-with-comment"),
        pytest.param("f(a, k=1)", "f(a)", id="last"),
        pytest.param("f(a, k=1,)", "f(a,)", id="last-with-comma"),
        pytest.param("f(k=1, b=2)", "f(b=2)", id="first"),
        pytest.param("f(a, k=1, b=2)", "f(a, b=2)", id="middle"),
        pytest.param("f(a,\n  k=1, b=2)", "f(a, b=2)", id="first-of-its-row"),
        pytest.param("f(\n    a,\n    k=1,  # why\n    b=2,\n)", "f(\n    a,\n    b=2,\n)", id="own-row"),
        pytest.param("f(\n    a,  # about a\n    k=1\n)", "f(\n    a,  # about a\n)", id="own-row-last"),
        pytest.param("f(a,  # about a\n  k=1, b=2)", "f(a,  # about a\n   b=2)", id="comment-before"),
        pytest.param("f(k=1,  # why\n  b=2)", "f(  # why\n  b=2)", id="comment-behind-first"),
    ],
)
def test_removes_it(repair: Repair, call: str, after: str) -> None:
    assert repair(f"{call}\n", {"argument": "k=1"}) == f"{after}\n"
