from __future__ import annotations

import pytest

from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("a()\ngone()\nb()\n", "a()\nb()\n", id="between"),
        pytest.param("a()\ngone()", "a()", id="last-without-newline"),
        pytest.param("gone()\n", "", id="only-statement-of-the-file"),
        pytest.param("a()\n# why\ngone()  # tail\nb()\n", "a()\n# why\nb()\n", id="comments"),
        pytest.param("for x in y:\n    gone()\n", "for x in y:\n    pass\n", id="only-statement-of-a-block"),
        pytest.param("for x in y:\n    gone()  # c\n", "for x in y:\n    pass  # c\n", id="comment-of-the-only-one"),
        pytest.param("for x in y:\n    '''Doc.'''\n    gone()\n", "for x in y:\n    '''Doc.'''\n", id="docstring"),
        pytest.param("if x: gone()\n", "if x: pass\n", id="suite"),
        pytest.param("if x: gone(); a()\n", "if x: a()\n", id="suite-first"),
        pytest.param("if x: a(); gone()\n", "if x: a()\n", id="suite-last"),
        pytest.param("a(); gone(); b()  # c\n", "a(); b()  # c\n", id="joined-middle"),
        pytest.param("a(); gone();\n", "a();\n", id="joined-last-with-semicolon"),
        pytest.param("a()\r\ngone()\r\nb()\r\n", "a()\r\nb()\r\n", id="crlf"),
    ],
)
def test_removes_it(repair: Repair, before: str, after: str) -> None:
    assert repair(before, {"statement": "gone()"}) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("if x:\n    p()\n    q()\n", "if x:\n    pass\n", id="whole-block"),
        pytest.param("if x: p(); q()\n", "if x: pass\n", id="whole-suite"),
        pytest.param("p(); q()\na()\n", "a()\n", id="whole-row"),
        pytest.param("a(); p(); q()\n", "a()\n", id="end-of-row"),
        pytest.param("p(); q(); a()\n", "a()\n", id="start-of-row"),
        pytest.param("p(); a(); q()\n", "a()\n", id="around"),
        pytest.param("if x:\n    p()\nelse:\n    q()\n", "if x:\n    pass\nelse:\n    pass\n", id="two-blocks"),
    ],
)
def test_removes_several(repair: Repair, before: str, after: str) -> None:
    assert repair(before, {"statement": ("q()", "p()")}) == after


def test_removes_a_compound_statement_with_its_decorators(repair: Repair) -> None:
    before = "a()\n@d\ndef f():\n    b()\nc()\n"
    assert repair(before, {"statement": "def f"}) == "a()\nc()\n"
