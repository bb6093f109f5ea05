"""Which fixes change the training, where together they do: found by running without some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memlint.diagnostics import Diagnostic


@dataclass(frozen=True)
class Culprit:
    """A finding whose fix changes the losses."""

    diagnostic: Diagnostic
    correction: str
    """What the fix corrects in the training, as its rule says; empty where the numbers were to stay the same."""


def find_culprits(
    fixed: Sequence[Diagnostic], corrections: Sequence[Diagnostic], agrees: Callable[[Sequence[Diagnostic]], bool]
) -> tuple[Diagnostic, ...]:
    """The findings without whose fixes the losses agree: ``corrections`` alone, or with one more of ``fixed``.

    ``agrees`` runs the program with all fixes but the given ones, and says whether its losses are those of the
    original. Empty where more than one other fix changes them, which would take too many runs to find.
    """
    if corrections and agrees(corrections):
        return tuple(corrections)
    suspects = [each for each in fixed if each not in corrections]
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        suspects = half if agrees([*corrections, *half]) else suspects[len(half) :]
    found = (*corrections, *suspects)
    return found if suspects and agrees(found) else ()
