"""One run of ``memlint check``: finds the files, checks them, and writes what has to be written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from memlint.check.engine import FileResult
from memlint.check.parallel import Action, FileReport, Task, Worker, check_files, default_jobs
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
from memlint.fixing import WriteError, write_atomically
from memlint.rule import Rule

STDIN = Path("-")
"""The path that stands for standard input."""


@dataclass
class Session:
    """The files that ``paths`` mean, and how they are checked."""

    configuration: Configuration
    rules: tuple[Rule, ...]
    paths: Sequence[Path]
    action: Action = Action.CHECK
    discovery: Discovery = field(init=False)
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.discovery = discover(self.paths, self.configuration)
        self.root = project_root([absolute(path) for path in self.paths])

    @property
    def files(self) -> list[SourceFile]:
        """The files to check."""
        return self.discovery.files

    def task(self) -> Task:
        """What the processes that check the files have to know."""
        files = project_files(self.root, (file.path for file in self.files), self.configuration)
        return Task(self.root, files, self.configuration, self.rules, self.action)

    def run(self, jobs: int | None, done: Callable[[], None] = lambda: None) -> Outcome:
        """Checks the files in ``jobs`` processes, by default as many as are worth it; ``done`` after each."""
        outcome = Outcome(errors=list(self.discovery.errors))
        if not self.files:
            return outcome
        for report in check_files(self.task(), self.files, jobs or default_jobs(len(self.files))):
            outcome.add(report)
            done()
        return outcome

    def run_on(self, data: bytes, name: Path | None) -> Outcome:
        """Checks ``data`` as if it stood at ``name``; without a name it comes from nowhere. Raises ConfigError."""
        file = SourceFile(absolute(name or Path("stdin.py")), named=True)
        settings = self.configuration.settings(file.path.parent)
        if name and settings.force_exclude and settings.excludes(file.path):
            return Outcome([FileReport(file, FileResult(file.path, []), data)])
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
    diagnostics = [replace(diagnostic, path=STDIN) for diagnostic in result.diagnostics]
    return replace(report, result=replace(result, path=STDIN, diagnostics=diagnostics, error=error))
