"""How findings are printed: one module for each format, each with ``render(report, color)``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memlint.diagnostics import Diagnostic, LocatedFix
from memlint.findings import Applicability, Severity

if TYPE_CHECKING:
    from memlint.check.results import FileResult
    from memlint.files import FileError
    from memlint.rule import Rule


class Report(NamedTuple):
    """What there is to print."""

    results: Sequence[FileResult]
    """In the order in which they are printed."""
    errors: Sequence[FileError] = ()
    rules: Sequence[Rule] = ()
    """All rules that were known, on or off."""
    root: Path = Path()
    """The absolute root of the project; SARIF's paths are relative to it."""
    unsafe_fixes: bool = False
    """Whether unsafe fixes are among those that ``--fix`` would apply."""
    width: int | None = None
    """Columns of the terminal that sentences should fit in; None for no limit."""

    @property
    def diagnostics(self) -> Iterator[Diagnostic]:
        """The diagnostics of all files."""
        for result in self.results:
            yield from result.diagnostics

    def applicable_fix(self, diagnostic: Diagnostic) -> LocatedFix | None:
        """The fix that ``--fix`` would apply, with ``--unsafe-fixes`` if that is on."""
        allowed = {Applicability.SAFE, Applicability.UNSAFE} if self.unsafe_fixes else {Applicability.SAFE}
        return next((fix for fix in diagnostic.fixes if fix.applicability in allowed), None)


class Renderer(Protocol):
    """A module in this package."""

    def render(self, report: Report, *, color: bool = False) -> str:
        """The text to print; it ends with a newline unless it is empty."""


def renderer(output_format: str) -> Renderer:
    """The module that prints ``output_format``, one of :data:`memlint.config.OUTPUT_FORMATS`."""
    module: Renderer = importlib.import_module(f"memlint.report.{output_format}")
    return module


def fails(diagnostic: Diagnostic) -> bool:
    """Whether a diagnostic makes ``memlint check`` fail."""
    return diagnostic.severity is not Severity.NOTE
