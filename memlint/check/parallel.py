"""Checks files in several processes that share the work."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice

from memlint import stages
from memlint.check.results import FileReport
from memlint.check.worker import Process, Task, Worker, not_read
from memlint.files import ErrorKind, SourceFile

_CHUNK = 16
"""Files that a process takes at a time, at most."""


def in_processes(task: Task, files: Sequence[SourceFile], jobs: int) -> Iterator[FileReport]:
    """Checks ``files`` in ``jobs`` processes; see :func:`memlint.check.worker.check_files`."""
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
            yield not_read(left.popleft(), message, ErrorKind.INTERNAL)


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


def _start(task: Task) -> None:
    """Prepares a process. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    atexit.register(gc.freeze)  # or the end of the process would go through all trees
    if task.is_profiled:
        stages.start()
    with stages.stage("start"):
        Process.worker = Worker(task)


def _work(files: Sequence[SourceFile]) -> list[FileReport]:
    return [Process.worker(file) for file in files]
