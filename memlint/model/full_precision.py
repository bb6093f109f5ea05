"""Training in float32 whose memory is short: on several GPUs, in micro-steps, or prepared to run out of memory."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.calls import callees
from memlint.model.devices import files_involved, makes_or_asks_for
from memlint.model.effects import Effect, backward_roots, calls_in, direct_effects, effects, region_effects
from memlint.model.handlers import catches_out_of_memory, caught_in, retries
from memlint.model.identifiers import imports_any
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.loops import iterates_over_data, takes_next
from memlint.model.memo import query
from memlint.model.micro_steps import counts_steps, micro_steps, update_in
from memlint.model.scopes import Module
from memlint.model.techniques import Technique, techniques
from memlint.model.upstream import local_ancestors
from memlint.model.values import Call, Item, Loop, Part, Value

_IN_HALF = frozenset({Technique.HALF_PRECISION, Technique.LOSS_SCALING})
_FRAMEWORKS = frozenset(
    {"accelerate", "lightning", "pytorch_lightning", "lightning_fabric", "deepspeed", "apex", "composer"}
)
"""Packages that may be told elsewhere to train in half precision."""


def full_precision_on_several_devices(module: Module) -> Call | None:
    """The backward, in the first loop over data of a file that trains on several GPUs in float32.

    None if the code of the file, of one that calls it or of one that it calls in that loop has to do with half
    precision.
    """
    if "DistributedDataParallel" not in module.text or not makes_or_asks_for(module, torch.DDP):
        return None
    if has_to_do_with_half_precision(module):
        return None
    for loop in training_loops(module):
        call = next((call for call in calls_in(loop) if Effect.BACKWARD in effects(call)), None)
        if call is not None and not any(map(_casts, _files_of(loop))):
            return backward_in(call)
    return None


def full_precision_in_micro_steps(module: Module) -> Call | None:
    """The update of the parameters, in the first loop over data of a file that accumulates gradients in float32.

    None under the same conditions.
    """
    if not counts_steps(module.text) or has_to_do_with_half_precision(module):
        return None
    for loop in training_loops(module):
        found = micro_steps(loop.function)
        if found is not None and found.step.region.within(loop) and not any(map(_casts, _files_of(loop))):
            return update_in(found.step)
    return None


def full_precision_out_of_memory(module: Module) -> Call | None:
    """The backward, in the first loop over data of a file that catches running out of memory there, in float32.

    None under the same conditions.
    """
    if not catches_out_of_memory(module) or has_to_do_with_half_precision(module):
        return None
    for loop in training_loops(module):
        call = runs_out_of_memory(loop)
        if call is not None and not any(map(_casts, _files_of(loop))):
            return backward_in(call)
    return None


def runs_out_of_memory(loop: Loop) -> Call | None:
    """The backward in a loop of training for which running out of memory is caught, and not tried again in parts."""
    for caught in caught_in(loop.function):
        tried = caught.tried
        if caught.out_of_memory is None or tried is None or not caught.handler.within(loop) or any(retries(caught)):
            continue
        for call in calls_in(loop):
            if call.region.within(tried) and Effect.BACKWARD in effects(call):
                return call
    return None


@query(on_cycle=False)
def has_to_do_with_half_precision(module: Module) -> bool:
    """Whether a file runs something in half precision, has a setting for it, or leaves it to a framework."""
    return imports_any(module, _FRAMEWORKS) or not techniques(module.text).isdisjoint(_IN_HALF)


@query(on_cycle=False)
def _casts(module: Module) -> bool:
    """Whether a file may run a model in half precision; one that only saves a GradScaler does not."""
    return Technique.HALF_PRECISION in techniques(module.text)


def backward_in(call: Call) -> Call:
    """The backward itself that ``call`` leads to in its file; ``call`` if that is not in sight."""
    if Effect.BACKWARD in direct_effects(call):
        return call
    inside = (c for f in callees(call) if f.module is call.function.module for c in f.lower().calls)
    found = next((c for c in inside if Effect.BACKWARD in effects(c)), None)
    return call if found is None or found is call else backward_in(found)


def training_loops(module: Module) -> Iterator[Loop]:
    """The loops over data in a file that run a backward, on each batch or on the next one of an iterator."""
    for function in module.functions:
        for loop in function.loops:
            if Effect.BACKWARD in region_effects(loop) and (
                iterates_over_data(loop) is not None or takes_next(loop) or _differentiates_element(loop)
            ):
                yield loop


def _differentiates_element(loop: Loop) -> bool:
    """Whether a loop of training, over what nobody knows, runs a backward over what it computes of each element."""
    element = loop.element
    if element is None or role(element, Role.NUMBER) is not None or Effect.STEP not in region_effects(loop):
        return False
    roots = (root for root in backward_roots(loop.function) if root.region.within(loop))
    return any(_is_of(value, element) for root in roots for value in local_ancestors(root))


def _is_of(value: Value, element: Value) -> bool:
    """Whether ``value`` is an element of a loop or a part of it."""
    while isinstance(value, (Part, Item)):
        value = value.base
    return value is element


def _files_of(loop: Loop) -> Iterator[Module]:
    yield from files_involved(loop.function)
    for call in calls_in(loop):
        yield from (function.module for function in callees(call))
