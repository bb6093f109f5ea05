"""How verdicts are printed: one module for each format, each with ``render(report, color, width)``."""

from __future__ import annotations

import importlib
from typing import Protocol

from memlint.verify.report import VerifyReport

FORMATS = ("text", "json", "sarif", "github")


class VerdictRenderer(Protocol):
    """A module in this package."""

    def render(self, report: VerifyReport, *, color: bool = False, width: int | None = None) -> str:
        """The text to print; it ends with a newline."""


def verdict_renderer(output_format: str) -> VerdictRenderer:
    """The module that prints ``output_format``, one of :data:`FORMATS`."""
    module: VerdictRenderer = importlib.import_module(f"memlint.report.verification.{output_format}")
    return module
