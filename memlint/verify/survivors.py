"""What a stretch of code allocates and leaves behind, according to a recording that does not say who holds it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from memlint.verify.allocations import Allocations, Scope

LEAST_BOUNDARIES = 5
"""Ends of steps, or executions, between which growth shows."""


@dataclass(frozen=True)
class Survivors:
    """Sizes are bytes."""

    per: str
    """What they are counted by: ``step`` or ``execution``."""
    times: int
    """How many steps or executions there were."""
    growth: float
    """How much more is alive after each of them, in the median."""
    most: int
    """What of it was alive after one of them, at most."""
    where: str | None
    """The user's line that allocated most of what outlives a step."""


def survivors(
    allocations: Allocations, scope: Scope, unless: Sequence[Scope] = (), *, by_step: bool = True
) -> Survivors | None:
    """How what ``scope`` allocates, without what passes through ``unless`` as well, adds up from step to step.

    With ``by_step`` off, or where there are too few steps, from one execution to the next: the boundaries are then the
    allocations of the stack that allocates least often, since inner loops and layers do so more than once. None where
    nothing was allocated.
    """
    births = list(allocations.births(scope, unless))
    if not births:
        return None
    steps = _between(allocations.step_ends, min(each[0] for _, each in births), max(each[-1] for _, each in births))
    executions = min((each for _, each in births if len(each) >= LEAST_BOUNDARIES), key=len, default=())
    is_by_step = by_step and (len(steps) >= LEAST_BOUNDARIES or not executions)
    boundaries = steps if is_by_step else list(executions)
    changes, places, active = Counter[int](), Counter[str](), set[int]()
    for stack, moments in births:
        for birth in moments:
            size = allocations.event(birth).size
            first, behind = (bisect_right(boundaries, each) for each in (birth, allocations.gone(birth)))
            active.add(first)
            changes[first] += size
            changes[behind] -= size
            if behind - first > 1 and stack.user is not None:
                places[str(stack.user)] += size
    alive = _sums(changes, len(boundaries))
    # Steps of other loops lie between, in which nothing is allocated here.
    growth = [b - a for number, (a, b) in enumerate(pairwise(alive), 1) if number in active]
    return Survivors(
        "step" if is_by_step else "execution",
        len(growth) + 1,
        median(growth) if growth else 0.0,
        max(alive, default=0),
        max(places, key=lambda place: places[place], default=None),
    )


def _between(boundaries: Sequence[int], first: int, last: int) -> list[int]:
    """The boundaries behind ``first``, up to the first one behind ``last``."""
    return list(boundaries[bisect_right(boundaries, first) : bisect_right(boundaries, last) + 1])


def _sums(changes: Counter[int], count: int) -> list[int]:
    sums, current = [], 0
    for number in range(count):
        current += changes[number]
        sums.append(current)
    return sums
