"""Checks many files: in this process, or in several that share the work and give the same answer."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

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

_CHUNK = 16
"""Files that a process takes at a time, at most."""
_READ_ATTEMPTS = 3


@dataclass(frozen=True)
class Task:
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


def check_files(task: Task, files: Sequence[SourceFile], jobs: int) -> Iterator[FileReport]:
    """Checks ``files`` in up to ``jobs`` processes and yields the reports in the order of the files.

    If the caller stops early, or Ctrl-C is pressed, the other processes end at once.
    """
    if jobs <= 1 or len(files) <= 1:
        with _collector_out():
            # It is kept: a process that is about to end need not take its trees apart.
            _Process.worker = Worker(task)
            yield from map(_Process.worker, files)
        return
    left = deque(files)
    try:
        yield from _in_processes(task, left, jobs, size=max(1, min(_CHUNK, len(left) // (jobs * 4))))
    except BrokenProcessPool:
        yield from _one_by_one(task, left)


def _in_processes(task: Task, left: deque[SourceFile], jobs: int, size: int) -> Iterator[FileReport]:
    """Checks the files that are ``left``, ``size`` at a time, and takes out those that it yields.

    Raises BrokenProcessPool if one of the processes dies.
    """
    # Forked processes would inherit locks in whatever state the threads of this process have left them.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(jobs, len(left)), context, _start, (task,))
    try:
        with _interrupts_deferred():
            futures = [pool.submit(_work, tuple(islice(left, at, at + size))) for at in range(0, len(left), size)]
        for future in futures:
            for report in future.result():
                left.popleft()
                yield report
    except BaseException:
        # They write nothing, so nothing is lost, and nobody has to wait for the file that they are at.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _one_by_one(task: Task, left: deque[SourceFile]) -> Iterator[FileReport]:
    """After a process has died: finds out at which of the files that are ``left``, and goes on without it."""
    while left:
        try:
            yield from _in_processes(task, left, jobs=1, size=1)
        except BrokenProcessPool:  # noqa: PERF203 - it is caught once for each process that dies
            message = "the process that checked it died, perhaps for lack of memory"
            yield _not_read(left.popleft(), message, ErrorKind.INTERNAL)


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Holds Ctrl-C back from this process, and away from the processes that are started inside."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Process:
    """What a process keeps from one chunk of files to the next."""

    worker: Worker


@contextmanager
def _collector_out() -> Iterator[None]:
    """Keeps the garbage collector from going through trees that are in use anyway, and at the end to no avail.

    What becomes garbage are whole modules at once, and the project collects them when it drops them.
    """
    was_on = gc.isenabled()
    gc.disable()
    gc.unfreeze()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()


def _start(task: Task) -> None:
    """Prepares a process. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    atexit.register(gc.freeze)  # or the end of the process would go through all trees
    if task.is_profiled:
        stages.start()
    with stages.stage("start"):
        _Process.worker = Worker(task)


def _work(files: Sequence[SourceFile]) -> list[FileReport]:
    return [_Process.worker(file) for file in files]


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
            return _not_read(file, f"cannot be read: {error.strerror or error}")
        except UnstableFile:
            return _not_read(file, "keeps changing while it is read")
        return self.report(file, data)

    def report(self, file: SourceFile, data: bytes) -> FileReport:
        """Does the task's action for ``data``, which stands (or would stand) at the path of ``file``."""
        settings = self._task.configuration.settings(file.path.parent)
        if self._task.action is Action.FIX or (settings.fix and self._task.action is Action.CHECK):
            return self._fix(file, data, settings)
        if self._task.action is Action.ADD_NOQA:
            return self._add_noqa(file, data, settings)
        result = self._check(file, data, settings)
        return FileReport(file, result, data, record=self._record(data) if self._task.is_kept else None)

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
            return FileReport(file, result, data)
        source = read_source(file.path, data)
        try:
            after = source.encode(with_noqa(source, found))
        except SourceError as error:
            return _not_read(file, f"cannot take noqa comments: {error}")
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


def _not_read(file: SourceFile, message: str, kind: ErrorKind = ErrorKind.FILE) -> FileReport:
    return FileReport(file, FileResult(file.path, [], FileError(file.path, message, kind=kind)))
