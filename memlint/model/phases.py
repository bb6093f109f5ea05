"""What runs between an update of the parameters and the next training step: evaluation, generation."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import mro
from memlint.model.calls import callees, proven_call_sites
from memlint.model.effects import Effect, calls_in, function_effects
from memlint.model.forwards import called_module
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.identity import Objects, seen_from
from memlint.model.kinds import Role, role
from memlint.model.memo import query
from memlint.model.optimization import Update, accumulates, cleared_by, cleared_by_class, clears
from memlint.model.scopes import Function
from memlint.model.values import Call

_MAX_CALLERS = 3


def evaluation_with_gradients(update: Update) -> Call | None:
    """The first evaluation that runs while the gradients are alive that ``update`` has used; None if none does."""
    call = update.call
    if call is None or _is_cleared_after(call, update.objects):
        return None
    found = _evaluation_after(call, update.objects, _MAX_CALLERS)
    if found is not None or proven_call_sites(call.function) or cleared_by_class(call.function):
        return found
    # Nothing is known of what comes next, unless the function clears before it returns.
    cleared = any(_clears(other, update.objects) for other in call.function.calls if other.order > call.order)
    return None if cleared else _evaluation_by_class(call.function)


def _is_cleared_after(call: Call, optimizer: Objects) -> bool:
    """Whether gradients are cleared behind ``call`` in the same step, in its function or in one that calls it."""
    loop = call.region.loop
    step = call.function.body if loop is None else loop
    if any(_clears(other, optimizer) for other in calls_in(step) if other.order > call.order):
        return True
    if loop is not None:
        return False
    return any(_is_cleared_after(s, seen_from(optimizer, s, call.function)) for s in _sites(call.function))


def _sites(function: Function) -> Iterator[Call]:
    return (site for site in proven_call_sites(function) if site.function is not function)


def _evaluation_after(call: Call, optimizer: Objects, depth: int) -> Call | None:
    for stretch in _stretches_after(call):
        for other in stretch:
            if accumulates(other) or _clears(other, optimizer):
                break
            if evaluates(other):
                return other
    for site in _sites(call.function) if depth else ():
        found = _evaluation_after(site, seen_from(optimizer, site, call.function), depth - 1)
        if found is not None:
            return found
    return None


def _stretches_after(call: Call) -> Iterator[list[Call]]:
    """What follows ``call`` in its function, then what the next iteration of each loop around it runs before it."""
    yield [other for other in call.function.calls if other.order > call.order]
    for loop in call.region.loops():
        yield [other for other in calls_in(loop) if other.order < call.order]


def _clears(call: Call, optimizer: Objects) -> bool:
    return any(not found or clears(found, optimizer) for found in cleared_by(call))


def evaluates(call: Call) -> bool:
    """Whether ``call`` begins or runs an evaluation: a forward without gradients, ``model.eval()``, ``generate``."""
    if called_module(call) is not None:
        return grad_mode(call.region) is GradMode.DISABLED
    if call.method in {"eval", "generate"} and call.receiver is not None:
        return role(call.receiver, Role.MODULE, Role.ENGINE) is not None
    return any(_evaluates(function) for function in callees(call))


@query(on_cycle=False)
def _evaluates(function: Function) -> bool:
    if function_effects(function) & (Effect.BACKWARD | Effect.STEP):
        return False
    return any(evaluates(call) for call in function.calls)


def _evaluation_by_class(function: Function) -> Call | None:
    """An evaluation in another method of the class, which code out of sight may call after the training."""
    owner = function.owner
    methods = (m for cls in mro(owner) for m in cls.methods.values()) if owner is not None else ()
    found = (call for m in methods if m is not function and _evaluates(m.lower()) for call in m.calls)
    return next((call for call in found if evaluates(call)), None)
