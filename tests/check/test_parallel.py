from __future__ import annotations

import io
import multiprocessing
import os
import random
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import libcst
import pytest

from memlint.check.results import Action, FileReport
from memlint.check.session import default_jobs
from memlint.check.worker import Task, UnstableFile, Worker, check_files, read
from memlint.commands.configuration import known_rules
from memlint.config import ConfigError, Configuration, Options
from memlint.files import ErrorKind, SourceFile
from memlint.findings import Finding
from memlint.rule import Rule
from tests.check.tiny import CODES, RULES, Hazard


class Death(Hazard):
    """Ends the process."""

    code = "MEM941"
    name = "death"
    gate = frozenset({"death"})

    def report(self, call: libcst.CSTNode) -> Finding:  # noqa: ARG002 - the node does not matter
        os._exit(1)


def project(root: Path, texts: Sequence[str]) -> list[SourceFile]:
    files = [SourceFile(root / f"f{number:03}.py", named=number % 2 == 0) for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.path.write_text(text)
    return files


def run(
    root: Path, files: Sequence[SourceFile], jobs: int, action: Action = Action.CHECK, rules: tuple[Rule, ...] = RULES
) -> list[FileReport]:
    configuration = Configuration(CODES | {rule.code for rule in rules}, Options(unsafe_fixes=True))
    task = Task(root, tuple(file.path for file in files), configuration, partial(known_rules, rules), action)
    return list(check_files(task, files, jobs))


TEXTS = [
    "hazard()\n",
    "",
    "x = 1\nwaste(x)\n",
    "hazard(\n",
    "risk(); hazard()  # noqa: MEM901\n",
    "crash()\n",
    "chance()  # noqa: MEM901\n",
    "\0",
    "def f():\n    return hazard()\n",
]


@pytest.mark.parametrize("jobs", [2, 5])
@pytest.mark.parametrize("action", Action)
def test_several_processes_say_what_one_says(action: Action, jobs: int, tmp_path: Path) -> None:
    texts = random.Random(0).choices(TEXTS, k=40)
    files = project(tmp_path, texts)
    alone = run(tmp_path, files, 1, action)
    assert [report.file for report in alone] == files
    assert run(tmp_path, files, jobs, action) == alone
    assert [file.path.read_text() for file in files] == texts, "nothing is written here"


def test_a_process_that_dies_costs_one_file(tmp_path: Path) -> None:
    files = project(tmp_path, ["hazard()\n", "death()\n", "hazard()\n", "hazard()\n"])
    reports = run(tmp_path, files, 2, rules=(*RULES, Death()))
    assert [report.file for report in reports] == files
    assert [len(report.result.diagnostics) for report in reports] == [1, 0, 1, 1]
    (error,) = (report.result.error for report in reports if report.result.error)
    assert error.kind is ErrorKind.INTERNAL
    assert str(error) == f"{files[1].path}: the process that checked it died, perhaps for lack of memory"


@pytest.mark.parametrize("jobs", [2, 3, 64])
@pytest.mark.parametrize("sizes", [[1, 1], [0, 0, 0], [200_000, 1, 1, 1], [1, 1, 1, 200_000], [70_000] * 7])
def test_reports_come_in_the_order_of_the_files(sizes: list[int], jobs: int, tmp_path: Path) -> None:
    files = project(tmp_path, ["#" * size for size in sizes])
    assert [report.file for report in run(tmp_path, files, jobs)] == files


def test_processes_that_die_in_the_midst_of_others_cost_their_files(tmp_path: Path) -> None:
    texts = ["hazard()\n" + "#" * 30_000] * 12
    texts[4] = texts[9] = "death()\n"
    files = project(tmp_path, texts)
    reports = run(tmp_path, files, 2, rules=(*RULES, Death()))
    assert [report.file for report in reports] == files
    assert [number for number, report in enumerate(reports) if report.result.error] == [4, 9]
    assert all(report.result.diagnostics for report in reports if not report.result.error)


def started(reports: Iterator[FileReport]) -> list[BaseProcess]:
    """The processes that work for ``reports``, whose first one is taken."""
    before = multiprocessing.active_children()
    next(reports)
    return [process for process in multiprocessing.active_children() if process not in before]


def tiny_task(root: Path) -> Task:
    return Task(root, (), Configuration(CODES), partial(known_rules, RULES))


def test_a_caller_may_stop_early(tmp_path: Path) -> None:
    files = project(tmp_path, ["hazard()\n"] * 20)
    reports = check_files(tiny_task(tmp_path), files, 2)
    processes = started(reports)
    assert len(processes) == 2
    reports.close()
    assert not any(process.is_alive() for process in processes)


def test_the_last_report_is_the_end_of_the_processes(tmp_path: Path) -> None:
    reports = check_files(tiny_task(tmp_path), project(tmp_path, ["hazard()\n"] * 3), 64)
    processes = started(reports)
    assert len(processes) == 3
    assert len(list(reports)) == 2
    assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize("jobs", [1, 64])
def test_one_file_is_checked_in_this_process(jobs: int, tmp_path: Path) -> None:
    assert started(check_files(tiny_task(tmp_path), project(tmp_path, [""]), jobs)) == []


def test_beside_other_threads_processes_begin_anew(tmp_path: Path) -> None:
    """A lock that a thread holds while the process is forked would never be released in the new one."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        reports = check_files(tiny_task(tmp_path), project(tmp_path, ["hazard()\n"] * 2), 2)
        assert {type(process) for process in started(reports)} == {SpawnProcess}
        assert [len(report.result.diagnostics) for report in reports] == [1]
    finally:
        ended.set()
        thread.join()


def test_what_a_process_cannot_cope_with_is_raised_here(tmp_path: Path) -> None:
    files = project(tmp_path, ["hazard()\n"] * 3)
    (tmp_path / "memlint.toml").write_text("nonsense = 1\n")
    with pytest.raises(ConfigError, match="nonsense") as caught:
        run(tmp_path, files, 2)
    assert "in _answer" in str(caught.value.__cause__), "the place is told, too"


def test_few_files_are_not_worth_a_second_process() -> None:
    assert default_jobs(0) == default_jobs(1) == default_jobs(100) == 1
    assert 1 <= default_jobs(10**6) <= (os.cpu_count() or 1)


def test_a_file_that_is_gone_or_no_file_is_an_error(tmp_path: Path) -> None:
    (gone,) = run(tmp_path, [SourceFile(tmp_path / "gone.py", named=False)], 1)
    assert gone.result.error is not None
    assert gone.result.error.kind is ErrorKind.FILE
    assert str(gone.result.error) == f"{tmp_path}/gone.py: cannot be read: No such file or directory"
    (directory,) = run(tmp_path, [SourceFile(tmp_path, named=False)], 1)
    assert directory.result.error is not None
    assert directory.result.error.message == "cannot be read: Is a directory"


class ChangingPath:
    """A file that somebody adds to while it is read, for a while."""

    def __init__(self, path: Path, changes: int) -> None:
        self.path = path
        self.changes = changes

    def open(self, mode: str) -> io.FileIO:
        outer = self

        class File(io.FileIO):
            def read(self, size: int | None = -1, /) -> bytes:
                data = super().read(size)
                if outer.changes:
                    outer.changes -= 1
                    with outer.path.open("ab") as writer:
                        writer.write(b"#")
                return data

        return File(self.path, mode)


def test_what_is_read_is_of_one_moment(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("")
    assert read(cast("Path", ChangingPath(path, changes=2))) == b"##"
    with pytest.raises(UnstableFile):
        read(cast("Path", ChangingPath(path, changes=100)))


def test_what_is_fixed_is_seen_by_no_other_file(tmp_path: Path) -> None:
    """The second file is checked against the first as it is on the disk, fixed or not."""
    files = project(tmp_path, ["hazard()\n", "hazard()\n"])
    worker = Worker(Task(tmp_path, (), Configuration(CODES), partial(known_rules, RULES), Action.FIX))
    first, second = map(worker, files)
    assert first.after == second.after == b"harmless()\n"
    assert [diagnostic.code for diagnostic in first.fixed] == ["MEM901"]
    assert files[0].path.read_text() == "hazard()\n"
