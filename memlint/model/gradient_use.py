"""What becomes of the gradients that a backward fills: which optimizers step next, and which gradients are cleared."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from memlint.model.calls import call_sites
from memlint.model.identity import Objects, everywhere
from memlint.model.memo import query
from memlint.model.optimization import (
    accumulates,
    cleared_by,
    directly_cleared,
    functions_run_by,
    stepped_by,
)
from memlint.model.optimized import coverage, overlap
from memlint.model.values import Call

_MAX_CALLERS = 3


class NextUse(Enum):
    """What happens next to gradients."""

    STEPPED = 1
    """An optimizer uses them, or may."""
    CLEARED = 2
    UNKNOWN = 3


def following(call: Call, depth: int = _MAX_CALLERS) -> Iterator[Call]:
    """The calls that run after ``call``: in this iteration, in the next one, then in outer loops and callers.

    A function that nothing in sight calls is run again and again, as a framework does with a step. What is not taken
    at the same time, such as the other branch of an ``if``, is among them.
    """
    function = call.function
    sites = [site for site in call_sites(function) if site.function is not function]
    seen = {id(call)}
    for loop in (*call.region.loops(), None):
        repeats = loop is not None or (not sites and function.parent is not None)
        around = [other for other in function.calls if loop is None or other.region.within(loop)]
        again = [other for other in around if other.order < call.order] if repeats else []
        for other in (*(other for other in around if other.order > call.order), *again):
            if id(other) not in seen:
                seen.add(id(other))
                yield other
    for site in sites if depth else ():
        yield from following(site, depth - 1)


def optimizers_after(backward: Call) -> tuple[Objects, ...]:
    """The optimizers that step on the gradients of ``backward``: the first ones, up to the next backward after them."""
    found: list[Objects] = []
    for call in following(backward):
        if found and accumulates(call):
            break
        found.extend(stepped_by(call))
    return tuple(found)


def next_use(backward: Call, module: Objects) -> NextUse:
    """What happens first to the gradients of ``module`` after ``backward``."""
    for call in following(backward):
        used = _use_by(call, module)
        if used is not NextUse.UNKNOWN:
            return used
    return NextUse.UNKNOWN


@query(on_cycle=NextUse.UNKNOWN)
def _use_by(call: Call, module: Objects) -> NextUse:
    direct = directly_cleared(call)
    if direct is not None:
        return NextUse.CLEARED if not direct or _concerns(direct, module) else NextUse.UNKNOWN
    functions = functions_run_by(call)
    if not functions:
        return NextUse.STEPPED if any(_may_step(each, module) for each in stepped_by(call)) else NextUse.UNKNOWN
    # Seen from the caller, what is cleared or stepped has no order; what does one of both decides.
    steps = any(_may_step(each, module) for each in stepped_by(call))
    clears = any(not target or _concerns(target, module) for target in cleared_by(call))
    if steps and clears:
        return NextUse.CLEARED if _clears_first(call) else NextUse.STEPPED
    return NextUse.STEPPED if steps else NextUse.CLEARED if clears else NextUse.UNKNOWN


def _clears_first(call: Call) -> bool:
    """Whether the function that ``call`` runs clears gradients before it steps anything."""
    for function in functions_run_by(call):
        for inner in function.calls:
            if directly_cleared(inner) is not None or any(True for _ in cleared_by(inner)):
                return True
            if any(True for _ in stepped_by(inner)):
                return False
    return False


def _may_step(optimizer: Objects, module: Objects) -> bool:
    covered = coverage([optimizer])
    return not covered.complete or overlap(covered.objects, module)


def _concerns(target: Objects, module: Objects) -> bool:
    """Whether clearing ``target``, an optimizer or a module, clears gradients of ``module``."""
    target = everywhere(target)
    return overlap(target, module) or overlap(coverage([target]).objects, module)
