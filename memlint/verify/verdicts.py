"""What verify says of a finding."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from memlint.diagnostics import Diagnostic

SMALLEST_GROWTH = 512
"""Bytes for each execution. The CUDA allocator's smallest block: whoever keeps a scalar keeps as much."""


class Verdict(str, Enum):
    """Whether memory did what the finding says."""

    CONFIRMED = "CONFIRMED"
    REFUTED = "REFUTED"
    NOT_EXERCISED = "NOT EXERCISED"
    """The line did not run."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """It ran, and what was seen does not decide; the evidence says why."""


@dataclass(frozen=True)
class Ruling:
    """A verdict and what it rests on. Sizes are bytes; None where there is nothing to measure."""

    verdict: Verdict
    evidence: str
    """One or two sentences."""
    memory: str | None = None
    """Whose memory: ``device`` or ``host``."""
    bytes_per_step: int | None = None
    """How much is added by each step, or by each run of the line where steps say nothing (:attr:`per`)."""
    bytes_at_peak: int | None = None
    """How much was alive at the same time, at most, because of the line."""
    bytes_at_step_end: int | None = None
    """How much of it outlives the optimizer step."""
    per: str = "step"
    where: str | None = None
    """The line that allocated most of it, as ``file:row``."""


@dataclass(frozen=True)
class Judged:
    """A finding and its verdict."""

    diagnostic: Diagnostic
    ruling: Ruling

    @property
    def is_confirmed(self) -> bool:
        """Whether the hazard is real."""
        return self.ruling.verdict is Verdict.CONFIRMED


def confirmed(evidence: str, memory: str, **sizes: int | str | None) -> Ruling:
    """The ruling that a finding is true."""
    return Ruling(Verdict.CONFIRMED, evidence, memory, **sizes)  # type: ignore[arg-type]


def refuted(evidence: str) -> Ruling:
    """The ruling that it is not."""
    return Ruling(Verdict.REFUTED, evidence)


def inconclusive(reason: str) -> Ruling:
    """The ruling that this run does not tell."""
    return Ruling(Verdict.INCONCLUSIVE, reason)
