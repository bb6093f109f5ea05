"""Checks files one after the other, or hands them to several processes that give the same answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from memlint import stages
from memlint.check.engine import check_data
from memlint.check.results import Action, FileReport, FileResult, Importing, Record
from memlint.check.suppression import UnusedNoqa, with_noqa
from memlint.config import Configuration, Settings
from memlint.digests import digest
from memlint.files import ErrorKind, FileError, SourceFile
from memlint.fixing import fix_data
from memlint.model.project import Project
from memlint.notebook import read_source
from memlint.rule import Rule
from memlint.source import SourceError

_READ_ATTEMPTS = 3


class Task(NamedTuple):
    """What every process has to know."""

    root: Path
    files: tuple[Path, ...]
    """The files of the project, checked or not."""
    configuration: Configuration
    rules: Callable[[], tuple[Rule, ...]]
    """Loads all rules that there are; called in each process, so that the one that checks nothing loads none."""
    action: Action = Action.CHECK
    is_profiled: bool = False
    is_kept: bool = False
    """Whether the reports say what they rest on, so that they can be kept."""


def check_files(task: Task, files: Sequence[SourceFile], jobs: int) -> Generator[FileReport, None, None]:
    """Checks ``files`` in up to ``jobs`` processes and yields the reports in the order of the files.

    If the caller stops early, or Ctrl-C is pressed, the other processes end at once.
    """
    if jobs > 1 and len(files) > 1:
        from memlint.check.parallel import in_processes

        yield from in_processes(task, files, jobs)
        return
    Process.worker = Worker(task)
    yield from map(Process.worker, files)


class Process:
    """What a process keeps until it ends: then it need not take its trees apart."""

    worker: Worker


class Worker:
    """Checks files one after the other. Each process has one, over the same project."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._rules = task.rules()
        self._project = Project(task.root, task.files)

    def __call__(self, file: SourceFile) -> FileReport:
        """Does the task's action for ``file``."""
        with stages.stage("check"):
            report = self._report(file)
        seconds = stages.taken()
        return replace(report, seconds=seconds) if seconds else report

    def _report(self, file: SourceFile) -> FileReport:
        try:
            data = read(file.path)
        except OSError as error:
            return not_read(file, f"cannot be read: {error.strerror or error}")
        except UnstableFile:
            return not_read(file, "keeps changing while it is read")
        return self.report(file, data)

    def report(self, file: SourceFile, data: bytes) -> FileReport:
        """Does the task's action for ``data``, which stands (or would stand) at the path of ``file``."""
        settings = self._task.configuration.settings(file.path.parent)
        if self._task.action is Action.FIX or (settings.fix and self._task.action is Action.CHECK):
            return self._fix(file, data, settings)
        if self._task.action is Action.ADD_NOQA:
            return self._add_noqa(file, data, settings)
        result = self._check(file, data, settings)
        return FileReport(file, result, record=self._record(data) if self._task.is_kept else None)

    def _record(self, data: bytes) -> Record:
        """What the check that has just been made of ``data`` rests on."""
        lookups = self._project.lookups
        importing = {folder: Importing(*met) for folder, met in lookups.news().items()}
        return Record(digest(data), self._project.dependencies(), importing)

    def _check(self, file: SourceFile, data: bytes, settings: Settings) -> FileResult:
        return check_data(file.path, data, self._rules, self._project, settings, named=file.named)

    def _fix(self, file: SourceFile, data: bytes, settings: Settings) -> FileReport:
        checks: list[FileResult] = []

        def check(data: bytes) -> FileResult:
            checks.append(self._check(file, data, settings))
            return checks[-1]

        outcome = fix_data(file.path, data, check, settings.unsafe_fixes)
        if outcome.passes:
            # Other files are checked against what is on the disk, whoever comes first.
            self._project = Project(self._task.root, self._task.files)
        after = outcome.data if outcome.data != data else None
        return FileReport(file, outcome.result, data, after, checks[0], outcome.fixed, outcome.refused)

    def _add_noqa(self, file: SourceFile, data: bytes, settings: Settings) -> FileReport:
        result = self._check(file, data, settings)
        found = [each for each in result.diagnostics if each.code != UnusedNoqa.code]
        if not found:
            return FileReport(file, result)
        source = read_source(file.path, data)
        try:
            after = source.encode(with_noqa(source, found))
        except SourceError as error:
            return not_read(file, f"cannot take noqa comments: {error}")
        left = self._check(file, after, settings)
        return FileReport(file, left, data, after, result, silenced=len(found))


class UnstableFile(Exception):
    """A file that somebody writes to all the time."""


def read(path: Path) -> bytes:
    """The bytes of a file, all of one moment. Raises OSError, and UnstableFile for a file that changes all the time."""
    for _ in range(_READ_ATTEMPTS):
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            data = file.read()
            after = os.fstat(file.fileno())
        if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
            return data
    raise UnstableFile


def not_read(file: SourceFile, message: str, kind: ErrorKind = ErrorKind.FILE) -> FileReport:
    """The report of a file that could not be checked."""
    return FileReport(file, FileResult(file.path, [], FileError(file.path, message, kind=kind)))
