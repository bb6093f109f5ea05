"""Every rule: its page, its own examples and the fixtures; what is found there, and what fixes make of it."""

from __future__ import annotations

import re
from pathlib import Path

import libcst
import pytest

from memlint.findings import Applicability, Confidence
from memlint.registry import all_rules
from memlint.rule import Rule
from tests.rules.programs import Example, analysing_rules, fixtures, own_examples

RULES = analysing_rules()
EXAMPLES = [example for rule in RULES for example in own_examples(rule)]
PROGRAMS = [*EXAMPLES, *fixtures()]
HEADINGS = [
    "What it does",
    "Why is this bad?",
    "Example",
    "Use instead",
    "Fix safety",
    "When to ignore",
    "References",
]

each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=str)


@each_rule
def test_the_page_of_a_rule_has_a_summary_and_the_same_headings_as_every_other(rule: Rule) -> None:
    page = rule.documentation()
    summary = page.partition("\n\n")[0]
    assert re.fullmatch(r"[A-Z`][^\n]*\.", summary), "one sentence on one line"
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == HEADINGS
    for section in re.split(r"^## .*$", page, flags=re.MULTILINE)[1:]:
        assert section.strip()


@each_rule
def test_the_examples_on_the_page_of_a_rule_parse(rule: Rule) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", rule.documentation(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        libcst.parse_module(f"if True:\n{block}" if block.startswith(" ") else block)


@each_rule
def test_a_rule_stands_in_the_file_that_bears_its_name(rule: Rule) -> None:
    assert re.fullmatch(r"MEM\d{3}", rule.code)
    assert type(rule).__module__.rpartition(".")[2] == rule.name.replace("-", "_")


@each_rule
def test_a_rule_carries_its_proof(rule: Rule) -> None:
    assert all(example.expected for example in own_examples(rule) if "-positive-" in example.name)
    assert not any(example.expected for example in own_examples(rule) if "-negative-" in example.name)
    assert rule.positive
    assert rule.negative


@each_program
def test_what_the_comments_demand_is_found_and_nothing_else(program: Example) -> None:
    assert sorted(program.found().elements()) == sorted(program.expected.elements())


@each_program
def test_the_gate_hides_nothing(program: Example) -> None:
    everything = tuple(type(f"Ungated{rule.code}", (type(rule),), {"gate": frozenset()})() for rule in all_rules())
    gated, ungated = (program.check(rules, Confidence.POSSIBLE) for rules in (all_rules(), everything))
    assert gated.diagnostics == ungated.diagnostics


@pytest.mark.parametrize("unsafe", [False, True], ids=["safe", "unsafe"])
@each_program
def test_a_fixed_program_parses_and_its_findings_are_gone_and_fixing_it_again_changes_nothing(
    program: Example, unsafe: bool
) -> None:
    outcome = program.fixed(unsafe=unsafe)
    libcst.parse_module(outcome.data.decode())
    assert [f"{refusal.diagnostic.location}: {refusal.reason}" for refusal in outcome.refused] == []
    applicable = {Applicability.SAFE, Applicability.UNSAFE} if unsafe else {Applicability.SAFE}
    remaining = [fix for diagnostic in outcome.result.diagnostics for fix in diagnostic.fixes]
    assert [fix.message for fix in remaining if fix.applicability in applicable] == []
    assert program.fixed(unsafe=unsafe, data=outcome.data).data == outcome.data


@pytest.mark.parametrize("program", [each for each in PROGRAMS if each.answer(unsafe=False).is_file()], ids=str)
def test_safe_fixes_make_of_a_fixture_what_stands_beside_it(program: Example) -> None:
    assert program.fixed(unsafe=False).data.decode() == program.answer(unsafe=False).read_bytes().decode()


@pytest.mark.parametrize("program", [each for each in PROGRAMS if each.answer(unsafe=True).is_file()], ids=str)
def test_all_fixes_make_of_a_fixture_what_stands_beside_it(program: Example) -> None:
    assert program.fixed(unsafe=True).data.decode() == program.answer(unsafe=True).read_bytes().decode()


@each_rule
def test_findings_ask_for_the_fixers_that_the_rule_names_and_the_proof_shows_each_of_them(rule: Rule) -> None:
    programs = [program for program in PROGRAMS if program.code == rule.code]
    findings = [finding for program in programs for finding in program.findings(rule)]
    assert {fix.fixer for finding in findings for fix in finding.fixes} == set(rule.fixers)
    assert all(finding.holds for finding in findings)
    # What a run would have to see, or why no run can show it.
    assert all(finding.claim for finding in findings)


def test_every_answer_belongs_to_a_fixture() -> None:
    answers = [path for path in Path(__file__).parents[1].joinpath("fixtures").rglob("*.py") if path.stem.count(".")]
    for answer in answers:
        assert answer.with_name(f"{answer.name.partition('.')[0]}.py").is_file()
