"""The script as it is against the script with fixes: same seed, same number of steps, nothing but the recorder."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Protocol

from memlint.diagnostics import Diagnostic
from memlint.verify.culprits import Culprit, find_culprits
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


class Versions(Protocol):
    """Makes the files of the fixed program."""

    def __call__(self, *, without: Sequence[Diagnostic] = ()) -> Sequence[FixedFile]:
        """The files that fixes change, the fixes of ``without`` left out."""


def compare(
    program: Program,
    root: Path,
    versions: Versions,
    budget: Budget,
    seen: Observations,
    *,
    judged: Sequence[Judged] = (),
    corrections: Mapping[str, str] = MappingProxyType({}),
    say: Callable[[str], None] = lambda _: None,
) -> Comparison | None:
    """Runs ``program`` as it is and with fixes, as far as the run that was ``seen``, in copies of the project.

    The user's files are not touched, and what one run writes into its copy the others do not find. Where the losses
    differ, further runs find out which fix is the cause; ``corrections`` says for the codes whose fixes correct the
    training what they correct. None where nothing has a fix.
    """
    files = [file for file in versions() if file.fixed]
    if not files:
        say("No finding has a fix that could be compared.")
        return None
    say("Running it twice more: as it is, and with the fixes in a copy.")
    with tempfile.TemporaryDirectory(prefix="memlint-copy-") as folder:
        trial = _Trial(program, root, replace(budget, until=(seen.steps, seen.forwards)), Path(folder))
        compared = trial.compared(files)
        if trial.before.seen.losses and not (compared.failure or compared.same_losses):
            say("The losses differ: running it with some of the fixes to find out which one does that.")
            compared = replace(compared, culprits=trial.culprits(files, versions, corrections))
    return replace(compared, host_growth=_host_growth(files, judged))


class _Trial:
    """The program as it is, which has run once, and as it is with some fixes, which runs each time."""

    def __init__(self, program: Program, root: Path, budget: Budget, folder: Path) -> None:
        self._program = program
        self._root = root
        self._budget = budget
        self._folder = folder
        self._copies = 0

    @cached_property
    def before(self) -> Outcome:
        """What the program did as it is."""
        return self._outcome({})

    def compared(self, files: Sequence[FixedFile]) -> Comparison:
        """The program with ``files`` against the program as it is."""
        before = self.before
        after = self._outcome({file.path: file.after for file in files})
        return _compared(self._program, before, after, sum(len(file.fixed) for file in files))

    def culprits(
        self, files: Sequence[FixedFile], versions: Versions, corrections: Mapping[str, str]
    ) -> tuple[Culprit, ...]:
        """The fixes that change the losses."""
        fixed = [each for file in files for each in file.fixed]
        correcting = [each for each in fixed if each.code in corrections]

        def agrees(without: Sequence[Diagnostic]) -> bool:
            compared = self.compared(versions(without=without))
            return compared.same_losses and not compared.failure

        found = find_culprits(fixed, correcting, agrees)
        return tuple(Culprit(each, corrections.get(each.code, "")) for each in found)

    def _outcome(self, contents: Mapping[Path, bytes]) -> Outcome:
        self._copies += 1
        copy = _Copy(self._folder / str(self._copies), self._root, contents)
        return copy.run(self._program, self._budget)


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
