"""Modules that require gradients, get them, and are trained by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.findings import Confidence
from memlint.model.adversarial import forwards_behind, known_as, names_inputs
from memlint.model.aliases import mro
from memlint.model.attachment import Attachment, attachment
from memlint.model.calls import callees
from memlint.model.effects import returns_loss_to_framework, started_roots
from memlint.model.forwards import called_module
from memlint.model.freezing import is_frozen
from memlint.model.grad_switches import grad_switches, is_ever_switched_off
from memlint.model.gradient_use import optimizers_after
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.identity import Objects, everywhere, holds, objects
from memlint.model.instances import is_parameterless
from memlint.model.kinds import Role, class_of, role
from memlint.model.memo import query
from memlint.model.optimization import accumulates
from memlint.model.optimized import Coverage, coverage, makes_optimizer, overlap
from memlint.model.scopes import Function, Module
from memlint.model.training import ingredients, is_meant_for_evaluation
from memlint.model.values import Call, External, Parameter, Value

_MAX_STEPS = 2
"""Calls that are followed from the function that makes an optimizer to those that use it."""


class Untrained(NamedTuple):
    """A forward pass whose module gets gradients that ``optimizer`` does not use, nor any other."""

    optimizer: Call
    forward: Call
    partly: bool
    """Whether the optimizer trains a part of the module."""
    meant_frozen: bool
    """Whether it is likely meant to stay as it is; else it was forgotten, as a loss with weights of its own may be."""
    confidence: Confidence


def untrained_modules(optimizer: Call) -> Iterator[Untrained]:
    """The forward passes in the steps of an optimizer (the call that makes it) whose modules nobody trains."""
    mine = coverage([objects(optimizer)])
    if not mine.objects or not mine.complete:
        return
    reported: set[Objects] = set()
    for root, function in _losses(optimizer):
        trained = _trained_by_all({optimizer.function.module, function.module})
        if not trained.complete:
            continue
        for forward, partly, fed in _untrained_behind(root, trained.objects):
            module = called_module(forward)
            assert module is not None
            known = known_as(module)
            if known in reported or _may_be_frozen(module, known, {optimizer.function.module, function.module}):
                continue
            reported.add(known)
            meant_frozen = partly or not fed or is_meant_for_evaluation(module)
            yield Untrained(optimizer, forward, partly, meant_frozen, _confidence(optimizer, forward, module))


def _losses(optimizer: Call) -> Iterator[tuple[Value, Function]]:
    """What the backwards start from on whose gradients the optimizer steps, with their functions."""
    known = objects(optimizer)
    if optimizer.function.name == "configure_optimizers" and optimizer.function.owner is not None:
        for method in optimizer.function.owner.methods.values():
            if returns_loss_to_framework(method.lower()):
                yield from ((leaving.value, method) for leaving in method.returns)
    for function in _users(optimizer):
        for call in function.calls:
            roots = tuple(started_roots(call)) if accumulates(call) and not names_inputs(call) else ()
            if roots and any(overlap(everywhere(each), known) for each in optimizers_after(call)):
                yield from ((root, function) for root in roots)


def _users(optimizer: Call) -> Iterator[Function]:
    """The functions of the optimizer's file, and those of other files that they call."""
    seen: set[int] = set()
    front = list(optimizer.function.module.functions)
    for _ in range(_MAX_STEPS + 1):
        following: list[Function] = []
        for function in front:
            if id(function) not in seen:
                seen.add(id(function))
                yield function
                following.extend(inner for call in function.lower().calls for inner in callees(call))
        front = following


@query(on_cycle=Coverage(frozenset(), False))
def _covered_in(module: Module) -> Coverage:
    """What the optimizers of a file cover together."""
    made = [call for function in module.functions for call in function.calls if makes_optimizer(call)]
    if "add_param_group" in module.calls_by_name:
        return Coverage(frozenset(), False)
    return coverage([objects(call) for call in made]) if made else Coverage(frozenset(), True)


def _trained_by_all(modules: set[Module]) -> Coverage:
    found = [_covered_in(module) for module in modules]
    together = frozenset().union(*(each.objects for each in found))
    every = frozenset((*together, *ingredients(together)))
    return Coverage(every, all(each.complete for each in found))


def _untrained_behind(root: Value, trained: Objects) -> Iterator[tuple[Call, bool, bool]]:
    """The forward passes behind ``root`` of modules that are not trained.

    Each with whether a part of the module is trained, and whether it gets the output of a trained one.
    """
    passes = list(_innermost(root, trained, set()))
    used = [call for call in passes if overlap(known_as(_module(call)), trained)]
    for call in passes:
        known = known_as(_module(call))
        if not _records(call) or holds(trained, known) or holds(trained, frozenset(ingredients(known))):
            continue
        partly = holds(known, trained)
        fed = _is_fed_by(call, used)
        if partly or fed or _feeds(call, used):
            yield call, partly, fed


def _module(call: Call) -> Value:
    module = called_module(call)
    assert module is not None
    return module


def _innermost(root: Value, trained: Objects, seen: set[int]) -> Iterator[Call]:
    """The forward passes behind ``root``; of a module in sight that is trained in part, those of its parts."""
    for call in forwards_behind(root):
        if id(call) in seen:
            continue
        seen.add(id(call))
        known = known_as(_module(call))
        functions = callees(call)
        if functions and not holds(trained, known) and (holds(known, trained) or _holds_parts(call, trained)):
            for function in functions:
                for leaving in function.returns:
                    yield from _innermost(leaving.value, trained, seen)
        else:
            yield call


def _holds_parts(call: Call, trained: Objects) -> bool:
    """Whether a module of the project runs parts that are trained."""
    owner = class_of(_module(call))
    return owner is not None and any(each.root == ("instance", list(mro(owner))[-1]) for each in trained)


def _records(call: Call) -> bool:
    module = _module(call)
    return (
        role(module, Role.MODULE) is not None
        and not is_parameterless(module)
        and attachment(call) > Attachment.UNKNOWN
        and grad_mode(call.region) is not GradMode.DISABLED
    )


def _is_fed_by(call: Call, trained: list[Call]) -> bool:
    """Whether ``call`` gets the output of a trained module, so that a gradient has to flow through it."""
    behind = {id(each) for argument in call.arguments for each in forwards_behind(argument.value)}
    return any(id(each) in behind for each in trained)


def _feeds(call: Call, trained: list[Call]) -> bool:
    """Whether a trained module gets the output of ``call``.

    A module that is meant for evaluation can run without gradients instead, and is not for the optimizer to know.
    """
    if is_meant_for_evaluation(_module(call)):
        return False
    return any(
        each is call for user in trained for argument in user.arguments for each in forwards_behind(argument.value)
    )


def _may_be_frozen(module: Value, known: Objects, files: set[Module]) -> bool:
    if is_frozen(module):
        return True
    owner = class_of(module)
    if owner is not None and any(
        not switch.turns_on for cls in mro(owner) for method in cls.methods.values() for switch in grad_switches(method)
    ):
        return True
    made = {each.root.function.module for each in known if isinstance(each.root, (Call, Parameter))}
    return any(is_ever_switched_off(known, function) for file in files | made for function in file.functions)


def _confidence(optimizer: Call, forward: Call, module: Value) -> Confidence:
    if forward.function.module.is_test:
        return Confidence.POSSIBLE
    made_here = any(
        isinstance(each.root, Call)
        and isinstance(each.root.callee, External)
        and each.root.function is optimizer.function
        for each in objects(module)
    )
    return Confidence.CERTAIN if made_here and role(module, Role.MODULE) is Confidence.CERTAIN else Confidence.LIKELY
