"""Results of checks as plain data and back: what a cache keeps, without anything that could run."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from memlint.check.results import FileResult
from memlint.diagnostics import Diagnostic, Edit, LocatedClaim, LocatedFix, Location, RelatedLocation
from memlint.files import ErrorKind, FileError
from memlint.findings import Applicability, Confidence, Severity


def packed(content: object) -> bytes:
    """``content``, of the types of JSON, as bytes that show whether they are whole."""
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode("utf-8", "surrogatepass"), 1)


def unpacked(data: bytes) -> Any:
    """What :func:`packed` was given. Raises ``zlib.error`` or ValueError for anything else."""
    return json.loads(zlib.decompress(data).decode("utf-8", "surrogatepass"))


def from_result(result: FileResult) -> dict[str, Any]:
    """What is kept of a result; nothing for a file in which nothing was found."""
    kept: dict[str, Any] = {}
    if result.diagnostics:
        kept["found"] = [_from_diagnostic(each) for each in result.diagnostics]
        kept["text"] = result.text
        kept["cells"] = list(result.cells.items())
    if result.error is not None:
        error = result.error
        kept["error"] = [error.message, error.row, error.column, error.kind.value, error.cell]
    return kept


def to_result(path: Path, kept: dict[str, Any]) -> FileResult:
    """The result for ``path``. Raises KeyError, TypeError or ValueError for what :func:`from_result` has not made."""
    error = None
    if "error" in kept:
        message, row, column, kind, cell = kept["error"]
        error = FileError(path, message, row, column, ErrorKind(kind), cell)
    found = [_to_diagnostic(path, each) for each in kept.get("found", ())]
    return FileResult(path, found, error, kept.get("text"), dict(kept.get("cells", ())))


def _from_diagnostic(found: Diagnostic) -> dict[str, Any]:
    return {
        "code": found.code,
        "name": found.name,
        "message": found.message,
        "at": _span(found.location, found.end_location),
        "severity": found.severity.value,
        "confidence": found.confidence.value,
        "holds": found.holds,
        "fixes": [_from_fix(fix) for fix in found.fixes],
        "noqa_row": found.noqa_row,
        "url": found.url,
        "related": [[*_span(each.location, each.end_location), each.message, each.cell] for each in found.related],
        "claim": _from_claim(found.claim) if found.claim is not None else None,
        "cell": found.cell,
    }


def _to_diagnostic(path: Path, kept: dict[str, Any]) -> Diagnostic:
    start, end = _places(kept["at"])
    return Diagnostic(
        code=kept["code"],
        name=kept["name"],
        message=kept["message"],
        path=path,
        location=start,
        end_location=end,
        severity=Severity(kept["severity"]),
        confidence=Confidence(kept["confidence"]),
        holds=kept["holds"],
        fixes=tuple(_to_fix(fix) for fix in kept["fixes"]),
        noqa_row=kept["noqa_row"],
        url=kept["url"],
        related=tuple(RelatedLocation(*_places(each[:4]), each[4], each[5]) for each in kept["related"]),
        claim=_to_claim(kept["claim"]) if kept["claim"] is not None else None,
        cell=kept["cell"],
    )


def _from_fix(fix: LocatedFix) -> list[Any]:
    edits = [[*_span(edit.location, edit.end_location), edit.content, edit.cell] for edit in fix.edits]
    return [fix.applicability.value, fix.message, edits, sorted(fix.reveals)]


def _to_fix(kept: list[Any]) -> LocatedFix:
    applicability, message, edits, reveals = kept
    located = tuple(Edit(*_places(edit[:4]), edit[4], edit[5]) for edit in edits)
    return LocatedFix(Applicability(applicability), message, located, frozenset(reveals))


_PLACES_OF_A_CLAIM = ("held_location", "held_end_location", "holder_location", "holder_end_location")
_WORDS_OF_A_CLAIM = ("shape", "memory", "size", "holder", "held", "watch", "unobservable", "limit")


def _from_claim(claim: LocatedClaim) -> dict[str, Any]:
    kept: dict[str, Any] = {name: getattr(claim, name) for name in _WORDS_OF_A_CLAIM}
    for name in _PLACES_OF_A_CLAIM:
        place = getattr(claim, name)
        kept[name] = None if place is None else [place.row, place.column]
    return kept


def _to_claim(kept: dict[str, Any]) -> LocatedClaim:
    places: dict[str, Any] = {
        name: None if kept[name] is None else Location(*kept[name]) for name in _PLACES_OF_A_CLAIM
    }
    return LocatedClaim(**{name: kept[name] for name in _WORDS_OF_A_CLAIM}, **places)


def _span(start: Location, end: Location) -> list[int]:
    return [start.row, start.column, end.row, end.column]


def _places(kept: list[int]) -> tuple[Location, Location]:
    row, column, end_row, end_column = kept
    return Location(row, column), Location(end_row, end_column)
