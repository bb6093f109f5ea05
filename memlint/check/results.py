"""What a check of files gives. Nothing here loads a parser: results may also come from a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memlint.diagnostics import Diagnostic
from memlint.files import FileError, SourceFile
from memlint.stages import Seconds

if TYPE_CHECKING:
    from memlint.model.dependencies import Dependencies


class Action(Enum):
    """What is done with the findings of a file."""

    CHECK = "check"
    """Report them, or fix them where the settings of the file say so."""
    FIX = "fix"
    """Fix what can be fixed, and report the rest."""
    ADD_NOQA = "add-noqa"
    """Silence them with comments."""


@dataclass(frozen=True)
class FileResult:
    """What the check of one file has found.

    With an ``error`` of kind INTERNAL some rules have failed and ``diagnostics`` are those of the others; with any
    other error there are none. ``text`` is the decoded text, ``cells`` the texts of a notebook's cells by number;
    both are there if there are diagnostics.
    """

    path: Path
    diagnostics: list[Diagnostic]
    error: FileError | None = None
    text: str | None = None
    cells: Mapping[int, str] = field(default_factory=dict)


class Refusal(NamedTuple):
    """A fix that was tried and taken back."""

    diagnostic: Diagnostic
    reason: str


@dataclass
class Importing:
    """What the imports in the files of one folder have met."""

    packages: list[str] = field(default_factory=list)
    """The ``__init__.py`` that make the folder a part of a package."""
    missed: dict[str, set[str]] = field(default_factory=dict)
    """Folders, and the names of modules and files that were looked for in them and were not there."""


class Record(NamedTuple):
    """What a check rests on, so that its result can be kept."""

    digest: bytes
    """Of the bytes of the file."""
    dependencies: Dependencies | None
    """None for a file that was not parsed."""
    importing: Mapping[Path, Importing]
    """What has been found out about imports since the last record, by the folder of the files that import."""


@dataclass(frozen=True)
class FileReport:
    """What became of one file. Nothing has been written yet."""

    file: SourceFile
    result: FileResult
    """What is left to report."""
    before: bytes = b""
    """What it holds; there if that is to change."""
    after: bytes | None = None
    """What the file should hold; None if that is what it holds."""
    unchanged: FileResult | None = None
    """What is to be reported if ``after`` cannot be written."""
    fixed: tuple[Diagnostic, ...] = ()
    refused: tuple[Refusal, ...] = ()
    silenced: int = 0
    """Findings that got a noqa comment."""
    record: Record | None = None
    """There if the result can be kept."""
    seconds: Seconds = field(default_factory=dict)
    """What the stages of the check took, if that is counted."""
