"""Gives findings their places: from syntax nodes to rows and columns, from asked-for fixes to edits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from memlint.diagnostics import Diagnostic, LocatedClaim, LocatedFix, RelatedLocation
from memlint.edits import merged
from memlint.findings import CannotFix, Claim, Finding, Fix, Related
from memlint.registry import fixer
from memlint.source import Source


def locate(findings: Iterable[Finding], source: Source, path: Path, url_of: Callable[[str], str]) -> list[Diagnostic]:
    """The diagnostics of ``findings`` in ``source``, in the order of their places.

    ``url_of`` gives the documentation page of a rule's code. A fix that its fixer cannot make here is left out.
    """
    return sorted((_diagnostic(finding, source, path, url_of) for finding in findings), key=lambda d: d.sort_key)


def _diagnostic(finding: Finding, source: Source, path: Path, url_of: Callable[[str], str]) -> Diagnostic:
    location = source.location(finding.node)
    return Diagnostic(
        code=finding.code,
        name=finding.name,
        message=finding.message,
        path=path,
        location=location,
        end_location=source.end_location(finding.node),
        severity=finding.severity,
        confidence=finding.confidence,
        holds=finding.holds,
        fixes=tuple(located for fix in finding.fixes if (located := _fix(fix, source))),
        noqa_row=source.noqa_row(location.row),
        url=url_of(finding.code),
        related=tuple(_related(related, source) for related in finding.related),
        claim=_claim(finding.claim, source) if finding.claim else None,
    )


def _fix(fix: Fix, source: Source) -> LocatedFix | None:
    try:
        edits = fixer(fix.fixer).edits(fix, source)
    except CannotFix:
        return None
    return LocatedFix(fix.applicability, fix.message, merged(edits)) if edits else None


def _related(related: Related, source: Source) -> RelatedLocation:
    return RelatedLocation(source.location(related.node), source.end_location(related.node), related.message)


def _claim(claim: Claim, source: Source) -> LocatedClaim:
    return LocatedClaim(
        shape=claim.shape.value,
        memory=claim.memory,
        size=claim.size,
        holder=source.code(claim.holder) if claim.holder else None,
        held=source.code(claim.held) if claim.held else None,
        held_location=source.location(claim.held) if claim.held else None,
    )
