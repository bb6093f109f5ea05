"""``path:row:column: CODE message``, one line for each finding; editors and ``grep`` read it."""

from __future__ import annotations

from memlint.config import shown
from memlint.diagnostics import Diagnostic
from memlint.report import Report
from memlint.report.style import BOLD, FIXABLE, SEVERITIES, styled, wrapped


def render(report: Report, *, color: bool = False) -> str:
    """One line for each diagnostic."""
    return "".join(f"{_line(report, diagnostic, color)}\n" for diagnostic in report.diagnostics)


def _line(report: Report, diagnostic: Diagnostic, color: bool) -> str:
    return f"{styled(place(diagnostic), BOLD, color)}: {headline(report, diagnostic, color)}"


def place(diagnostic: Diagnostic) -> str:
    """Path, cell of a notebook, row and column of a diagnostic."""
    cell = "" if diagnostic.cell is None else f":cell {diagnostic.cell}"
    return f"{shown(diagnostic.path)}{cell}:{diagnostic.location.row}:{diagnostic.location.column}"


def headline(report: Report, diagnostic: Diagnostic, color: bool, width: int | None = None) -> str:
    """Code and message of a diagnostic, with ``[*]`` if ``--fix`` would fix it."""
    code = styled(diagnostic.code, SEVERITIES[diagnostic.severity], color)
    fixable = report.applicable_fix(diagnostic) is not None
    mark = f"[{styled('*', FIXABLE, color)}] " if fixable else ""
    plain = f"{diagnostic.code} {'[*] ' * fixable}"
    return f"{code} {mark}{wrapped(plain, diagnostic.message, 2, width)}"
