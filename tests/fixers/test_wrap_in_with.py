from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair

WITH = "with torch.no_grad():"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("y = m(x)\n", f"{WITH}\n    y = m(x)\n", id="module"),
        pytest.param("y = m(x)", f"{WITH}\n    y = m(x)", id="no-final-newline"),
        pytest.param("for x in z:\n  y = m(x)\n", f"for x in z:\n  {WITH}\n    y = m(x)\n", id="unit-of-the-file"),
        pytest.param("for x in z:\n\ty = m(x)\n", f"for x in z:\n\t{WITH}\n\t\ty = m(x)\n", id="tabs"),
        pytest.param(
            "a()\n# why\ny = m(x)  # c\nb()\n", f"a()\n# why\n{WITH}\n    y = m(x)  # c\nb()\n", id="comments"
        ),
        pytest.param("if a: y = m(x)\n", f"if a:\n    {WITH}\n        y = m(x)\n", id="suite"),
        pytest.param(
            "if a: b(); y = m(x); c()  # d\n",
            f"if a:\n    b()\n    {WITH}\n        y = m(x)\n    c()  # d\n",
            id="middle-of-a-suite",
        ),
        pytest.param(
            "if (a\n        and b): y = m(x)\n",
            f"if (a\n        and b):\n    {WITH}\n        y = m(x)\n",
            id="suite-below-a-long-condition",
        ),
        pytest.param("b(); y = m(x)\n", f"b()\n{WITH}\n    y = m(x)\n", id="end-of-a-row"),
        pytest.param("y = m(x); b()\n", f"{WITH}\n    y = m(x)\nb()\n", id="start-of-a-row"),
        pytest.param("y = m(x)\r\nb()\r\n", f"{WITH}\r\n    y = m(x)\r\nb()\r\n", id="crlf"),
        pytest.param("a()\n\x0cy = m(x)\n", f"a()\n\x0c{WITH}\n    y = m(x)\n", id="form-feed"),
    ],
)
def test_wraps_one(repair: Repair, before: str, after: str) -> None:
    assert repair(before, {"statement": "y = m(x)"}, code="torch.no_grad()") == after


def test_wraps_several_with_what_is_between(repair: Repair) -> None:
    before = "def f():\n    y = m(x)\n\n    # then\n    z = n(y)\n    return z\n"
    after = f"def f():\n    {WITH}\n        y = m(x)\n\n        # then\n        z = n(y)\n    return z\n"
    assert repair(before, {"statement": ("z = n(y)", "y = m(x)")}, code="torch.no_grad()") == after


def test_wraps_a_loop_with_continuations_and_brackets(repair: Repair) -> None:
    before = "for x in y:\n    z = f(\n        x,\n    )\n    w = a \\\n        + b\n    # end\nreturn_ = 1\n"
    after = (
        f"{WITH}\n    for x in y:\n        z = f(\n            x,\n        )\n        w = a \\\n            + b\n"
        "        # end\nreturn_ = 1\n"
    )
    assert repair(before, {"statement": "for x in y"}, code="torch.no_grad()") == after


@pytest.mark.parametrize("prefix", ["", "f", "rb"])
def test_strings_keep_their_text(repair: Repair, prefix: str) -> None:
    statement = f'log({prefix}"""first\nsecond\n    third""",\n    1)'
    after = f'{WITH}\n    log({prefix}"""first\nsecond\n    third""",\n        1)\n'
    assert repair(f"{statement}\n", {"statement": statement}, code="torch.no_grad()") == after


def test_wraps_a_decorated_function(repair: Repair) -> None:
    after = repair("@d\ndef f():\n    pass\n", {"statement": "def f"}, code="c()")
    assert after == "with c():\n    @d\n    def f():\n        pass\n"


def test_statements_on_rows_of_several(repair: Repair) -> None:
    after = repair("a(); b()\nc(); d()\n", {"statement": ("b()", "c()")}, code="e()")
    assert after == "a()\nwith e():\n    b()\n    c()\nd()\n"


def test_statements_with_others_between_are_refused(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="follow each other"):
        repair("a()\nb()\nc()\n", {"statement": ("a()", "c()")}, code="e()")


def test_statements_of_two_blocks_are_refused(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="follow each other"):
        repair("if x:\n    a()\nb()\n", {"statement": ("a()", "b()")}, code="e()")


def test_a_yield_is_refused(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="yield"):
        repair("def f():\n    x = yield m()\n", {"statement": "x = yield m()"}, code="e()")


def test_a_yield_of_another_function_is_not_minded(repair: Repair) -> None:
    after = repair("def f():\n    yield 1\n", {"statement": "def f"}, code="e()")
    assert after == "with e():\n    def f():\n        yield 1\n"
