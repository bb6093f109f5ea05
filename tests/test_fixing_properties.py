"""Fixing whole programs with every rule there is: the rules' own examples, mutated."""

from __future__ import annotations

import codecs
from pathlib import Path

import libcst
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from memlint.check.engine import check_data
from memlint.check.results import FileResult
from memlint.config import Settings
from memlint.fixing import FixOutcome, fix_data
from memlint.model.project import Project
from memlint.registry import all_rules
from memlint.source import Source

EXAMPLES = [example for rule in all_rules() for example in (*rule.positive, *rule.negative)]
PATH = Path("/project/train.py")


def fixed(data: bytes) -> FixOutcome:
    def check(data: bytes) -> FileResult:
        return check_data(PATH, data, all_rules(), Project(PATH.parent), Settings(PATH.parent))

    return fix_data(PATH, data, check, unsafe=True)


def indented(text: str) -> str:
    return "def outer():\n" + "".join(f"    {row}\n" if row.strip() else "\n" for row in text.split("\n"))


@st.composite
def programs(draw: st.DrawFn) -> bytes:
    """The bytes of one or two examples after some mutations; they may not parse."""
    text = "\n".join(draw(st.lists(st.sampled_from(EXAMPLES), min_size=1, max_size=2)))
    rows = text.split("\n")
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.integers(0, len(rows) - 1))
        match draw(st.sampled_from(["delete", "double", "join", "comment", "blank", "continue"])):
            case "delete":
                del rows[row]
            case "double":
                rows.insert(row, rows[row])
            case "join":
                rows[row : row + 2] = ["; ".join([rows[row], *(each.strip() for each in rows[row + 1 : row + 2])])]
            case "comment":
                rows[row] += "  # é"
            case "blank":
                rows[row:row] = ["\x0c", ""]
            case "continue":
                rows[row] = rows[row].replace(" = ", " \\\n = ", 1)
        rows = rows or [""]
    text = "\n".join(rows)
    text = indented(text) if draw(st.booleans()) else text
    text = text.replace("    ", draw(st.sampled_from(["    ", "\t", "  "])))
    text = text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))
    match draw(st.sampled_from(["utf-8", "utf-8-sig", "latin-1"])):
        case "latin-1":
            return f"# coding: latin-1\n{text}".encode("latin-1", "replace")
        case encoding:
            return text.encode(encoding)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(programs())
def test_what_is_fixed_parses_and_keeps_its_bytes(data: bytes) -> None:
    before = Source.decode(data)
    outcome = fixed(data)
    if outcome.result.error:
        assert outcome.data == data
        assume(False)
    after = Source.decode(outcome.data)
    libcst.parse_module(after.text)
    assert after.encoding == before.encoding
    assert outcome.data.startswith(codecs.BOM_UTF8) == data.startswith(codecs.BOM_UTF8)
    if "\r\n" in before.text and "\n" not in before.text.replace("\r\n", ""):
        assert "\n" not in after.text.replace("\r\n", "")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(programs())
def test_fixing_twice_changes_nothing_more(data: bytes) -> None:
    once = fixed(data)
    assume(once.passes < 10)
    again = fixed(once.data)
    assert again.data == once.data
    assert [(each.code, each.location) for each in again.result.diagnostics] == [
        (each.code, each.location) for each in once.result.diagnostics
    ]


@pytest.mark.parametrize(
    ("code", "example"),
    [
        pytest.param(rule.code, example, id=f"{rule.code}-{number}")
        for rule in all_rules()
        for number, example in enumerate(rule.positive)
    ],
)
def test_a_rules_fixes_of_its_own_examples_are_not_refused(code: str, example: str) -> None:
    assert [refusal for refusal in fixed(example.encode()).refused if refusal.diagnostic.code == code] == []
