"""Gives findings their places: from syntax nodes to rows and columns, from asked-for fixes to edits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from libcst import CSTNode

from memlint.diagnostics import Diagnostic, LocatedClaim, LocatedFix, Location, RelatedLocation
from memlint.edits import merged
from memlint.findings import CannotFix, Claim, Finding, Fix, Related, told
from memlint.model.source_text import written
from memlint.registry import fixer
from memlint.source import Source


def locate(findings: Iterable[Finding], source: Source, path: Path, url_of: Callable[[str], str]) -> list[Diagnostic]:
    """The diagnostics of ``findings`` in ``source``, in the order of their places.

    ``url_of`` gives the documentation page of a rule's code. A fix that its fixer cannot make is left out, and so are
    fixes and related places in other files.
    """
    return sorted((_diagnostic(finding, source, path, url_of) for finding in findings), key=lambda d: d.sort_key)


def _diagnostic(finding: Finding, source: Source, path: Path, url_of: Callable[[str], str]) -> Diagnostic:
    location = source.location(finding.node)
    return Diagnostic(
        code=finding.code,
        name=finding.name,
        message=told(finding.message),
        path=path,
        location=location,
        end_location=source.end_location(finding.node),
        severity=finding.severity,
        confidence=finding.confidence,
        holds=finding.holds,
        fixes=tuple(located for fix in finding.fixes if (located := _fix(fix, source))),
        noqa_row=source.noqa_row(location.row),
        url=url_of(finding.code),
        related=tuple(_related(related, source) for related in finding.related if related.node in source),
        claim=_claim(finding.claim, source) if finding.claim else None,
    )


def _fix(fix: Fix, source: Source) -> LocatedFix | None:
    targets = [each for target in fix.targets.values() for each in (target if isinstance(target, tuple) else [target])]
    if not all(target in source for target in targets):
        return None
    for target in targets:
        source.span(target)  # Fixers read the layout of what they are given.
    try:
        edits = fixer(fix.fixer).edits(fix, source)
    except CannotFix:
        return None
    return LocatedFix(fix.applicability, told(fix.message), merged(edits), fix.reveals) if edits else None


def _related(related: Related, source: Source) -> RelatedLocation:
    return RelatedLocation(source.location(related.node), source.end_location(related.node), related.message)


def _claim(claim: Claim, source: Source) -> LocatedClaim:
    held, held_end = _span(claim.held, source)
    holder, holder_end = _span(claim.holder, source)
    return LocatedClaim(
        shape=claim.shape.value,
        memory=claim.memory,
        size=claim.size,
        holder=_code(claim.holder, source),
        held=_code(claim.held, source),
        held_location=held,
        held_end_location=held_end,
        holder_location=holder,
        holder_end_location=holder_end,
        watch=claim.watched.value,
        unobservable=claim.unobservable,
        limit=claim.limit,
    )


def _span(node: CSTNode | None, source: Source) -> tuple[Location | None, Location | None]:
    if node is None or node not in source:
        return None, None
    return source.location(node), source.end_location(node)


def _code(node: CSTNode | None, source: Source) -> str | None:
    """The text of ``node``, which may stand in another file of the project."""
    if node is None:
        return None
    return source.code(node) if node in source else written(node)
