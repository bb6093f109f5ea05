"""Everything that the reports of ``memlint verify`` print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memlint.check.results import FileResult
from memlint.files import FileError
from memlint.rule import Rule
from memlint.trace.events import Recording
from memlint.verify.culprits import Culprit
from memlint.verify.decide import NODE_BYTES
from memlint.verify.memory import RunMemory
from memlint.verify.observations import LineSeen, Observations, Sample
from memlint.verify.verdicts import Judged, Verdict


@dataclass(frozen=True)
class Comparison:
    """The script as it is against the script with fixes."""

    before: RunMemory
    after: RunMemory
    fixes: int
    """How many findings were fixed in the copy."""
    losses: tuple[int, int]
    """How many losses both runs have, and how many of them agree bit for bit."""
    largest_difference: float
    """Of the losses, relative to the larger one of each pair."""
    tolerance: float
    """Up to which difference the losses count as the same."""
    seconds: tuple[float, float]
    """Seconds a step, in the median."""
    host_growth: int = 0
    """Bytes per step of the host's memory, for graphs, that the fixed findings were confirmed to hold. Recordings of
    tensors do not show it, neither before nor after."""
    failure: str = ""
    """Why the fixed script could not be compared."""
    culprits: tuple[Culprit, ...] = ()
    """The fixes without which the losses agree; empty where they do, and where it could not be found out."""

    @property
    def same_losses(self) -> bool:
        """Whether the fixes leave the training as it is."""
        return self.losses[0] > 0 and self.largest_difference <= self.tolerance

    @property
    def only_corrects(self) -> bool:
        """Whether the losses differ for no other reason than that the training was wrong before."""
        return bool(self.culprits) and all(each.correction for each in self.culprits)

    @property
    def saved(self) -> int:
        """Bytes that the peak is lower."""
        return self.before.peak_allocated - self.after.peak_allocated

    @property
    def pays(self) -> bool:
        """Whether the fixes lower the peak or the growth, or leave fewer bytes behind."""
        growth = self.before.growth_per_step > self.after.growth_per_step
        ends = zip(self.before.step_ends[-1:], self.after.step_ends[-1:], strict=False)
        lower = self.saved > 0 or growth or any(before > after for before, after in ends)
        return lower or self.host_growth > 0


@dataclass(frozen=True)
class VerifyReport:
    """One verification."""

    program: str
    """What ran: a script or a module."""
    root: Path
    judged: Sequence[Judged]
    seen: Observations
    memory: RunMemory | None
    results: Sequence[FileResult] = ()
    """The checked files, for their texts."""
    rules: Sequence[Rule] = ()
    errors: Sequence[FileError] = ()
    comparison: Comparison | None = None
    trace: str | None = None
    """The recorded trace that decided, if no run did."""
    ranks: Sequence[tuple[int, RunMemory]] = field(default_factory=tuple)
    """With several processes, the figures of each."""

    recording: Recording | None = None
    """What the page draws."""
    node_bytes: int = NODE_BYTES

    def samples(self, judged: Judged) -> list[Sample]:
        """What was seen of the value that a finding is about."""
        return self._line(judged).samples

    def steps_of(self, judged: Judged) -> list[int]:
        """The steps in which the line of a finding ran."""
        return self._line(judged).steps

    def _line(self, judged: Judged) -> LineSeen:
        number = next((number for number, each in enumerate(self.judged) if each is judged), -1)
        return self.seen.lines.get(number, LineSeen())

    @property
    def counts(self) -> Counter[Verdict]:
        """How many findings got which verdict."""
        return Counter(each.ruling.verdict for each in self.judged)

    @property
    def sorted_findings(self) -> list[Judged]:
        """The findings by verdict, then by size, then by place."""
        order = list(Verdict)
        return sorted(
            self.judged,
            key=lambda each: (
                order.index(each.ruling.verdict),
                each.ruling.memory or "",
                -max(each.ruling.bytes_per_step or 0, each.ruling.bytes_at_peak or 0),
                each.diagnostic.sort_key,
            ),
        )

    @property
    def failure(self) -> str | None:
        """Why the run cannot be relied on, in one line; None if it can."""
        return None if self.trace else failure_of(self.program, self.seen)


def failure_of(program: str, seen: Observations) -> str | None:
    """Why a run cannot be relied on, in one line; None if it can."""
    place = f" ({seen.error_place})" if seen.error_place else ""
    after = f" after {seen.extent}"
    match seen.ending.value:
        case "died":
            # What had been seen is lost with it.
            return f"{program} failed: {seen.error}"
        case "raised" | "exited":
            return f"{program} failed{after}: {seen.error}{place}"
        case "out of memory":
            return f"{program} ran out of memory{after}: {seen.error}{place}"
        case "timed out":
            return f"{program} was stopped when its time was up{after}{place}; --timeout gives it more"
    if not seen.has_torch:
        return f"{program} did not import torch, so that there was nothing to record"
    if not seen.steps and not seen.forwards:
        return f"{program} reached no optimizer step and no forward pass of a module"
    return None
