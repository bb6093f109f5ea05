"""What a command takes: processor time, time on the clock, memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMLINT = ("-m", "memlint")


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time (user and system) and of the clock, and MiB at most, of a process and its children."""

    cpu: float
    wall: float
    peak: float


class CommandFailed(Exception):
    """A command ended in a way that it must not."""


def usage(command: Sequence[str | Path], cwd: Path, allowed: Sequence[int] = (0, 1)) -> Usage:
    """Runs a command from start to exit. Raises :class:`CommandFailed` if its exit code is none of the ``allowed``."""
    start = time.perf_counter()
    with subprocess.Popen(
        [*map(str, command)], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode not in allowed:
        raise CommandFailed(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return Usage(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024)


def in_turns(programs: Mapping[str, Callable[[], Usage]], rounds: int) -> dict[str, Usage]:
    """Medians of each of the programs, which take turns, so that what else the machine does concerns all of them."""
    taken: dict[str, list[Usage]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            taken[name].append(program())
    return {name: median(each) for name, each in taken.items()}


def median(usages: Sequence[Usage]) -> Usage:
    """The medians of each quantity."""
    return Usage(
        statistics.median(each.cpu for each in usages),
        statistics.median(each.wall for each in usages),
        max(each.peak for each in usages),
    )
