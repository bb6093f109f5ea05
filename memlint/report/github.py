"""Workflow commands of GitHub Actions: each finding becomes an annotation of the pull request."""

from __future__ import annotations

from memlint.diagnostics import Diagnostic
from memlint.findings import Severity
from memlint.report import Report
from memlint.report.concise import place

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def render(report: Report, *, color: bool = False) -> str:  # noqa: ARG001 - GitHub colours annotations itself
    """One workflow command for each diagnostic."""
    return "".join(f"{_command(diagnostic)}\n" for diagnostic in report.diagnostics)


def _command(diagnostic: Diagnostic) -> str:
    location, end = diagnostic.location, diagnostic.end_location
    properties = {
        "title": f"memlint ({diagnostic.code})",
        "file": diagnostic.path.as_posix(),
        "line": str(location.row),
        "endLine": str(end.row),
    }
    if end.row == location.row:
        # GitHub refuses columns in annotations of several lines.
        properties |= {"col": str(location.column), "endColumn": str(end.column)}
    if diagnostic.cell is not None:
        # A row inside a cell is no row of the file.
        properties = {"title": properties["title"], "file": properties["file"], "line": "1", "endLine": "1"}
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    message = f"{place(diagnostic)}: {diagnostic.code} {diagnostic.message}"
    return f"::{_COMMANDS[diagnostic.severity]} {listed}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
