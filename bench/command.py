"""Runs ``memlint check`` as a program and reads its JSON, so that a benchmark sees what a user sees."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TIMEOUT = 1800.0
"""Seconds after which one run counts as hung."""


class MemlintFailed(Exception):
    """The command broke its contract: it crashed, hung, or printed something that is not its JSON."""


@dataclass(frozen=True)
class Reported:
    """One finding of the JSON report; rows and columns are 1-based, ``cell`` counts a notebook's cells from 1."""

    code: str
    name: str
    message: str
    path: Path
    row: int
    column: int
    end_row: int
    severity: str
    confidence: str
    holds: str
    cell: int | None

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Reported:
        """The finding of one object of the report."""
        return cls(
            code=entry["code"],
            name=entry["name"],
            message=entry["message"],
            path=Path(entry["filename"]),
            row=entry["location"]["row"],
            column=entry["location"]["column"],
            end_row=entry["end_location"]["row"],
            severity=entry["severity"],
            confidence=entry["confidence"],
            holds=entry["holds"],
            cell=entry["cell"],
        )


@dataclass(frozen=True)
class Run:
    """What one run of the command said."""

    findings: tuple[Reported, ...]
    complaints: tuple[str, ...]
    """Lines of standard error: files that could not be checked, each with its reason."""
    seconds: float


def memlint(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs memlint with ``arguments`` in ``cwd``; a hang raises :class:`MemlintFailed`."""
    # Isolated from the folder that is checked: a select.py in it must not shadow the standard library's.
    command = [sys.executable, "-I", "-m", "memlint", *arguments]
    try:
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise MemlintFailed(f"no answer after {TIMEOUT:.0f} s in {cwd}") from error


def check(paths: Sequence[str | Path], cwd: Path, options: Sequence[str] = ()) -> Run:
    """Checks ``paths`` from nothing: no configuration but ``options``, no cache.

    Raises :class:`MemlintFailed` when the command crashes or its output is no report.
    """
    arguments = ["check", "--isolated", "--no-cache", "--output-format", "json", *options, "--", *map(str, paths)]
    start = time.perf_counter()
    done = memlint(*arguments, cwd=cwd)
    seconds = time.perf_counter() - start
    complaints = tuple(line for line in done.stderr.splitlines() if line.strip())
    last = complaints[-1] if complaints else "nothing on standard error"
    if done.returncode not in (0, 1, 2) or any(line.startswith("Traceback ") for line in complaints):
        raise MemlintFailed(f"crash in {cwd} (exit {done.returncode}): {last}")
    try:
        entries = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise MemlintFailed(f"no JSON in {cwd} (exit {done.returncode}): {last}") from None
    return Run(tuple(Reported.read(entry) for entry in entries), complaints, seconds)


def print_table(table: Table) -> None:
    """Prints a table without squeezing its columns where there is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
