"""Findings with a place: what reports print, what caches keep, what fixes apply.

Rows and columns are 1-based and count characters of the decoded text, as in ruff's JSON output; a column past the
last character of a line means the end of that line. Nothing here imports libcst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from memlint.findings import Applicability, Confidence, Severity


@dataclass(frozen=True, order=True)
class Location:
    """A place in a text: 1-based row, 1-based column in characters."""

    row: int
    column: int


@dataclass(frozen=True, order=True)
class Edit:
    """Replace the text from ``location`` up to, not including, ``end_location`` by ``content``."""

    location: Location
    end_location: Location
    content: str
    cell: int | None = None
    """1-based number of the notebook cell that the locations are relative to; None outside notebooks."""


class LocatedFix(NamedTuple):
    """The edits of one fix; they do not overlap and are sorted by place."""

    applicability: Applicability
    message: str
    edits: tuple[Edit, ...]
    reveals: frozenset[str] = frozenset()
    """Codes of findings that the fix may bring to light."""


class RelatedLocation(NamedTuple):
    """A second place that explains a diagnostic."""

    location: Location
    end_location: Location
    message: str
    cell: int | None = None
    """1-based number of the notebook cell that the locations are relative to; None outside notebooks."""


class LocatedClaim(NamedTuple):
    """A claim whose expressions have become places, so that a run can watch them."""

    shape: str
    memory: str
    size: str
    holder: str | None
    """Source text of the expression that keeps the memory alive."""
    held: str | None
    held_location: Location | None
    """Where it stands; None if in another file than the finding, and so for the holder."""
    held_end_location: Location | None = None
    holder_location: Location | None = None
    holder_end_location: Location | None = None
    watch: str = ""
    """What a run has to look at: a value of :class:`memlint.findings.Watch`."""
    unobservable: str = ""
    """Why no run can show it, where that is so."""
    limit: int = 0
    """Bytes that there are, where it is about more than these."""


class Diagnostic(NamedTuple):
    """One finding, ready to print. ``noqa_row`` is the row whose ``# noqa`` comment silences it."""

    code: str
    name: str
    message: str
    path: Path
    location: Location
    end_location: Location
    severity: Severity
    confidence: Confidence
    holds: str
    fixes: tuple[LocatedFix, ...]
    noqa_row: int
    url: str
    related: tuple[RelatedLocation, ...] = ()
    claim: LocatedClaim | None = None
    cell: int | None = None
    """1-based number of the notebook cell that ``location`` is relative to; None outside notebooks."""

    @property
    def fix(self) -> LocatedFix | None:
        """The fix that is offered first."""
        return self.fixes[0] if self.fixes else None

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Orders diagnostics by file, place and code."""
        return (str(self.path), self.cell or 0, self.location, self.code, self.message)
