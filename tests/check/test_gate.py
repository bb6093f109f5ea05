from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlint.check.gate import rules_that_can_fire
from memlint.rule import Rule
from tests.check.tiny import Hazard, Waste, check, found

HAZARD, WASTE = Hazard(), Waste()


class Everywhere(Hazard):
    code = "MEM999"
    gate = frozenset()


def passed(text: str, *rules: Rule) -> list[str]:
    return [rule.code for rule in rules_that_can_fire(text.encode(), rules or (HAZARD, WASTE))]


@pytest.mark.parametrize(
    "text",
    ["hazard()", "a.hazard", "(hazard)", "# hazard", '"hazard"', "hazard\r\n", "\thazard", "x=hazard", "é.hazard"],
)
def test_a_rule_passes_where_its_identifier_stands(text: str) -> None:
    assert passed(text) == ["MEM901"]


@pytest.mark.parametrize("text", ["", "hazards()", "my_hazard()", "hazard2", "Hazard", "haz ard"])
def test_a_rule_does_not_pass_where_its_identifier_is_only_part_of_another(text: str) -> None:
    assert passed(text) == []


def test_rules_keep_their_order_and_need_only_one_of_their_identifiers() -> None:
    assert passed("waste(hazard)") == ["MEM901", "MEM911"]
    assert passed("waste(hazard)", WASTE, HAZARD) == ["MEM911", "MEM901"]


def test_a_rule_without_identifiers_passes_always() -> None:
    assert passed("", Everywhere()) == ["MEM999"]


@given(st.text(alphabet="hazrdwste_.() \n\té#'0", max_size=60))
def test_the_gate_hides_nothing(filler: str) -> None:
    for text in (f"hazard()\n# {filler!r}\n", f"# {filler!r}\nx = [hazard(), waste()]\n"):
        result = check(text)
        assert result.error is None
        assert {code for *_, code in found(result)} == set(passed(text))


@pytest.mark.parametrize("encoding", ["utf-7", "cp037", "shift_jis", "utf-8", "cp1252"])
def test_the_gate_reads_every_encoding(encoding: str) -> None:
    declaration = f"# coding: {encoding}\n".encode("ascii")
    if encoding == "cp037":
        # Python cannot read a declaration in EBCDIC, so nobody can use it.
        assert check(declaration + "hazard()\n".encode(encoding)).diagnostics == []
        return
    body = "".join(
        f"+{character}" if encoding == "utf-7" and character == "+" else character for character in "hazard()"
    )
    assert found(check(declaration + f"{body}\n".encode(encoding))) == [(2, 1, "MEM901")]


def test_the_gate_reads_letters_that_are_spelled_otherwise() -> None:
    spelled = b"# coding: utf-7\n+AGg-azard()\n"
    assert spelled.decode("utf-7").splitlines()[1] == "hazard()"
    assert found(check(spelled)) == [(2, 1, "MEM901")]
