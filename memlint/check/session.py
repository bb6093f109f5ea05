"""One run of ``memlint check``: finds the files, checks them, and writes what has to be written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from memlint.cache.cache import Cache
from memlint.check.results import Action, FileReport, FileResult
from memlint.config import Configuration
from memlint.files import (
    Discovery,
    ErrorKind,
    FileError,
    SourceFile,
    absolute,
    discover,
    project_files,
    project_root,
)
from memlint.rule import Rule, RuleFacts
from memlint.stages import Seconds, added, stage
from memlint.writing import WriteError, write_atomically

STDIN = Path("-")
"""The path that stands for standard input."""

_FILES_FOR_A_PROCESS = 64
"""Fewer files than this are not worth the start of another process."""

Progress: TypeAlias = Callable[[int], AbstractContextManager[Callable[[], None]]]
"""Shows how far a number of files have got: what it gives is called after each."""


@contextmanager
def silent(files: int) -> Iterator[Callable[[], None]]:  # noqa: ARG001 - nothing is shown
    """Shows nothing."""
    yield lambda: None


def default_jobs(files: int) -> int:
    """How many processes check ``files`` files if nobody says: one for each core, if there is enough to do."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, files // _FILES_FOR_A_PROCESS))


@dataclass
class Session:
    """The files that ``paths`` mean, and how they are checked."""

    configuration: Configuration
    rules: Callable[[], tuple[Rule, ...]]
    """Loads all rules that there are."""
    paths: Sequence[Path]
    action: Action = Action.CHECK
    cache: Cache | None = None
    facts: Sequence[RuleFacts] = ()
    """Of all rules, for the cache."""
    is_profiled: bool = False
    discovery: Discovery = field(init=False)
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        with stage("discover"):
            self.discovery = discover(self.paths, self.configuration)
        self.root = project_root([absolute(path) for path in self.paths])

    @property
    def files(self) -> list[SourceFile]:
        """The files to check."""
        return self.discovery.files

    @cached_property
    def _members(self) -> tuple[Path, ...]:
        """The files of the project."""
        checked = (file.path for file in self.files)
        if self.root in map(absolute, self.paths):
            return tuple(checked)
        return project_files(self.root, checked, self.configuration)

    def run(self, jobs: int | None, progress: Progress = silent) -> Outcome:
        """Checks the files in ``jobs`` processes, by default as many as are worth it."""
        outcome = Outcome(errors=list(self.discovery.errors))
        if not self.files:
            return outcome
        with stage("cache"):
            known = self._known()
        left = [file for file in self.files if file.path not in known]
        with progress(len(left)) as done, closing(self._checked(left, jobs)) as reports:
            for file in self.files:
                report = known.get(file.path) or next(reports)
                outcome.add(report)
                if report.file.path not in known:
                    done()
        if self.cache is not None and self._is_kept:
            with stage("cache"):
                self.cache.keep(outcome.reports, self.facts)
        return outcome

    def _known(self) -> dict[Path, FileReport]:
        """What is known of files that have not changed, except where something is to be done about it."""
        if self.cache is None:
            return {}
        if self._is_kept:
            self.cache.prepare()
        found = self.cache.known(self.files, self._members, self.configuration, self.facts)
        return {
            file.path: FileReport(file, found[file.path])
            for file in self.files
            if file.path in found and not (found[file.path].diagnostics and self._changes_files(file))
        }

    @property
    def _is_kept(self) -> bool:
        """Whether what is found is kept: what fixing has found on its way is no use to anybody."""
        return self.cache is not None and self.action is Action.CHECK

    def _changes_files(self, file: SourceFile) -> bool:
        return self.action is not Action.CHECK or self.configuration.settings(file.path.parent).fix

    def _checked(self, files: Sequence[SourceFile], jobs: int | None) -> Generator[FileReport, None, None]:
        if files:
            from memlint.check.worker import Task, check_files

            task = Task(
                self.root, self._members, self.configuration, self.rules, self.action, self.is_profiled, self._is_kept
            )
            yield from check_files(task, files, jobs or default_jobs(len(files)))

    def run_on(self, data: bytes, name: Path | None) -> Outcome:
        """Checks ``data`` as if it stood at ``name``; without a name it comes from nowhere. Raises ConfigError."""
        from memlint.check.worker import Task, Worker

        file = SourceFile(absolute(name or Path("stdin.py")), named=True)
        settings = self.configuration.settings(file.path.parent)
        if name and settings.force_exclude and settings.excludes(file.path):
            return Outcome([FileReport(file, FileResult(file.path, []))])
        files = project_files(self.root, [file.path], self.configuration)
        task = Task(self.root, files, self.configuration, self.rules, self.action)
        outcome = Outcome()
        report = Worker(task).report(file, data)
        outcome.add(report if name else _from_nowhere(report))
        return outcome


@dataclass
class Outcome:
    """What has become of the files."""

    reports: list[FileReport] = field(default_factory=list)
    errors: list[FileError] = field(default_factory=list)
    warnings: list[FileError] = field(default_factory=list)
    """Errors that are nobody's fault: a file that was found by walking does not parse."""

    def add(self, report: FileReport) -> None:
        """Takes in one more file."""
        self.reports.append(report)
        error = report.result.error
        if error:
            found = error.kind is ErrorKind.SYNTAX and not report.file.named
            (self.warnings if found else self.errors).append(error)

    @property
    def results(self) -> list[FileResult]:
        """The findings that are left."""
        return [report.result for report in self.reports]

    @property
    def changed(self) -> list[FileReport]:
        """The files that should hold something else."""
        return [report for report in self.reports if report.after is not None]

    @property
    def fixed(self) -> Counter[str]:
        """How many findings have been fixed, by code."""
        return Counter(diagnostic.code for report in self.reports for diagnostic in report.fixed)

    @property
    def seconds(self) -> Seconds:
        """What the stages of the checks took, if that is counted."""
        return added(report.seconds for report in self.reports)

    @property
    def silenced(self) -> int:
        """How many findings have got a noqa comment."""
        return sum(report.silenced for report in self.reports)

    def write(self) -> None:
        """Writes the files that have changed. One that cannot be written becomes an error and counts as not fixed."""
        for index, report in enumerate(self.reports):
            if report.after is None:
                continue
            try:
                write_atomically(report.file.path, report.after, expected=report.before)
            except WriteError as error:
                message = str(error).removeprefix(f"{report.file.path}: ")
                self.errors.append(FileError(report.file.path, message, kind=ErrorKind.FILE))
                result = report.unchanged or report.result
                self.reports[index] = replace(report, after=None, fixed=(), silenced=0, result=result)


def _from_nowhere(report: FileReport) -> FileReport:
    """``report`` about standard input, which has no path."""
    result = report.result
    error = replace(result.error, path=STDIN) if result.error else None
    diagnostics = [diagnostic._replace(path=STDIN) for diagnostic in result.diagnostics]
    return replace(report, result=replace(result, path=STDIN, diagnostics=diagnostics, error=error))
