"""SARIF 2.1.0, the format of code scanning services."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from memlint import __version__
from memlint.diagnostics import Diagnostic, LocatedFix, Location
from memlint.files import FileError
from memlint.report import Report
from memlint.rule import Rule

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"
_NEWLINE = re.compile(r"\r\n?|\n")


def render(report: Report, *, color: bool = False) -> str:  # noqa: ARG001 - JSON has no colours
    """A log with one run."""
    rules = sorted(report.rules, key=lambda rule: rule.code)
    indices = {rule.code: index for index, rule in enumerate(rules)}
    driver = {
        "name": "memlint",
        "semanticVersion": __version__,
        "version": __version__,
        "rules": [_rule(rule) for rule in rules],
    }
    notifications = [_notification(error, report.root) for error in report.errors]
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {_ROOT: {"uri": f"{report.root.as_uri()}/"}},
        "invocations": [{"executionSuccessful": not notifications, "toolExecutionNotifications": notifications}],
        "results": list(_results(report, indices)),
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(rule: Rule) -> dict[str, Any]:
    page = rule.documentation()
    summary = page.partition("\n")[0]
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": summary or rule.name},
        "fullDescription": {"text": summary or rule.name},
        "help": {"text": page or rule.name, "markdown": page or rule.name},
        "defaultConfiguration": {"enabled": rule.default, "level": rule.severity.value},
        "properties": {"tags": ["memory", "pytorch"]},
    }


def _results(report: Report, indices: dict[str, int]) -> list[dict[str, Any]]:
    results = []
    seen: Counter[str] = Counter()
    for result in report.results:
        rows = _NEWLINE.split(result.text or "")
        for diagnostic in result.diagnostics:
            cell = _NEWLINE.split(result.cells[diagnostic.cell]) if diagnostic.cell is not None else rows
            row = cell[diagnostic.location.row - 1] if diagnostic.location.row <= len(cell) else ""
            # Stays the same when the finding moves to another row; the same code on equal rows is numbered.
            place = _artifact(diagnostic.path, report.root)["uri"]
            identity = f"{diagnostic.code}\n{place}\n{row.strip()}"
            seen[identity] += 1
            fingerprint = f"{hashlib.sha256(identity.encode('utf-8', 'replace')).hexdigest()[:16]}:{seen[identity]}"
            results.append(_result(diagnostic, report.root, indices, fingerprint))
    return results


def _result(diagnostic: Diagnostic, root: Path, indices: dict[str, int], fingerprint: str) -> dict[str, Any]:
    location: dict[str, Any] = {"physicalLocation": _place(diagnostic, root)}
    if diagnostic.cell is not None:
        location["logicalLocations"] = [{"name": f"cell {diagnostic.cell}", "index": -1}]
    result: dict[str, Any] = {
        "ruleId": diagnostic.code,
        "level": diagnostic.severity.value,
        "message": {"text": diagnostic.message},
        "locations": [location],
        "partialFingerprints": {"primaryLocationLineHash": fingerprint},
        "properties": {"confidence": diagnostic.confidence.value, "holds": diagnostic.holds},
    }
    if diagnostic.code in indices:
        result["ruleIndex"] = indices[diagnostic.code]
    # Rows inside the cells of a notebook are no rows of the file, so neither places nor fixes can be given.
    if diagnostic.cell is None:
        artifact = _artifact(diagnostic.path, root)
        result["relatedLocations"] = [
            {
                "message": {"text": related.message},
                "physicalLocation": {
                    "artifactLocation": artifact,
                    "region": _region(related.location, related.end_location),
                },
            }
            for related in diagnostic.related
        ]
        result["fixes"] = [_fix(fix, artifact) for fix in diagnostic.fixes]
    return result


def _place(diagnostic: Diagnostic, root: Path) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": _artifact(diagnostic.path, root)}
    if diagnostic.cell is None:
        place["region"] = _region(diagnostic.location, diagnostic.end_location)
    return place


def _artifact(path: Path, root: Path) -> dict[str, str]:
    if path.is_relative_to(root):
        return {"uri": quote(path.relative_to(root).as_posix()), "uriBaseId": _ROOT}
    return {"uri": path.as_uri() if path.is_absolute() else quote(path.as_posix())}


def _region(start: Location, end: Location) -> dict[str, int]:
    return {"startLine": start.row, "startColumn": start.column, "endLine": end.row, "endColumn": end.column}


def _fix(fix: LocatedFix, artifact: dict[str, str]) -> dict[str, Any]:
    replacements = [
        {"deletedRegion": _region(edit.location, edit.end_location), "insertedContent": {"text": edit.content}}
        for edit in fix.edits
    ]
    return {
        "description": {"text": fix.message},
        "artifactChanges": [{"artifactLocation": artifact, "replacements": replacements}],
        "properties": {"applicability": fix.applicability.value},
    }


def _notification(error: FileError, root: Path) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": _artifact(error.path, root)}
    if error.row is not None and error.cell is None:
        place["region"] = {"startLine": error.row, "startColumn": error.column or 1}
    return {"level": "error", "message": {"text": error.message}, "locations": [{"physicalLocation": place}]}
