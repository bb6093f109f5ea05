from __future__ import annotations

import re

import pytest

from memlint.check.suppression import UnusedNoqa
from memlint.registry import all_rules, documentation_url, fixer
from memlint.rule import Rule


def test_every_rule_is_found_once_and_in_order() -> None:
    codes = [rule.code for rule in all_rules()]
    assert codes == sorted(set(codes))
    assert all(re.fullmatch(r"MEM\d{3}", code) for code in codes)
    assert any(isinstance(rule, UnusedNoqa) for rule in all_rules())


def test_rules_are_found_however_deep_they_are() -> None:
    modules = {type(rule).__module__ for rule in all_rules() if not isinstance(rule, UnusedNoqa)}
    assert "memlint.rules.loading.torch_load_without_map_location" in modules
    assert all(module.startswith("memlint.rules.") for module in modules)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_fixer_that_a_rule_names_is_there(rule: Rule) -> None:
    for name in rule.fixers:
        assert callable(fixer(name).edits)


def test_there_is_no_fixer_that_nobody_wrote() -> None:
    with pytest.raises(ImportError):
        fixer("nothing")


def test_a_rule_knows_its_page() -> None:
    assert documentation_url("MEM101") == "docs/rules/MEM101.md"
