"""What the script and its copy with fixes took, line by line, for reports that people read."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from memlint.report.concise import place
from memlint.verify.culprits import Culprit
from memlint.verify.memory import RunMemory
from memlint.verify.report import Comparison
from memlint.verify.sizes import counted, in_bytes


class Tone(Enum):
    """How loudly a line is said."""

    PLAIN = "plain"
    HEADING = "heading"
    GOOD = "good"
    NOTE = "note"
    ALARM = "alarm"


class Line(NamedTuple):
    """One line of the comparison."""

    text: str
    tone: Tone = Tone.PLAIN


def comparison_lines(comparison: Comparison) -> Iterator[Line]:
    """The figures of both runs, whether the losses agree and what makes them differ, and whether the fixes pay."""
    if comparison.failure:
        yield Line(f"The fixed copy could not be compared: {comparison.failure}", Tone.ALARM)
        return
    before, after = comparison.before, comparison.after
    yield Line(f"With {counted(comparison.fixes, 'fix')}, in a copy:", Tone.HEADING)
    for name, old, new in _figures(before, after):
        change = f" ({(new - old) / old:+.1%})" if old else ""
        yield Line(f"  {name:<21} {in_bytes(old):>10} -> {in_bytes(new):>10}{change}")
    seconds = comparison.seconds
    yield Line(f"  {'time per step':<21} {seconds[0] * 1e3:>7.1f} ms -> {seconds[1] * 1e3:>7.1f} ms (both recorded)")
    yield from _losses(comparison)
    if comparison.host_growth:
        growth = in_bytes(comparison.host_growth)
        yield Line(
            f"  Not in these figures of tensors: {growth} a step of graphs in host memory, which the fixes let go."
        )
    elif not comparison.pays:
        yield Line("  The fixes do not pay: neither the peak nor what stays alive is lower.", Tone.ALARM)


def _figures(before: RunMemory, after: RunMemory) -> Iterator[tuple[str, int, int]]:
    yield "peak", before.peak_allocated, after.peak_allocated
    yield "growth per step", before.growth_per_step, after.growth_per_step
    if before.step_ends and after.step_ends:
        yield "end of the last step", before.step_ends[-1], after.step_ends[-1]


def _losses(comparison: Comparison) -> Iterator[Line]:
    count, equal = comparison.losses
    if not count:
        yield Line("  losses                none could be compared", Tone.NOTE)
        return
    if count == equal and comparison.same_losses:
        yield Line(f"  losses                all {count} agree bit for bit", Tone.GOOD)
        return
    text = f"  losses                {equal} of {count} agree bit for bit"
    largest = f"; the largest difference is {comparison.largest_difference:.2g}"
    if comparison.same_losses:
        yield Line(f"{text}{largest}, within {comparison.tolerance:g}", Tone.GOOD)
    elif comparison.only_corrects:
        yield Line(f"{text}{largest}. Without these, all agree:", Tone.NOTE)
    else:
        known = ", through those that are marked" if comparison.culprits else ""
        yield Line(f"{text}{largest}: THE FIXES CHANGE THE TRAINING{known}", Tone.ALARM)
    for culprit in comparison.culprits:
        yield _culprit(culprit)


def _culprit(culprit: Culprit) -> Line:
    finding = f"    {culprit.diagnostic.code} {place(culprit.diagnostic)}"
    if culprit.correction:
        return Line(f"{finding} corrects the training: {culprit.correction}", Tone.NOTE)
    return Line(f"{finding} CHANGES THE TRAINING", Tone.ALARM)
