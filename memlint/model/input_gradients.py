"""Inputs that are made to require a gradient, and whether somebody reads that gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from memlint.findings import Confidence
from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import callees
from memlint.model.effects import Effect, backward_of, function_effects, region_effects
from memlint.model.forwards import called_module
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.kinds import Role, kinds, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import (
    Argument,
    Attribute,
    Call,
    Choice,
    Constant,
    Element,
    Item,
    Loop,
    Part,
    Phi,
    Region,
    Store,
    Value,
)


class Requirement(NamedTuple):
    """A place from which an element of a batch requires a gradient."""

    input: Value
    region: Region
    node: cst.CSTNode
    place: Call | Store
    argument: Argument | None = None
    """The ``requires_grad=True`` of ``Variable(x, requires_grad=True)``."""


def requirements(function: Function) -> Iterator[Requirement]:
    """The inputs that ``function`` makes to require a gradient."""
    for call in function.calls:
        flag = next((a for a in call.arguments if a.keyword == "requires_grad"), None)
        if call.method == "requires_grad_" and call.receiver is not None:
            wanted = call.argument("requires_grad", 0)
            if wanted is None or _is_true(wanted):
                yield Requirement(call.receiver, call.region, call.node, call)
        elif flag is not None and _is_true(flag.value) and qualified_names(call.callee) & torch.VARIABLES:
            given = call.argument("data", 0)
            if given is not None:
                yield Requirement(given, call.region, call.node, call, flag)
    for store in function.stores:
        if store.attribute == "requires_grad" and store.base is not None and _is_true(store.value):
            yield Requirement(store.base, store.region, store.node, store)


def _is_true(value: Value) -> bool:
    return isinstance(value, Constant) and value.constant is True


def training_loop(requirement: Requirement) -> Loop | None:
    """The loop that trains on the batches of which the input is a part; None if it is something else.

    A loop whose function steps no optimizer does not train: it measures what a backward takes.
    """
    for element in _origins(requirement.input):
        if role(element.iterable, Role.PARAMETERS, Role.MODULE) or grad_mode(requirement.region) is GradMode.DISABLED:
            return None
        for loop in requirement.region.loops():
            if loop.element is not None and _is_element_of(element, loop):
                trains = region_effects(loop) & Effect.BACKWARD and function_effects(loop.function) & Effect.STEP
                return loop if trains else None
    return None


def _is_element_of(element: Element, loop: Loop) -> bool:
    return element is loop.element


def _origins(value: Value) -> Iterator[Element]:
    """The elements of what is iterated over that ``value`` is a part of, moved and converted or not."""
    seen: set[int] = set()
    pending = list(sources(value))
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        match current:
            case Element():
                yield current
            case Part() | Item():
                pending.extend(sources(current.base))
            case Call() if current.method in _CONVERSIONS and current.receiver is not None:
                pending.extend(sources(current.receiver))
            case Call() if current.arguments and qualified_names(current.callee) & torch.VARIABLES:
                pending.extend(sources(current.arguments[0].value))


_CONVERSIONS = frozenset(
    """
    to cuda cpu float double half type view reshape unsqueeze squeeze permute transpose flatten contiguous clone
    detach requires_grad_
    """.split()
)


# ------------------------------------------------------------------------ who reads it


def unread_gradient(requirement: Requirement, loop: Loop) -> Confidence | None:
    """How sure it is that nothing reads the gradient of the input; None if something does, or may well do.

    Possible: the input goes to code out of sight, which may differentiate with respect to it.
    """
    if _takes_gradients(loop.function) or _is_checkpointed(loop.function):
        return None
    confidence = Confidence.LIKELY
    names = _names(requirement)
    for use in (use for name in names for use in name.uses):
        match use:
            case Attribute(name="grad" | "retain_grad" | "register_hook" | "grad_fn"):
                return None
            case Call():
                if any(_takes_gradients(function) or _is_checkpointed(function) for function in callees(use)):
                    return None
                if not _is_known(use):
                    confidence = Confidence.POSSIBLE
            case Store() if use.base is not None and any(use.value is name for name in names):
                return None
    return confidence


def _is_known(call: Call) -> bool:
    """Whether it is known what ``call`` does with its arguments: a function of torch, a builtin, a module in sight."""
    if callees(call) or any(name.startswith(("torch.", "builtins.")) for name in qualified_names(call.callee)):
        return True
    module = called_module(call)
    if module is not None:
        named = any(kind.name not in {"", "torch.nn.Module"} for kind in kinds(module))
        # What differentiates inside, as models of forces do, gets more than one input or returns more than one value.
        return named or (len(call.arguments) == 1 and not any(isinstance(use, (Part, Item)) for use in call.uses))
    return role(call.callee, Role.LOSS_FUNCTION) is not None or call.receiver is not None


def _names(requirement: Requirement) -> list[Value]:
    """The input under its names from the requirement on."""
    whole = [requirement.input, requirement.place] if isinstance(requirement.place, Call) else [requirement.input]
    found: list[Value] = []
    seen: set[int] = set()
    pending: list[Value] = [*whole, *sources(requirement.input)]
    while pending:
        current = pending.pop()
        if id(current) not in seen:
            seen.add(id(current))
            found.append(current)
            pending.extend(use for use in current.uses if isinstance(use, (Phi, Choice)))
            pending.extend(_conversions(current))
    return found


def _conversions(value: Value) -> Iterator[Call]:
    """The calls that convert or move ``value``: ``x.to(device)``."""
    for use in value.uses:
        if isinstance(use, Attribute) and use.name in _CONVERSIONS:
            yield from (user for user in use.uses if isinstance(user, Call) and user.callee is use)


@query(on_cycle=False)
def _takes_gradients(function: Function) -> bool:
    """Whether ``function`` computes or reads gradients of anything but parameters."""
    for attribute in function.lower().attributes:
        if (
            attribute.name in _READERS
            and not role(attribute.base, Role.PARAMETERS)
            and not _is_parameter(attribute.base)
        ):
            return True
    return any(_differentiates(call) for call in function.calls) or any(map(_takes_gradients, function.functions))


_READERS = frozenset({"grad", "retain_grad", "register_hook", "register_full_backward_hook"})


def _is_parameter(value: Value) -> bool:
    return any(isinstance(s, Element) and role(s.iterable, Role.PARAMETERS) for s in sources(value))


def _differentiates(call: Call) -> bool:
    if call.name in _DIFFERENTIATING or (backward_of(call) is not None and call.name == "grad"):
        return True
    return any(_takes_gradients(function) for function in callees(call) if function is not call.function)


_DIFFERENTIATING = frozenset({"jacobian", "hessian", "vjp", "jvp", "hvp", "vhp", "jacrev", "jacfwd", "gradgradcheck"})


@query(on_cycle=False)
def _is_checkpointed(function: Function) -> bool:
    """Whether activations are recomputed, in which case the reentrant form needs an input that requires a gradient."""
    modules = {function.module}
    for call in function.lower().calls:
        module = called_module(call)
        modules.update(kind.cls.module for kind in kinds(module) if kind.cls is not None) if module else None
    return any(name in _CHECKPOINTING for module in modules for name in module.calls_by_name)


_CHECKPOINTING = frozenset(
    {"checkpoint", "checkpoint_sequential", "gradient_checkpointing_enable", "enable_gradient_checkpointing"}
)
