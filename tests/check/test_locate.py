from __future__ import annotations

from pathlib import Path

import libcst
import libcst.matchers as m
import pytest

from memlint.check.locate import locate
from memlint.diagnostics import Diagnostic, Edit, LocatedClaim, Location, RelatedLocation
from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Related, Severity
from memlint.source import Source

PATH = Path("/project/train.py")


def source_of(text: str) -> Source:
    source = Source(text)
    source.attach(libcst.parse_module(text))
    return source


def name(source: Source, value: str) -> libcst.CSTNode:
    return m.findall(source.tree, m.Name(value))[0]


def finding(node: libcst.CSTNode, code: str = "MEM901", **more: object) -> Finding:
    facts = {"severity": Severity.ERROR, "confidence": Confidence.LIKELY, "holds": "a graph"} | more
    return Finding(code=code, name="name", message="message", node=node, **facts)  # type: ignore[arg-type]


def located(source: Source, *findings: Finding) -> list[Diagnostic]:
    return locate(findings, source, PATH, lambda code: f"docs/{code}")


def fix(fixer: str, **targets: libcst.CSTNode) -> Fix:
    return Fix(fixer, "do it", Applicability.UNSAFE, targets, {"method": "detach"} if fixer == "call_method" else {})


def test_a_finding_gets_its_place() -> None:
    source = source_of("a = 1\nif b:\n\tc = '''\n'''; bad\n")
    (diagnostic,) = located(source, finding(name(source, "c")))
    assert diagnostic == Diagnostic(
        code="MEM901",
        name="name",
        message="message",
        path=PATH,
        location=Location(3, 2),
        end_location=Location(3, 3),
        severity=Severity.ERROR,
        confidence=Confidence.LIKELY,
        holds="a graph",
        fixes=(),
        noqa_row=4,
        url="docs/MEM901",
    )


def test_findings_are_in_the_order_of_their_places() -> None:
    source = source_of("b; a\nc\n")
    findings = [finding(name(source, "c")), finding(name(source, "a")), finding(name(source, "a"), "MEM900")]
    found = [(each.location, each.code) for each in located(source, *findings)]
    assert found == [(Location(1, 4), "MEM900"), (Location(1, 4), "MEM901"), (Location(2, 1), "MEM901")]


def test_a_fix_becomes_edits() -> None:
    source = source_of("x = f(\n  a\n  + b)\n")
    operation = m.findall(source.tree, m.BinaryOperation())[0]
    (diagnostic,) = located(source, finding(operation, fixes=(fix("call_method", expression=operation),)))
    assert diagnostic.fix is not None
    assert (diagnostic.fix.applicability, diagnostic.fix.message) == (Applicability.UNSAFE, "do it")
    assert diagnostic.fix.edits == (
        Edit(Location(2, 3), Location(2, 3), "("),
        Edit(Location(3, 6), Location(3, 6), ").detach()"),
    )


def test_a_fix_that_cannot_be_made_is_left_out_and_the_next_one_offered() -> None:
    source = source_of("x = [*a]\n")
    starred = m.findall(source.tree, m.StarredElement())[0]
    fixes = fix("call_method", expression=starred), fix("call_parentheses", expression=name(source, "a"))
    (diagnostic,) = located(source, finding(starred, fixes=fixes))
    assert [each.edits[0].content for each in diagnostic.fixes] == ["()"]


def test_what_is_in_another_file_has_no_place_here() -> None:
    source, other = source_of("a\n"), source_of("self.total = (b +\n c)\n")
    elsewhere = m.findall(other.tree, m.BinaryOperation())[0]
    (diagnostic,) = located(
        source,
        finding(
            name(source, "a"),
            fixes=(fix("call_method", expression=elsewhere),),
            related=(Related(elsewhere, "there"), Related(name(source, "a"), "here")),
            claim=Claim(ClaimShape.GROWS, "host", "A", holder=m.findall(other.tree, m.Attribute())[0], held=elsewhere),
        ),
    )
    assert diagnostic.fixes == ()
    assert diagnostic.related == (RelatedLocation(Location(1, 1), Location(1, 2), "here"),)
    assert diagnostic.claim == LocatedClaim("grows", "host", "A", "self.total", "(b +\n c)", None, watch="reachable")


def test_a_claim_is_kept_as_text() -> None:
    source = source_of("self.outs.append((a +\n  b))\n")
    claim = Claim(
        ClaimShape.PLATEAU, "device", "A", name(source, "self"), m.findall(source.tree, m.BinaryOperation())[0]
    )
    (diagnostic,) = located(source, finding(name(source, "a"), claim=claim))
    assert diagnostic.claim == LocatedClaim(
        shape="plateau",
        memory="device",
        size="A",
        holder="self",
        held="(a +\n  b)",
        held_location=Location(1, 19),
        held_end_location=Location(2, 4),
        holder_location=Location(1, 1),
        holder_end_location=Location(1, 5),
        watch="allocated",
    )


def test_a_fixer_that_there_is_not_is_an_error_of_the_rule() -> None:
    source = source_of("a\n")
    with pytest.raises(ImportError, match="no_such_fixer"):
        located(source, finding(name(source, "a"), fixes=(fix("no_such_fixer", expression=name(source, "a")),)))
