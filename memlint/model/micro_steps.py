"""Gradient accumulation in a loop of one's own: a backward in each micro-step, an update once in several."""

from __future__ import annotations

from typing import NamedTuple

from memlint.model.aliases import sources
from memlint.model.calls import callees
from memlint.model.effects import Effect, direct_effects, effects
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import Binary, Branch, Call, Comparison, Constant, Region, Unary, Value


class MicroSteps(NamedTuple):
    """``backward`` runs in each micro-step; ``step`` updates the parameters once in several."""

    backward: Call
    step: Call


def micro_steps(function: Function) -> MicroSteps | None:
    """The accumulation of gradients in ``function``, if every update there is one of those that wait for several."""
    backwards: list[Call] = []
    found: MicroSteps | None = None
    for call in function.calls:
        effect = effects(call)
        if Effect.BACKWARD in effect:
            backwards.append(call)
        elif Effect.STEP in effect and backwards:
            counted = next(filter(is_counted, call.region.ancestors()), None)
            if counted is None:
                return None
            free = [each for each in backwards if not each.region.within(counted)]
            found = found or (MicroSteps(free[-1], call) if free else None)
    return found


def update_in(step: Call) -> Call:
    """The call of the optimizer itself that ``step`` leads to in its file; ``step`` if that is not in sight."""
    if Effect.STEP in direct_effects(step):
        return step
    inside = (call for f in callees(step) if f.module is step.function.module for call in f.lower().calls)
    return next((call for call in inside if Effect.STEP in direct_effects(call)), step)


def is_counted(region: Region) -> bool:
    """Whether ``region`` is entered once in a number of iterations.

    ``if (step + 1) % every == 0``, or what follows ``if step % every: continue``.
    """
    if not isinstance(region, Branch) or region.test is None or not _counts(region.test):
        return False
    return _is_remainder(region.test) if region.negated and region.follows else not region.negated


def _is_remainder(test: Value) -> bool:
    """Whether ``test`` holds in all iterations but one in several: ``step % every``, ``step % every != 0``."""
    found = sources(test)
    return bool(found) and all(
        (isinstance(source, Binary) and source.operator == "%")
        or (
            isinstance(source, Comparison)
            and source.operators in {("!=",), (">",)}
            and isinstance(source.values[-1], Constant)
            and source.values[-1].constant == 0
        )
        for source in found
    )


@query(on_cycle=False)
def _counts(test: Value) -> bool:
    pending = [test]
    seen: set[int] = set()
    while pending:
        for source in sources(pending.pop()):
            if isinstance(source, Binary) and source.operator == "%":
                return True
            if isinstance(source, (Binary, Comparison, Unary)) and id(source) not in seen:
                seen.add(id(source))
                pending.extend(source.operands())
    return False
