from __future__ import annotations

import pytest

from memlint.findings import CannotFix
from tests.fixers.conftest import Repair


@pytest.mark.parametrize(
    ("before", "where", "after"),
    [
        pytest.param("m()\na()\n", "after", "a()\nm()\n", id="down"),
        pytest.param("a()\nm()\n", "before", "m()\na()\n", id="up"),
        pytest.param("x\n# why\nm()  # what\na()\n", "after", "x\na()\n# why\nm()  # what\n", id="with-comments"),
        pytest.param("m()\nif x:\n    a()\n", "after", "if x:\n    a()\n    m()\n", id="deeper"),
        pytest.param("if x:\n    m()\na()\n", "after", "if x:\n    pass\na()\nm()\n", id="leaves-pass"),
        pytest.param("m(); b()\na()\n", "after", "b()\na()\nm()\n", id="out-of-a-joined-row"),
        pytest.param("m()\na(); b()\n", "after", "a(); m(); b()\n", id="into-a-joined-row"),
        pytest.param("m()\nif x: a()\n", "after", "if x: a(); m()\n", id="into-a-suite"),
        pytest.param("m()\na()", "after", "a()\nm()", id="no-final-newline"),
        pytest.param("m()\r\na()\r\n", "after", "a()\r\nm()\r\n", id="crlf"),
    ],
)
def test_moves_it(repair: Repair, before: str, where: str, after: str) -> None:
    assert repair(before, {"statement": "m()", "anchor": "a()"}, where=where) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("for x in y:\n    a()\n    m()\nb()\n", "for x in y:\n    a()\nm()\nb()\n", id="rows"),
        pytest.param("for x in y:\n    m()\nb()\n", "for x in y:\n    pass\nm()\nb()\n", id="leaves-pass"),
        pytest.param("for x in y:\n    a()\n    m()", "for x in y:\n    a()\nm()", id="no-final-newline"),
        pytest.param("for x in y: a(); m()\n", "for x in y: a()\nm()\n", id="suite"),
        pytest.param("for x in y:\n    a()\n    # why\n    m()\n", "for x in y:\n    a()\n# why\nm()\n", id="comment"),
    ],
)
def test_moves_the_end_of_a_block_behind_it(repair: Repair, before: str, after: str) -> None:
    assert repair(before, {"statement": "m()", "anchor": "for x in y"}) == after


def test_rows_inside_a_string_keep_their_text(repair: Repair) -> None:
    moved = 'm("""\n    text\n  """,\n    2)'
    after = repair(f"if x:\n    a()\n{moved}\n", {"statement": moved, "anchor": "a()"})
    assert after == 'if x:\n    a()\n    m("""\n    text\n  """,\n        2)\n'


def test_rows_of_a_block_are_indented_anew(repair: Repair) -> None:
    before = "if x:\n    for y in z:\n        b()\n\n        c()\na()\n"
    after = "if x:\n    pass\na()\nfor y in z:\n    b()\n\n    c()\n"
    assert repair(before, {"statement": "for y", "anchor": "a()"}) == after


def test_a_comment_is_not_lost_where_there_is_no_room_for_it(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="comment"):
        repair("m()  # why\nif x: a()\n", {"statement": "m()", "anchor": "a()"})


def test_not_into_itself(repair: Repair) -> None:
    with pytest.raises(CannotFix, match="into itself"):
        repair("for x in y:\n    a()\n", {"statement": "for x", "anchor": "a()"})
