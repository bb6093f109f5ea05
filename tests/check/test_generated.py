"""Programs that nobody has written: whatever they say, the real rules neither crash nor disagree with the gate."""

from __future__ import annotations

import tokenize
from itertools import pairwise
from pathlib import Path

import hypothesmith
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlint.check.engine import check_data
from memlint.check.results import FileResult
from memlint.config import Selection, Settings
from memlint.files import ErrorKind
from memlint.findings import Confidence
from memlint.fixing import fix_data
from memlint.model.project import Project
from memlint.parsing import parse
from memlint.registry import all_rules
from memlint.rule import Rule

PROGRAMS = sorted({program for rule in all_rules() for program in (*rule.positive, *rule.negative)})
UNGATED = tuple(type(f"Ungated{rule.code}", (type(rule),), {"gate": frozenset()})() for rule in all_rules())
PATH = Path("/project/x.py")
EVERYTHING = Settings(PATH.parent, selections=(Selection(select=("ALL",)),))

generously = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def check(data: bytes, rules: tuple[Rule, ...] = all_rules()) -> FileResult:
    return check_data(PATH, data, rules, Project(PATH.parent), EVERYTHING, least=Confidence.POSSIBLE, named=True)


def pieces(program: str) -> list[str]:
    """The tokens of a program with the blanks in front of them; together they are the program."""
    lines = rows(program)
    starts = [0]
    for row in lines:
        starts.append(starts[-1] + len(row))
    ends = [
        starts[token.end[0] - 1] + token.end[1]
        for token in tokenize.generate_tokens(iter([*lines, ""]).__next__)
        if token.end[0] <= len(lines)
    ]
    borders = [0, *sorted(set(ends) - {0}), len(program)]
    return [program[start:end] for start, end in pairwise(borders)]


def rows(program: str) -> list[str]:
    return program.splitlines(keepends=True)


def indented(row: str, like: str) -> str:
    """``row`` with the indentation of another row; a token stays what it is."""
    return like[: len(like) - len(like.lstrip())] + row.lstrip() if row.endswith("\n") else row


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A rule's example with tokens or rows left out, repeated, exchanged, or taken from another example."""
    program = draw(st.sampled_from(PROGRAMS))
    # Most programs with tokens out of place do not parse, so rows are moved more often.
    cut = draw(st.sampled_from([rows, rows, rows, pieces]))
    parts = cut(program)
    donors = cut(draw(st.sampled_from(PROGRAMS)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(parts) - 1))
        other = draw(st.integers(0, len(parts) - 1))
        kind = draw(st.sampled_from(["omit", "repeat", "exchange", "insert"]))
        if kind == "omit" and len(parts) > 1:
            del parts[at]
        elif kind == "repeat":
            parts.insert(at, indented(parts[other % len(parts)], parts[at]))
        elif kind == "exchange":
            parts[at], parts[other] = parts[other], parts[at]
        else:
            parts.insert(at, indented(draw(st.sampled_from(donors)), parts[at]))
    return "".join(parts)


def expect_sense(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    result = check(data)
    assert result.error is None or result.error.kind is ErrorKind.SYNTAX, result.error
    ungated = check(data, UNGATED)
    assert ungated.diagnostics == result.diagnostics
    if result.error is None:
        outcome = fix_data(PATH, data, check, unsafe=True)
        parse(outcome.data.decode())


def test_pieces_are_the_program() -> None:
    for program in PROGRAMS:
        assert "".join(pieces(program)) == program


@generously
@given(mutated())
def test_mutated_examples_do_no_harm(text: str) -> None:
    expect_sense(text)


@settings(generously, max_examples=15)
@given(hypothesmith.from_grammar())
def test_generated_programs_do_no_harm(text: str) -> None:
    expect_sense(text)


@settings(generously, max_examples=15)
@given(st.sampled_from(PROGRAMS), hypothesmith.from_grammar())
def test_generated_programs_beside_examples_do_no_harm(program: str, text: str) -> None:
    expect_sense(f"{program}\n{text}")
