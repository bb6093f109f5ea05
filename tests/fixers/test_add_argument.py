from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("call", "after"),
    [
        pytest.param("f()", "f(k=1)", id="empty"),
        pytest.param("f( )", "f(k=1)", id="empty-with-space"),
        pytest.param("f(  # none\n)", "f(k=1  # none\n)", id="empty-with-comment"),
        pytest.param("f(a)", "f(a, k=1)", id="one"),
        pytest.param("f(a, )", "f(a, k=1, )", id="trailing-comma"),
        pytest.param("f(*a, **b)", "f(*a, **b, k=1)", id="behind-stars"),
        pytest.param("f(x for x in y)", "f((x for x in y), k=1)", id="bare-generator"),
        pytest.param("f((x for x in y))", "f((x for x in y), k=1)", id="generator"),
        pytest.param("f(\n    a,\n    b,\n)", "f(\n    a,\n    b,\n    k=1,\n)", id="own-rows"),
        pytest.param("f(\n    a,\n    b\n)", "f(\n    a,\n    b,\n    k=1\n)", id="own-rows-without-comma"),
        pytest.param("f(\n    a,\n    b)", "f(\n    a,\n    b,\n    k=1)", id="closed-on-the-last-row"),
        pytest.param("f(\n    a, b,\n)", "f(\n    a, b, k=1,\n)", id="shared-row"),
        pytest.param(
            "f(\n    a,  # first\n    b  # second\n    # end\n)",
            "f(\n    a,  # first\n    b,  # second\n    k=1\n    # end\n)",
            id="comments",
        ),
        pytest.param(
            "f(\n    a,  # first\n    b,  # second\n)",
            "f(\n    a,  # first\n    b,  # second\n    k=1,\n)",
            id="comments-and-comma",
        ),
        pytest.param("f(a,\n  b)", "f(a,\n  b,\n  k=1)", id="aligned"),
        pytest.param("f(\r\n    a,\r\n)", "f(\r\n    a,\r\n    k=1,\r\n)", id="crlf"),
    ],
)
def test_adds_a_keyword(repair: Repair, call: str, after: str) -> None:
    assert repair(f"x = {call}\n", {"call": call}, code="k=1") == f"x = {after}\n"


@pytest.mark.parametrize(
    ("call", "after"),
    [
        pytest.param("f()", "f(1)", id="empty"),
        pytest.param("f(a)", "f(a, 1)", id="one"),
        pytest.param("f(a, k=2)", "f(a, 1, k=2)", id="before-keywords"),
        pytest.param("f(**b)", "f(1, **b)", id="before-double-star"),
        pytest.param("f(\n  a,\n  k=2,\n)", "f(\n  a,\n  1,\n  k=2,\n)", id="own-rows"),
    ],
)
def test_adds_a_positional_argument(repair: Repair, call: str, after: str) -> None:
    assert repair(f"{call}\n", {"call": call}, code="1") == f"{after}\n"


def test_a_positional_argument_behind_a_star_has_no_certain_place(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="not known"):
        repair("f(*a)\n", {"call": "f(*a)"}, code="1")


def test_a_keyword_that_is_given_stays(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="k is given already"):
        repair("f(k=2)\n", {"call": "f(k=2)"}, code="k=1")


def test_more_than_one_argument_is_an_error_of_the_rule(repair: Repair) -> None:
    with pytest.raises(ValueError, match="not one argument"):
        repair("f()\n", {"call": "f()"}, code="1, 2")
