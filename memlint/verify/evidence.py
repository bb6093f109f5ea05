"""What the decision about one finding rests on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from memlint.diagnostics import Diagnostic
from memlint.findings import ClaimShape
from memlint.verify.allocations import Allocations, LineAllocations
from memlint.verify.observations import LineSeen, Observations
from memlint.verify.plan import WatchedLine
from memlint.verify.sizes import counted
from memlint.verify.verdicts import Ruling, inconclusive


@dataclass(frozen=True)
class Evidence:
    """What a run has seen of one finding."""

    diagnostic: Diagnostic
    line: WatchedLine
    seen: LineSeen
    run: Observations
    allocations: Allocations | None

    @property
    def shape(self) -> ClaimShape:
        """What memory does if the finding is true."""
        return ClaimShape(self.diagnostic.claim.shape) if self.diagnostic.claim else ClaimShape.PRESENT

    @property
    def line_allocations(self) -> LineAllocations | None:
        """What the line allocated, itself or through what it called."""
        return None if self.allocations is None else self.allocations.of(self.line)

    @property
    def where(self) -> str | None:
        """The line that allocated most of what was found."""
        return max(self.seen.where, key=lambda place: self.seen.where[place], default=None)

    @property
    def ran(self) -> str:
        """How often the line ran, in words."""
        return f"the line ran {counted(self.seen.executions, 'time')}"


def rests_on_recording(decide: Callable[[Evidence], Ruling]) -> Callable[[Evidence], Ruling]:
    """What is counted in a recording that lacks events decides nothing."""

    @functools.wraps(decide)
    def ruling(evidence: Evidence) -> Ruling:
        if evidence.run.missing:
            lost = "; ".join(evidence.run.missing)
            return inconclusive(f"events are missing from the recording ({lost}); ask for fewer --steps or --batches")
        return decide(evidence)

    return ruling
