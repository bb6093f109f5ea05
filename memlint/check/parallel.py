"""Several processes that check files: which of them checks what, and how they are started, heard and ended."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import traceback
from bisect import bisect
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from typing import TypeAlias

from memlint import stages
from memlint.check.interrupts import interrupts_deferred
from memlint.check.results import FileReport
from memlint.check.worker import Task, Worker, not_read
from memlint.files import ErrorKind, SourceFile

_BATCH = 64_000
"""Bytes of source that a process takes at a time, if there is that much: a tenth of a second, or two."""
_LEAST = 1_000
"""Bytes that any file counts for, since to read and to report it takes time, too."""
_THREADS = Path("/proc/self/task")
"""Where Linux lists the threads of a process."""

_Left: TypeAlias = dict[SourceFile, None]
"""The files that there is no report of yet, in their order."""


def in_processes(task: Task, files: Sequence[SourceFile], jobs: int) -> Iterator[FileReport]:
    """Checks ``files`` in up to ``jobs`` processes; see :func:`memlint.check.worker.check_files`."""
    reports: dict[SourceFile, FileReport] = {}
    with closing(_as_they_come(task, files, jobs)) as arriving:
        for file in files:
            while file not in reports:
                report = next(arriving)
                reports[report.file] = report
            yield reports.pop(file)


def _as_they_come(task: Task, files: Sequence[SourceFile], jobs: int) -> Generator[FileReport, None, None]:
    left = dict.fromkeys(files)
    try:
        yield from _in_processes(task, left, Shares(files, min(jobs, len(files))))
    except _ProcessDied:
        yield from _one_by_one(task, left)


def _one_by_one(task: Task, left: _Left) -> Iterator[FileReport]:
    """After a process has died: finds out at which of the files that are ``left``, and goes on without it."""
    while left:
        try:
            yield from _in_processes(task, left, Shares(list(left), 1, batch=0))
        except _ProcessDied:  # noqa: PERF203 - it is caught once for each process that dies
            file = next(iter(left))
            del left[file]
            message = "the process that checked it died, perhaps for lack of memory"
            yield not_read(file, message, ErrorKind.INTERNAL)


class Shares:
    """Which files each of several processes checks next: each has a stretch of ``files``, and begins at its front.

    Neighbours ask of the same modules. A process that has finished its stretch takes over the far half of that which
    has most left, in bytes, and so it got its first one. ``batch`` says how many bytes it takes at a time.
    """

    def __init__(self, files: Sequence[SourceFile], processes: int, batch: int = _BATCH) -> None:
        self._files = files
        self._batch = batch
        self._before = [0, *accumulate(map(_size, files))]
        """Bytes before each file, and of all of them."""
        self._stretches = [range(len(files)), *[range(0)] * (processes - 1)]

    def __len__(self) -> int:
        return len(self._stretches)

    def take(self, process: int) -> Sequence[SourceFile]:
        """The files that the ``process`` of that number is to check next; none if none are left."""
        if not self._stretches[process]:
            self._take_over(process)
        mine = self._stretches[process]
        # Less and less towards the end, where the others wait for whoever is at work.
        size = min(self._batch, self._bytes(mine) // 2)
        end = min(bisect(self._before, self._before[mine.start] + size, mine.start + 1), mine.stop)
        self._stretches[process] = range(end, mine.stop)
        return self._files[mine.start : end]

    def _take_over(self, process: int) -> None:
        owner = max(range(len(self)), key=lambda number: self._bytes(self._stretches[number]))
        theirs = self._stretches[owner]
        if theirs:
            half = self._before[theirs.start] + self._bytes(theirs) // 2
            cut = bisect(self._before, half, theirs.start, theirs.stop) - 1
            self._stretches[owner], self._stretches[process] = range(theirs.start, cut), range(cut, theirs.stop)

    def _bytes(self, stretch: range) -> int:
        return self._before[stretch.stop] - self._before[stretch.start]


def _size(file: SourceFile) -> int:
    try:
        return _LEAST + file.path.stat().st_size
    except OSError:
        return _LEAST


def _in_processes(task: Task, left: _Left, shares: Shares) -> Iterator[FileReport]:
    """Checks the files that are ``left``, and takes out those that it yields. Raises _ProcessDied if a process dies."""
    with _started(task, len(shares)) as helpers:
        at_work = [helper for helper in helpers if helper.gets(shares)]
        while at_work:
            ready = wait([helper.connection for helper in at_work])
            for helper in [helper for helper in at_work if helper.connection in ready]:
                reports = helper.reports()
                if not helper.gets(shares):
                    at_work.remove(helper)
                for report in reports:
                    del left[report.file]
                    yield report


class _ProcessDied(Exception):
    """One of the other processes has ended before its time."""


@dataclass(frozen=True)
class _Failure:
    """What a process could not cope with."""

    error: Exception
    trace: str


class _Helper:
    """Another process, seen from this one. Between them goes one message at a time."""

    def __init__(self, context: ForkContext | SpawnContext, task: Task, number: int) -> None:
        self.number = number
        self.connection, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(task, end, self.connection), daemon=True)
        self.process.start()
        end.close()  # or nobody would notice here that the other process is gone

    def gets(self, shares: Shares) -> bool:
        """Has it check the next files, if there are any."""
        files = shares.take(self.number)
        if files:
            with _death_noticed():
                self.connection.send(files)
        return bool(files)

    def reports(self) -> list[FileReport]:
        """Those of the files that it got."""
        with _death_noticed():
            answer: list[FileReport] | _Failure = self.connection.recv()
        if isinstance(answer, _Failure):
            raise answer.error from RuntimeError(answer.trace)
        return answer


@contextmanager
def _death_noticed() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise _ProcessDied from error


def _context(task: Task) -> ForkContext | SpawnContext:
    """How processes are started: with all that is loaded here, or by loading it anew.

    The former would inherit locks in whatever state other threads have left them, and on systems other than Linux
    nobody sees all threads.
    """
    if _THREADS.exists() and len(list(_THREADS.iterdir())) == 1:
        task.rules()  # loads them, once for all
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context("spawn")


@contextmanager
def _started(task: Task, number: int) -> Iterator[list[_Helper]]:
    """Helpers that end, wherever they are, when they are no longer needed."""
    helpers: list[_Helper] = []
    try:
        context = _context(task)
        with interrupts_deferred():
            helpers.extend(_Helper(context, task, each) for each in range(number))
        yield helpers
    finally:
        # They write nothing, so nothing is lost, and nobody has to wait for the file that they are at.
        for helper in helpers:
            helper.process.terminate()
        for helper in helpers:
            helper.process.join()


# ---------------------------------------------------------------------------------------------------- in the process


def _serve(task: Task, connection: Connection, parents_end: Connection) -> None:
    """Checks the files that are sent until nobody is there any more. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parents_end.close()  # or nobody would notice here that the parent is gone
    gc.disable()
    if task.is_profiled:
        stages.start()
    with stages.stage("start"):
        worker = Worker(task)
    with suppress(EOFError, OSError):
        while True:
            connection.send(_answer(worker, connection.recv()))


def _answer(worker: Worker, files: Iterable[SourceFile]) -> list[FileReport] | _Failure:
    try:
        return [worker(file) for file in files]
    except Exception as error:  # noqa: BLE001 - it is raised again where it can be reported
        return _Failure(error, traceback.format_exc())
