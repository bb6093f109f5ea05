"""Fixed versions of the checked files, in memory: for a run that uses them, or to be written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memlint.check.engine import FileResult, check_data
from memlint.config import Configuration, Settings
from memlint.diagnostics import Diagnostic
from memlint.findings import Confidence
from memlint.fixing import Refusal, fix_data
from memlint.model.project import Project
from memlint.rule import Rule
from memlint.verify.static import Static


@dataclass(frozen=True)
class FixedFile:
    """What a file would hold."""

    path: Path
    before: bytes
    after: bytes
    fixed: tuple[Diagnostic, ...]
    refused: tuple[Refusal, ...]


def fixed_files(
    static: Static,
    configuration: Configuration,
    rules: Sequence[Rule],
    *,
    unsafe: bool,
    only: Collection[Diagnostic] | None = None,
) -> list[FixedFile]:
    """The files that fixes change; with ``only``, the fixes of these findings and no others."""
    project = Project(static.root)
    files = []
    for path, data in static.data.items():
        settings = configuration.settings(path.parent)
        least = Confidence.LIKELY if only is None else Confidence.POSSIBLE

        def check(
            data: bytes, path: Path = path, least: Confidence = least, settings: Settings = settings
        ) -> FileResult:
            result = check_data(path, data, rules, project, settings, least=least, named=True)
            return result if only is None else _without_other_fixes(result, only)

        files.append(_fixed(path, data, check, unsafe))
    return [file for file in files if file is not None]


def _fixed(path: Path, data: bytes, check: Callable[[bytes], FileResult], unsafe: bool) -> FixedFile | None:
    outcome = fix_data(path, data, check, unsafe)
    if outcome.data == data and not outcome.refused:
        return None
    return FixedFile(path, data, outcome.data, outcome.fixed, outcome.refused)


def _without_other_fixes(result: FileResult, wanted: Collection[Diagnostic]) -> FileResult:
    """Findings move while others are fixed; what they say about which expression stays."""
    keys = {_identity(each) for each in wanted}
    kept = [each if _identity(each) in keys else replace(each, fixes=()) for each in result.diagnostics]
    return replace(result, diagnostics=kept)


def _identity(diagnostic: Diagnostic) -> tuple[str, str, str]:
    return str(diagnostic.path), diagnostic.code, diagnostic.message
