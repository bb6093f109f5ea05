"""What processes that share the files of a tree do twice, counted: texts parsed and questions answered.

    python bench/done_twice.py --package trl==1.16.0

Prints what one process does for all files, and what several do for theirs: each for a stretch of the tree, as
``memlint check --jobs`` divides it, or for chunks in turn. Counts do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from wheels import PACKAGES, default_cache, unpacked

from memlint.check.parallel import Shares
from memlint.check.worker import Task, Worker
from memlint.config import Configuration
from memlint.files import SourceFile, discover
from memlint.model.memo import Memo
from memlint.model.project import Project
from memlint.model.scopes import Module
from memlint.registry import all_rules

_CHUNK = 16


@dataclass
class Work:
    """What a process has done."""

    parsed: int = 0
    """Characters of the modules that were parsed."""
    questions: int = 0
    """Questions that were worked out."""


def work(task: Task, files: Sequence[SourceFile]) -> Work:
    """What is done for ``files``; to be called in a process of its own."""
    done = Work()
    ask, parse = Memo._ask, Project._parsed

    def asked(memo: Memo, key: Any, question: Any) -> Any:
        done.questions += 1
        return ask(memo, key, question)

    def parsed(project: Project, path: Path, text: str) -> Module:
        done.parsed += len(text)
        return parse(project, path, text)

    with patch.object(Memo, "_ask", asked), patch.object(Project, "_parsed", parsed):
        worker = Worker(task)
        for file in files:
            worker(file)
    return done


def stretches(files: Sequence[SourceFile], processes: int) -> list[list[SourceFile]]:
    """The files of each process if all are equally fast."""
    shares = Shares(files, processes)
    parts: list[list[SourceFile]] = [[] for _ in range(processes)]
    sizes = [0] * processes
    while batch := shares.take(fastest := min(range(processes), key=sizes.__getitem__)):
        parts[fastest].extend(batch)
        sizes[fastest] += sum(file.path.stat().st_size for file in batch)
    return parts


def chunks(files: Sequence[SourceFile], processes: int) -> list[list[SourceFile]]:
    """The files of each process if chunks are dealt out in turn."""
    return [
        [file for at, file in enumerate(files) if at // _CHUNK % processes == process] for process in range(processes)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What processes that share a tree do twice.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where wheels are kept (%(default)s)")
    parser.add_argument("--package", default=PACKAGES[0], metavar="NAME==VERSION", help="(%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="(%(default)s)")
    options = parser.parse_args(arguments)
    os.chdir(unpacked(options.package, options.cache).root)
    configuration = Configuration(frozenset(rule.code for rule in all_rules()))
    files = discover([Path()], configuration).files
    task = Task(Path.cwd(), tuple(file.path for file in files), configuration, all_rules)
    ways = {
        "one process": [files],
        "stretches": stretches(files, options.processes),
        f"chunks of {_CHUNK} in turn": chunks(files, options.processes),
    }
    print("| files | of them | characters parsed | questions | times as many |\n|---|---|---|---|---|")
    alone = 0
    for name, parts in ways.items():
        with multiprocessing.get_context("spawn").Pool(len(parts), maxtasksperchild=1) as pool:
            done = pool.starmap(work, [(task, part) for part in parts], chunksize=1)
        questions = sum(each.questions for each in done)
        alone = alone or questions
        counts = ", ".join(str(len(part)) for part in parts)
        parsed = sum(each.parsed for each in done)
        print(f"| {name} | {counts} | {parsed:,} | {questions:,} | {questions / alone:.2f} |", flush=True)


if __name__ == "__main__":
    main()
