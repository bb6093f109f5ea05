from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("before", "where", "after"),
    [
        pytest.param("for x in y:\n    a()\n", "after", "for x in y:\n    a()\n    new()\n", id="after"),
        pytest.param("for x in y:\n    a()\n", "before", "for x in y:\n    new()\n    a()\n", id="before"),
        pytest.param("a()  # about a\nb()\n", "after", "a()  # about a\nnew()\nb()\n", id="behind-its-comment"),
        pytest.param(
            "b()\n\n# about a\na()\n",
            "before",
            "b()\n\nnew()\n# about a\na()\n",
            id="above-its-comment",
        ),
        pytest.param("#!/bin/python\na()\n", "before", "#!/bin/python\nnew()\na()\n", id="below-the-head-comment"),
        pytest.param("a()", "after", "a()\nnew()", id="no-final-newline"),
        pytest.param("a()\r\nb()\r\n", "after", "a()\r\nnew()\r\nb()\r\n", id="crlf"),
        pytest.param("if x:\n\ta()\n\tb()\n", "after", "if x:\n\ta()\n\tnew()\n\tb()\n", id="tabs"),
        pytest.param("a(); b()\n", "after", "a(); new(); b()\n", id="joined-first-after"),
        pytest.param("a(); b()\n", "before", "new()\na(); b()\n", id="joined-first-before"),
        pytest.param("b(); a()  # end\n", "after", "b(); a()  # end\nnew()\n", id="joined-last-after"),
        pytest.param("b(); a()\n", "before", "b(); new(); a()\n", id="joined-last-before"),
        pytest.param("a();\n", "after", "a();\nnew()\n", id="final-semicolon"),
        pytest.param("if x: a(); b()\n", "after", "if x: a(); new(); b()\n", id="suite-first"),
        pytest.param("if x: b(); a()\n", "after", "if x: b(); a(); new()\n", id="suite-last"),
        pytest.param("if x: a();\n", "after", "if x: a(); new();\n", id="suite-final-semicolon"),
        pytest.param("if x: a()\n", "before", "if x: new(); a()\n", id="suite-before"),
    ],
)
def test_beside_a_call(repair: Repair, before: str, where: str, after: str) -> None:
    assert repair(before, {"statement": "a()"}, code="new()", where=where) == after


def test_below_all_rows_of_a_call(repair: Repair) -> None:
    call = "a(\n    1,\n)"
    assert repair(f"{call}\nb()\n", {"statement": call}, code="new()") == f"{call}\nnew()\nb()\n"


@pytest.mark.parametrize(
    ("before", "where", "after"),
    [
        pytest.param(
            "def f():\n    for x in y:\n        a()\n        # end of body\n    # end of f\n",
            "after",
            "def f():\n    for x in y:\n        a()\n        # end of body\n    new()\n    # end of f\n",
            id="after-its-body-and-comments",
        ),
        pytest.param(
            "if c:\n    z()\n# about the loop\nfor x in y:\n    a()\n",
            "before",
            "if c:\n    z()\nnew()\n# about the loop\nfor x in y:\n    a()\n",
            id="before-with-comments",
        ),
        pytest.param("for x in y: a()\n", "after", "for x in y: a()\nnew()\n", id="one-row"),
        pytest.param(
            "for x in y:\n    a()\nelse:\n    b()\nc()\n",
            "after",
            "for x in y:\n    a()\nelse:\n    b()\nnew()\nc()\n",
            id="after-else",
        ),
    ],
)
def test_beside_a_compound_statement(repair: Repair, before: str, where: str, after: str) -> None:
    assert repair(before, {"statement": "for x in y:"}, code="new()", where=where) == after


def test_beside_a_decorated_function(repair: Repair) -> None:
    before = "x = 1\n\n\n@decorated\ndef f():\n    pass\n"
    after = "x = 1\n\n\nnew()\n@decorated\ndef f():\n    pass\n"
    assert repair(before, {"statement": "def f"}, code="new()", where="before") == after


def test_beside_an_elif_means_beside_its_if(repair: Repair) -> None:
    before = "if a:\n    b()\nelif c:\n    d()\n"
    assert repair(before, {"statement": "elif c"}, code="new()") == before + "new()\n"


def test_a_block_is_indented_as_its_neighbour(repair: Repair) -> None:
    after = repair("def f():\n    a()\n", {"statement": "a()"}, code="with g():\n    h()")
    assert after == "def f():\n    a()\n    with g():\n        h()\n"


@pytest.mark.parametrize("code", ["if x: y()", "a()\nb()", "a()  # comment"])
def test_what_cannot_share_a_row_is_refused_there(repair: Repair, code: str) -> None:
    with pytest.raises(CannotFix, match="shares its row"):
        repair("if x: a()\n", {"statement": "a()"}, code=code)


def test_an_unknown_place_is_an_error_of_the_rule(repair: Repair) -> None:
    with pytest.raises(ValueError, match="after or before"):
        repair("a()\n", {"statement": "a()"}, code="b()", where="above")


def test_imports_what_it_needs(repair: Repair) -> None:
    after = repair("import os\na()\n", {"statement": "a()"}, code="torch.b()", import_="torch")
    assert after == "import os\nimport torch\na()\ntorch.b()\n"
