"""JSON in the shape of ruff's, with what memlint knows besides: severity, confidence and what stays alive."""

from __future__ import annotations

import json
from typing import Any

from memlint.diagnostics import Diagnostic, Edit, LocatedFix, Location
from memlint.report import Report


def render(report: Report, *, color: bool = False) -> str:  # noqa: ARG001 - JSON has no colours
    """A list of objects, one for each diagnostic; ``[]`` if there are none."""
    return json.dumps([finding(diagnostic) for diagnostic in report.diagnostics], indent=2) + "\n"


def finding(diagnostic: Diagnostic) -> dict[str, Any]:
    """One diagnostic."""
    return {
        "cell": diagnostic.cell,
        "code": diagnostic.code,
        "confidence": diagnostic.confidence.value,
        "end_location": _location(diagnostic.end_location),
        "filename": str(diagnostic.path),
        "fix": _fix(diagnostic.fix) if diagnostic.fix else None,
        "holds": diagnostic.holds,
        "location": _location(diagnostic.location),
        "message": diagnostic.message,
        "name": diagnostic.name,
        "noqa_row": diagnostic.noqa_row,
        "severity": diagnostic.severity.value,
        "url": diagnostic.url,
    }


def _fix(fix: LocatedFix) -> dict[str, Any]:
    return {
        "applicability": fix.applicability.value,
        "edits": [_edit(edit) for edit in fix.edits],
        "message": fix.message,
    }


def _edit(edit: Edit) -> dict[str, Any]:
    # An edit of a notebook may be in another cell than its finding.
    cell = {} if edit.cell is None else {"cell": edit.cell}
    return {
        **cell,
        "content": edit.content,
        "end_location": _location(edit.end_location),
        "location": _location(edit.location),
    }


def _location(location: Location) -> dict[str, int]:
    return {"column": location.column, "row": location.row}
