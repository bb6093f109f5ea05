"""Fixed versions of the checked files, in memory: for a run that uses them, or to be written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memlint.check.engine import check_data
from memlint.check.results import FileResult, Refusal
from memlint.config import Configuration
from memlint.diagnostics import Diagnostic
from memlint.findings import Confidence
from memlint.fixing import fix_data
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
    without: Collection[Diagnostic] = (),
) -> list[FixedFile]:
    """The files that fixes change: with ``only``, by the fixes of these findings alone; ``without`` leaves some out."""
    checks = _Checks(static, configuration, rules, only, without)
    files = [_fixed(path, data, checks, unsafe) for path, data in static.data.items()]
    return [file for file in files if file is not None]


@dataclass
class _Checks:
    """Checks files again while they are being fixed."""

    static: Static
    configuration: Configuration
    rules: Sequence[Rule]
    only: Collection[Diagnostic] | None
    without: Collection[Diagnostic]

    def __post_init__(self) -> None:
        self._project = Project(self.static.root)

    def check(self, path: Path, data: bytes) -> FileResult:
        """The findings in ``data`` with the fixes that may be applied."""
        settings = self.configuration.settings(path.parent)
        least = Confidence.LIKELY if self.only is None else Confidence.POSSIBLE
        result = check_data(path, data, self.rules, self._project, settings, least=least, named=True)
        if self.only is None and not self.without:
            return result
        is_original = data == self.static.data[path]
        kept = [each if self._is_wanted(each, is_original) else each._replace(fixes=()) for each in result.diagnostics]
        return replace(result, diagnostics=kept)

    def _is_wanted(self, diagnostic: Diagnostic, is_original: bool) -> bool:
        if not is_original:
            # Once something has been fixed, findings stand elsewhere: which of them is which can no longer be told.
            return self.only is None and all(diagnostic.code != each.code for each in self.without)
        return (self.only is None or _is_among(diagnostic, self.only)) and not _is_among(diagnostic, self.without)


def _is_among(diagnostic: Diagnostic, others: Collection[Diagnostic]) -> bool:
    place = (diagnostic.path, diagnostic.code, diagnostic.location)
    return any(place == (each.path, each.code, each.location) for each in others)


def _fixed(path: Path, data: bytes, checks: _Checks, unsafe: bool) -> FixedFile | None:
    outcome = fix_data(path, data, lambda data: checks.check(path, data), unsafe)
    if outcome.data == data and not outcome.refused:
        return None
    return FixedFile(path, data, outcome.data, outcome.fixed, outcome.refused)
