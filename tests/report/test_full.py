from __future__ import annotations

import dataclasses
import re
from textwrap import dedent

import pytest
from rich.cells import cell_len

from memlint.report import renderer
from tests.report.reports import notebook, rendered, report


def expected(text: str) -> str:
    """A paragraph, written in the margin of the test."""
    return dedent(text).lstrip("\n")


def test_a_finding_is_shown_with_its_code_what_stays_alive_and_the_fix() -> None:
    assert rendered("full", "import a\nimport b\nimport c\nx = hazard(1)\n\nprint(x)\nprint(x)\n") == expected(
        """
        MEM901 [*] `hazard` is called
         --> /project/x.py:4:5
          |
        2 | import b
        3 | import c
        4 | x = hazard(1)
          |     ^^^^^^^^^
        5 |
        6 | print(x)
          |
          = holds: one byte
          = help: Call `harmless()`

        """
    )


def test_a_fix_that_is_not_applied_by_default_says_so() -> None:
    assert "MEM902 `risk` is called\n" in rendered("full", "risk()\n")
    assert "= help: Call `harmless()` (unsafe fix)\n" in rendered("full", "risk()\n")
    assert "MEM902 [*] `risk` is called\n" in rendered("full", "risk()\n", unsafe_fixes=True)


def test_related_places_are_shown_in_the_same_frame() -> None:
    text = "a\nb\nc\nd\ne\nwaste(\n    f,\n    g,\n)\n"
    assert rendered("full", text) == expected(
        """
        MEM911 `waste` is called
         --> /project/x.py:6:1
          |
        4 |   d
        5 |   e
        6 | / waste(
        7 | |     f,
          | |     - this is wasted
        8 | |     g,
          | |     - this is wasted
        9 | | )
          | |_^
          |
          = holds: bytes

        """
    )


def test_rows_that_do_not_matter_are_left_out() -> None:
    body = "".join(f"    {number},\n" for number in range(20))
    assert rendered("full", f"a\nb\nc\nhazard(\n{body})\nd\n") == expected(
        """
        MEM901 [*] `hazard` is called
          --> /project/x.py:4:1
           |
         2 |   b
         3 |   c
         4 | / hazard(
         5 | |     0,
         6 | |     1,
        ...
        23 | |     18,
        24 | |     19,
        25 | | )
           | |_^
        26 |   d
           |
           = holds: one byte
           = help: Call `harmless()`

        """
    )


@pytest.mark.parametrize(
    ("row", "shown", "marks"),
    [
        ("\thazard()", "    hazard()", "    ^^^^^^^^"),
        ("if x:\thazard()", "if x:   hazard()", "        ^^^^^^^^"),
        ("x = '火', hazard()", "x = '火', hazard()", "          ^^^^^^^^"),
        ("x = hazard('火')", "x = hazard('火')", "    ^^^^^^^^^^^^"),
        ("x = 'é', hazard()", "x = 'é', hazard()", "         ^^^^^^^^"),
        ("x = '\x1b[31m', hazard()", "x = '\N{REPLACEMENT CHARACTER}[31m', hazard()", "             ^^^^^^^^"),
    ],
    ids=["tab", "tab inside", "wide before", "wide inside", "combining", "escape sequence"],
)
def test_marks_stand_below_what_they_mark(row: str, shown: str, marks: str) -> None:
    row = row.replace("é", "e\u0301")
    text = f"if 1:\n{row}\n" if row.startswith("\t") else f"{row}\n"
    lines = rendered("full", text).splitlines()
    at = next(number for number, line in enumerate(lines) if "hazard" in line and "|" in line)
    assert lines[at].partition("| ")[2] == shown.replace("é", "e\u0301")
    assert lines[at + 1].partition("| ")[2] == marks


def test_of_a_very_long_row_the_part_around_the_finding_is_shown() -> None:
    row = f"x = [{'a, ' * 500}hazard(), {'b, ' * 500}]"
    lines = rendered("full", f"{row}\n").splitlines()
    code, marks = next((lines[at], lines[at + 1]) for at in range(len(lines)) if "hazard()" in lines[at])
    assert cell_len(code) < 180
    assert code[marks.index("^") : marks.rindex("^") + 1] == "hazard()"
    assert code.count("…") == 2


def test_a_place_in_a_notebook_names_the_cell() -> None:
    text = rendered("full", notebook("x = 1", "y = 2\nhazard()"), suffix=".ipynb")
    assert " --> /project/x.ipynb:cell 2:2:1\n" in text
    assert "1 | y = 2\n2 | hazard()\n" in text
    assert "x = 1" not in text


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_newlines_of_every_kind_end_rows(newline: str) -> None:
    text = "a\nb\nhazard()\nc\n"
    assert rendered("full", text.replace("\n", newline)) == rendered("full", text)


def test_colors_change_nothing_else() -> None:
    text = "waste(\n  x)\nhazard()\n"
    colored = rendered("full", text, color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == rendered("full", text)


def test_sentences_and_code_fit_in_the_terminal() -> None:
    narrow = report(f"x = [{'a, ' * 30}hazard()]\n", unsafe_fixes=True)._replace(width=30)
    diagnostic = next(narrow.diagnostics)._replace(
        message="a message of some words that go on and on",
        holds="what is held, at some length",
    )
    result = dataclasses.replace(narrow.results[0], diagnostics=[diagnostic])
    text = renderer("full").render(narrow._replace(results=[result]))
    assert text.startswith("MEM901 [*] a message of some\n  words that go on and on\n --> /project")
    assert "\n  = holds: what is held, at\n           some length\n" in text
    assert "\n1 | …, a, a, a, hazard()]\n  |             ^^^^^^^^\n" in text
    wide = renderer("full").render(narrow._replace(results=[result], width=200))
    assert "= holds: what is held, at some length\n" in wide


def test_nothing_found_prints_nothing() -> None:
    assert rendered("full", "x = 1\n") == rendered("concise", "x = 1\n") == rendered("github", "x = 1\n") == ""
