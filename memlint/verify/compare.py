"""The script as it is against the script with fixes: same seed, same number of steps, nothing but the recorder."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from memlint.verify.fixed import FixedFile
from memlint.verify.launch import Outcome, Program, run_program
from memlint.verify.memory import RunMemory, run_memory
from memlint.verify.mirror import Mirror
from memlint.verify.observations import Observations
from memlint.verify.plan import WARM_UP, Budget
from memlint.verify.report import Comparison, failure_of
from memlint.verify.verdicts import Judged

_SEED = 0
_TOLERANCE_ON_HOST = 0.0
"""A run on a CPU is repeatable bit for bit."""
_TOLERANCE_ON_DEVICE = 1e-6
"""Kernels of a GPU may add up in another order; float32 has 24 bits."""


def compare(
    program: Program,
    root: Path,
    files: Sequence[FixedFile],
    budget: Budget,
    seen: Observations,
    judged: Sequence[Judged] = (),
) -> Comparison:
    """Runs ``program`` twice, as far as the run that was ``seen``, each time in a copy of the project at ``root``.

    The user's files are not touched, and what one run writes into its copy the other does not find.
    """
    budget = replace(budget, until=(seen.steps, seen.forwards))
    with tempfile.TemporaryDirectory(prefix="memlint-copy-") as folder:
        before = _Copy(Path(folder, "before"), root, {file.path: file.before for file in files})
        after = _Copy(Path(folder, "after"), root, {file.path: file.after for file in files})
        first, second = before.run(program, budget), after.run(program, budget)
    compared = _compared(program, first, second, sum(len(file.fixed) for file in files))
    return replace(compared, host_growth=_host_growth(files, judged))


class _Copy:
    """The project once more, in a folder of its own."""

    def __init__(self, folder: Path, root: Path, contents: Mapping[Path, bytes]) -> None:
        self._sources: dict[str, str] = {}
        """What stands in for a module that is found at its old place after all, as by an editable installation."""
        for number, (path, data) in enumerate(contents.items()):
            source = folder / f"{number}-{path.name}"
            folder.mkdir(exist_ok=True)
            source.write_bytes(data)
            self._sources[str(path)] = str(source)
        self._mirror = self._mirrored(folder / root.name, root, contents)

    @staticmethod
    def _mirrored(place: Path, root: Path, contents: Mapping[Path, bytes]) -> Mirror | None:
        here = Path.cwd()
        try:
            # A trailing name, since the folders of a path are what the mirror has to have.
            return Mirror.make(root, Path(os.path.realpath(place.parent), place.name), contents, [here / "file"])
        except OSError:
            # No links here (Windows without developer mode): the files are replaced in the one process only.
            return None

    def run(self, program: Program, budget: Budget) -> Outcome:
        """Runs the program of the copy."""
        mirror = self._mirror
        if mirror is None:
            return run_program(program, (), budget, seed=_SEED, silent=True, sources=self._sources)
        here = Path.cwd()
        is_reached = mirror.contains(here) and not Path(program.target).is_absolute()
        if not (program.is_module or is_reached):
            program = replace(program, target=mirror.of(program.target))
        outcome = run_program(
            program,
            (),
            budget,
            seed=_SEED,
            silent=True,
            sources=self._sources,
            folder=Path(mirror.of(here)),
            variables={"PYTHONPATH": mirror.python_path()},
        )
        outcome.seen.error_place = outcome.seen.error_place.replace(str(mirror.place), str(mirror.root))
        return outcome


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


def _host_growth(files: Sequence[FixedFile], judged: Sequence[Judged]) -> int:
    fixed = {(each.path, each.code, each.location) for file in files for each in file.fixed}
    confirmed = [each for each in judged if each.is_confirmed and each.ruling.memory == "host"]
    wanted = (
        each for each in confirmed if (each.diagnostic.path, each.diagnostic.code, each.diagnostic.location) in fixed
    )
    return sum(each.ruling.bytes_per_step or 0 for each in wanted)


def _difference(one: float, other: float) -> float:
    if one.hex() == other.hex():
        return 0.0
    size = max(abs(one), abs(other))
    return abs(one - other) / size if math.isfinite(size) and size else float("inf")


def _seconds(seen: Observations) -> float:
    measured = seen.step_seconds[WARM_UP:]
    return median(measured) if measured else 0.0
