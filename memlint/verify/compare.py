"""The script as it is against the script with fixes: same seed, same number of steps, nothing but the recorder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from memlint.verify.fixed import FixedFile
from memlint.verify.launch import Outcome, Program, run_program
from memlint.verify.memory import RunMemory, run_memory
from memlint.verify.observations import Observations
from memlint.verify.plan import WARM_UP, Budget
from memlint.verify.report import Comparison, failure_of

_SEED = 0
_TOLERANCE_ON_HOST = 0.0
"""A run on a CPU is repeatable bit for bit."""
_TOLERANCE_ON_DEVICE = 1e-6
"""Kernels of a GPU may add up in another order; float32 has 24 bits."""


def compare(program: Program, files: Sequence[FixedFile], budget: Budget, seen: Observations) -> Comparison:
    """Runs ``program`` twice, as far as the run that was ``seen``. The user's files are not touched."""
    budget = replace(budget, until=(seen.steps, seen.forwards))
    with tempfile.TemporaryDirectory(prefix="memlint-fixed-") as folder:
        sources = {}
        for number, file in enumerate(files):
            copy = Path(folder) / f"{number}-{file.path.name}"
            copy.write_bytes(file.after)
            sources[str(file.path)] = str(copy)
        before = run_program(program, (), budget, seed=_SEED, silent=True)
        after = run_program(program, (), budget, seed=_SEED, silent=True, sources=sources)
    return _compared(program, before, after, sum(len(file.fixed) for file in files))


def _compared(program: Program, before: Outcome, after: Outcome, fixes: int) -> Comparison:
    failure = failure_of(program.target, before.seen) or failure_of(f"the fixed {program.target}", after.seen) or ""
    old, new = (run_memory(each.recording, each.seen) or RunMemory("cpu", 0, 0) for each in (before, after))
    pairs = [
        (float.fromhex(one), float.fromhex(other))
        for one, other in zip(before.seen.losses, after.seen.losses, strict=False)
    ]
    equal = sum(one.hex() == other.hex() for one, other in pairs)
    largest = max((_difference(one, other) for one, other in pairs), default=0.0)
    if len(before.seen.losses) != len(after.seen.losses):
        largest = float("inf")
    return Comparison(
        before=old,
        after=new,
        fixes=fixes,
        losses=(len(pairs), equal),
        largest_difference=largest,
        tolerance=_TOLERANCE_ON_HOST if old.device == "cpu" else _TOLERANCE_ON_DEVICE,
        seconds=(_seconds(before.seen), _seconds(after.seen)),
        failure=failure,
    )


def _difference(one: float, other: float) -> float:
    if one.hex() == other.hex():
        return 0.0
    size = max(abs(one), abs(other))
    return abs(one - other) / size if math.isfinite(size) and size else float("inf")


def _seconds(seen: Observations) -> float:
    measured = seen.step_seconds[WARM_UP:]
    return median(measured) if measured else 0.0
