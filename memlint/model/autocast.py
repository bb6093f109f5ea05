"""Where autocast is in force, and for how long the copies of weights live that it makes."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Confidence
from memlint.model.aliases import instance_class, qualified_names, sources
from memlint.model.calls import callees, proven_call_sites
from memlint.model.definitions import definitions
from memlint.model.dtypes import half_weights
from memlint.model.effects import Effect, calls_in, effects, optimizers_stepped, region_effects
from memlint.model.forwards import called_module, forwards
from memlint.model.identity import everywhere, objects
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.optimized import coverage, overlap
from memlint.model.scopes import Function
from memlint.model.settings import Values, option
from memlint.model.training import inside
from memlint.model.values import Attribute, Call, ClassValue, External, FunctionValue, Region, Value, With

_MAX_CALLS = 3
"""Functions that are looked through one after the other."""


def autocast_of(context: Value) -> Call | None:
    """The call of autocast that ``context`` is, by way of a name, a choice or a function of the project as well.

    None for one that is switched off by a constant.
    """
    for source in definitions(context):
        if isinstance(source, Call) and is_autocast(source) and _enabled(source).is_on(default=True) is not False:
            return source
    return None


def _enabled(call: Call) -> Values:
    """What is said of ``enabled``, the first parameter of the older classes, which are for one kind of device."""
    names = qualified_names(call.callee)
    old = any(".cuda." in name or ".cpu." in name for name in names)
    return option(call, "enabled", 0 if old else 2)


def is_autocast(call: Call) -> bool:
    """Whether ``call`` makes a context of autocast: torch's own, or that of Accelerate or Fabric."""
    if qualified_names(call.callee) & torch.AUTOCAST:
        return True
    return call.method == "autocast" and call.receiver is not None and bool(role(call.receiver, Role.ACCELERATOR))


def autocast_regions(function: Function) -> Iterator[tuple[Region, Call]]:
    """The stretches of ``function`` under autocast, each with the call: bodies of ``with``, or the whole function."""
    for decorator in function.decorators:
        call = autocast_of(decorator)
        if call is not None:
            yield function.body, call
    seen: set[int] = set()
    for call in function.calls:
        for region in call.region.ancestors():
            if id(region) in seen:
                break
            seen.add(id(region))
            for context in region.contexts if isinstance(region, With) else ():
                made = autocast_of(context)
                if made is not None:
                    yield region, made


@query(on_cycle=None)
def autocast_at(region: Region) -> Call | None:
    """The autocast under which code in ``region`` runs, callers of its function included; None if none is in sight."""
    function = region.function
    for inner, call in autocast_regions(function):
        if region.within(inner):
            return call
    for site in proven_call_sites(function):
        if site.function is not function:
            found = autocast_at(site.region)
            if found is not None:
                return found
    return None


# ------------------------------------------------------------------------- copies that outlive a step


def step_on_cached_weights(region: Region) -> tuple[Call, Confidence] | None:
    """The step of an optimizer under the autocast of ``region`` after which a forward pass runs on old copies.

    Autocast keeps its copies of float32 weights until its outermost context is left, and does not look at the weights
    again. Possible where the weights may be of 16 bits, so that there are no copies.
    """
    if any(call.name == "clear_autocast_cache" for call in calls_in(region)):
        return None
    return _in_loop(region, _MAX_CALLS) or _between_forwards(region)


def _in_loop(region: Region, depth: int) -> tuple[Call, Confidence] | None:
    """A step in a loop that runs backward as well: the next iteration runs forward with what was cast before."""
    for loop in region.function.loops:
        if loop is not region and loop.within(region) and _trains(loop):
            step = next((call for call in calls_in(loop) if Effect.STEP in effects(call)), None)
            if step is not None:
                return step, _confidence(loop)
    for call in calls_in(region) if depth else ():
        for function in callees(call):
            inner = _in_loop(function.body, depth - 1) if function is not region.function else None
            if inner is not None:
                return call, inner[1]
    return None


def _trains(loop: Region) -> bool:
    found = region_effects(loop)
    return Effect.BACKWARD in found and Effect.STEP in found


def _confidence(region: Region) -> Confidence:
    """Possible if a model that runs in ``region`` has weights of 16 bits."""
    called = (call.callee for call in calls_in(region) if _may_be_module(call.callee))
    return Confidence.POSSIBLE if any(map(half_weights, called)) else Confidence.LIKELY


def _may_be_module(callee: Value) -> bool:
    """Whether what is called is an object, by a local name or as an attribute of ``self``, and no function."""
    if isinstance(callee, Attribute) and instance_class(callee.base) is None:
        return False
    return not any(isinstance(source, (External, FunctionValue, ClassValue)) for source in sources(callee))


def _between_forwards(region: Region) -> tuple[Call, Confidence] | None:
    """A step after which a forward pass of the model that was stepped follows under the same autocast."""
    steps = [call for call in calls_in(region) if optimizers_stepped(call)]
    later = [call for call in forwards(region.function) if call.region.within(region)] if steps else []
    for step in steps:
        stepped = coverage(objects(optimizer) for optimizer in optimizers_stepped(step)).objects
        for forward in (call for call in later if call.order > step.order):
            module = called_module(forward)
            if module is not None and overlap(stepped, frozenset(inside(everywhere(objects(module))))):
                return step, Confidence.POSSIBLE if half_weights(module) else Confidence.LIKELY
    return None
