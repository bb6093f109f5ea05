from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlint.files import ErrorKind
from memlint.findings import Confidence
from tests.check.tiny import check, found


def test_findings_have_their_places_in_order() -> None:
    result = check("x = 1\nif x:\n    waste(x); hazard()\nhazard()\n")
    assert result.error is None
    assert found(result) == [(3, 5, "MEM911"), (3, 15, "MEM901"), (4, 1, "MEM901")]
    assert result.text is not None


def test_a_file_without_findings_says_nothing() -> None:
    for text in ("", "\n", "# hazard\n", "x = 1\n", "\f"):
        assert check(text, named=True) == check("", named=True)


def test_rules_that_are_off_find_nothing() -> None:
    text = "hazard()\nwaste()\noptional()\n"
    assert found(check(text)) == [(1, 1, "MEM901"), (2, 1, "MEM911")]
    assert found(check(text, ignore=("MEM9",), extend_select=("MEM911",))) == [(2, 1, "MEM911")]
    assert found(check(text, select=("MEM92",))) == [(3, 1, "MEM921")]


def test_only_what_is_certain_enough_is_reported() -> None:
    assert found(check("doubt()\n")) == []
    assert found(check("doubt()\n", least=Confidence.POSSIBLE)) == [(1, 1, "MEM913")]


# Bad input


def error_of(text: str | bytes, path: Path = Path("/project/x.py")) -> str:
    result = check(text, path=path, named=True)
    assert result.diagnostics == []
    assert result.error is not None
    assert result.error.kind is ErrorKind.SYNTAX
    assert "\n" not in str(result.error)
    return str(result.error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"hazard()\0\n", "/project/x.py: contains NUL bytes (the first at byte 8)"),
        (b"hazard('\xff')\n", "/project/x.py: not valid UTF-8 at byte 8 (row 1)"),
        (b"# coding: nonsense\nhazard()\n", "/project/x.py: declares an unknown encoding: nonsense"),
        (
            "hazard()\n".encode("utf-16"),
            "/project/x.py: is UTF-16; Python source must be UTF-8 or declare another encoding",
        ),
        ("hazard(\n", "/project/x.py:1:7: syntax error: '(' was never closed"),
        ("hazard()\nprint 'x'\n", "/project/x.py:2:1: syntax error: Missing parentheses in call to 'print'"),
        ("def hazard():\n", "/project/x.py:1:14: syntax error: expected an indented block"),
        ("if x:\n    hazard()\n  y\n", "/project/x.py:3:4: syntax error: unindent does not match"),
        ('"""hazard', "/project/x.py:1:1: syntax error: unterminated triple-quoted string literal"),
    ],
    ids=["NUL", "not UTF-8", "unknown encoding", "UTF-16", "truncated", "Python 2", "no body", "indentation", "string"],
)
def test_what_is_not_python_is_one_line_with_place_and_reason(text: str | bytes, message: str) -> None:
    assert error_of(text).startswith(message)


@pytest.mark.parametrize("text", ["print 'x'\n", "x = (\n", "exec code in d\n"])
def test_a_named_file_that_no_rule_concerns_has_to_parse_as_well(text: str) -> None:
    assert "syntax error" in error_of(text)
    assert check(text, named=False).error is None


def test_a_file_of_a_newer_python_is_no_error() -> None:
    # libcst knows the grammar of the newest Python; the one that runs may not.
    assert found(check('type A = int\nx = f"{f"{hazard()}"}"\n', named=True)) == [(2, 11, "MEM901")]


NESTED = {
    "parentheses": "(" * 5000 + "hazard()" + ")" * 5000,
    "lists": "[" * 5000 + "hazard()" + "]" * 5000,
    "calls": "f(" * 5000 + "hazard()" + ")" * 5000,
    "rows": "f(\n" * 5000 + "hazard()" + "\n)" * 5000,
    "attributes": "hazard()" + ".a" * 5000,
    "chained calls": "hazard()" + ".a(1, 2)" * 5000,
    "subscripts": "hazard()" + "[0]" * 5000,
    "sums": "hazard()" + " + a" * 5000,
    "powers": "hazard()" + " ** a" * 5000,
    "conditions": "hazard()" + " if a else b" * 5000,
    "negations": "not " * 5000 + "hazard()",
    "signs": "-" * 5000 + "hazard()",
    "spaced signs": "- " * 5000 + "hazard()",
    "lambdas": "lambda: " * 5000 + "hazard()",
    "strings": "(hazard()," + "'a'\n" * 5000 + ")",
    "formatted strings": 'f"{' * 5000 + "hazard()" + '}"' * 5000,
    "unclosed": "hazard() + " + "(" * 5000,
    "a million": "(" * 1_000_000 + "hazard",
}


@pytest.mark.parametrize("expression", NESTED.values(), ids=NESTED.keys())
def test_an_expression_nested_five_thousand_deep_is_an_error_and_no_crash(expression: str) -> None:
    assert "nested too deeply" in error_of(f"x = {expression}\n")


def test_elif_ten_thousand_times_is_an_error_and_no_crash() -> None:
    assert "nested too deeply" in error_of("if a:\n    hazard()\n" + "elif a:\n    pass\n" * 10_000)


def test_blocks_nested_deeper_than_python_allows_are_an_error() -> None:
    deep = "".join(f"{' ' * depth}if a:\n" for depth in range(500)) + " " * 500 + "hazard()\n"
    assert "error" in error_of(deep)


@pytest.mark.parametrize(
    "text",
    [
        "hazard(" + "[" * 90 + "]" * 90 + ")\n",
        "x = [\n" + "    -1.5 + a.b.c() ** 2 if a else b,\n" * 1000 + "    hazard(),\n]\n",
        "x = {" + "'a': ('b' 'c')[0], " * 1000 + "'d': hazard()}\n",
        "x = (" + "'a text'\n" * 600 + ")\nhazard()\n",
        "x = '((((((((((' # ((((((((((\n" * 100 + "hazard()\n",
        "if a:\n    hazard()\n" + "elif a:\n    pass\n" * 1000,
    ],
    ids=["brackets", "long list", "long dict", "long string", "brackets in strings and comments", "branches"],
)
def test_what_is_only_long_is_checked(text: str) -> None:
    assert [code for *_, code in found(check(text))] == ["MEM901"]


def test_a_file_of_fifty_thousand_rows_is_checked() -> None:
    function = "def f(x):\n" + '    """' + "Says much.\n" * 16 + '    """\n    return x + 1\n\n'
    assert function.count("\n") == 20
    result = check(function * 2500 + "hazard()\n")
    assert found(result) == [(50_001, 1, "MEM901")]


def test_a_crash_in_a_rule_is_one_line_and_silences_no_other_rule() -> None:
    result = check("crash()\nhazard()\n")
    assert found(result) == [(2, 1, "MEM901")]
    assert result.error is not None
    assert result.error.kind is ErrorKind.INTERNAL
    assert str(result.error).startswith(
        "/project/x.py: internal error in MEM931 (KeyError: 'no such thing as a Call'); please "
    )


def test_a_crash_is_a_traceback_for_those_who_want_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMLINT_DEBUG", "1")
    with pytest.raises(KeyError):
        check("crash()\n")


@pytest.mark.parametrize("text", ["hazard()\n # a\n # b", "def f():\n    hazard()\n\n  # a\n  # b\n\n  # c\n"])
def test_comments_that_libcst_forgets_do_no_harm(text: str) -> None:
    result = check(text)
    assert result.error is None
    assert [code for *_, code in found(result)] == ["MEM901"]


# Encodings and newlines


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_rows_and_columns_do_not_depend_on_newlines_and_byte_order_marks(newline: str, mark: bytes) -> None:
    rows = ["x = 'é𝄞'; hazard()", "\f", "if x:", "\thazard()", ""]
    assert found(check(mark + newline.join(rows).encode())) == [(1, 11, "MEM901"), (4, 2, "MEM901")]


def test_a_declared_encoding_is_honoured() -> None:
    text = "# -*- coding: latin-1 -*-\nx = 'é'; hazard()\n"
    assert found(check(text.encode("latin-1"))) == [(2, 10, "MEM901")]


# Notebooks


def notebook(*cells: str) -> bytes:
    content = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": cell} for cell in cells]
    return json.dumps({"cells": content, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def test_findings_in_notebooks_are_relative_to_their_cells() -> None:
    result = check(notebook("%matplotlib inline\nx = 1", "y = 2\nhazard()"), path=Path("/project/x.ipynb"))
    assert [(each.cell, each.location.row, each.location.column) for each in result.diagnostics] == [(2, 2, 1)]
    assert result.cells == {2: "y = 2\nhazard()"}


def test_an_identifier_after_an_escaped_newline_passes_the_gate() -> None:
    assert len(check(notebook("x = 1\nhazard()"), path=Path("/project/x.ipynb")).diagnostics) == 1


def test_errors_in_notebooks_name_the_cell() -> None:
    path = Path("/project/x.ipynb")
    assert error_of(notebook("x = 1", "y = 1\nhazard("), path).startswith("/project/x.ipynb:cell 2:2:7: syntax error")
    assert error_of(b"{", path).startswith("/project/x.ipynb: not valid JSON")
    assert error_of(b"[]", path) == '/project/x.ipynb: not a notebook: it has no "nbformat"'


# Whatever comes


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_check_raise(data: bytes) -> None:
    for text in (data, b"hazard()\n" + data, data + b"\nhazard()\n"):
        result = check(text, named=True)
        assert result.error is None or result.error.kind is ErrorKind.SYNTAX


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text(alphabet="hazard()[]{}:,.=+- \n\t\r\f\\\"'#@fx1é", max_size=80))
def test_no_text_makes_the_check_raise(text: str) -> None:
    result = check(f"hazard()\n{text}", named=True)
    assert result.error is None or result.error.kind is ErrorKind.SYNTAX
