"""Losses of several forward passes that are added up and differentiated at once, so that all their graphs are alive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.findings import Confidence
from memlint.model.aliases import aliases, instance_class, qualified_names
from memlint.model.attachment import Attachment, attachment
from memlint.model.calls import callees
from memlint.model.containers import insertions_of, names_of
from memlint.model.effects import backward_of, started_roots
from memlint.model.forwards import called_module, forwards
from memlint.model.kinds import Role, role
from memlint.model.loops import iterates_over_data
from memlint.model.optimization import accumulates
from memlint.model.scopes import Function
from memlint.model.upstream import local_ancestors
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Choice,
    Comprehension,
    Constant,
    Display,
    Element,
    Loop,
    Occurrence,
    Phi,
    Unary,
    Value,
    operand_occurrences,
)

_MAX_VALUES = 300


class Addend(NamedTuple):
    """A loss that is added to those of other iterations of ``loop``, where it is written."""

    loss: Occurrence
    loop: Loop
    sum: Binary | None
    """The addition, if there is one and not a list."""


class SummedLoss(NamedTuple):
    """A backward over the sum of losses that each iteration of a loop computes with a forward pass of its own."""

    addend: Addend
    forward: Call
    backward: Call
    confidence: Confidence


def summed_losses(function: Function) -> Iterator[SummedLoss]:
    """The losses in ``function`` whose graphs wait for one backward, although each could have its own."""
    if not function.loops:
        return
    reported: set[int] = set()
    for backward in function.calls:
        for root in started_roots(backward) if accumulates(backward) else ():
            for addend in _addends(root, backward):
                # Which passes record a graph may be a question to all callers, and is asked last.
                forward = _own_forward(addend, {id(call): call for call in forwards(function)})
                if forward is not None and id(addend.loss.node) not in reported:
                    reported.add(id(addend.loss.node))
                    yield SummedLoss(addend, forward, backward, _confidence(addend, forward))


def _addends(root: Value, backward: Call) -> Iterator[Addend]:
    """The values that ``root`` is a sum or an average of, each computed in a loop that ``backward`` runs after.

    A backward in a branch of the loop itself, once in some iterations, is one that runs after the others.
    """
    seen: set[tuple[int, int]] = set()
    pending: list[tuple[Occurrence, Loop | None, Binary | None]] = [(Occurrence(root, root.node), None, None)]
    while pending and len(seen) < _MAX_VALUES:
        part, through, addition = pending.pop()
        if (id(part.value), id(through)) in seen:
            continue
        seen.add((id(part.value), id(through)))
        nearer = list(_summands(part, through, addition))
        if nearer:
            pending.extend(nearer)
            continue
        loop = _loop_before(part.value, backward, through)
        if loop is not None:
            yield Addend(part, loop, addition)


def _loop_before(value: Value, backward: Call, through: Loop | None) -> Loop | None:
    """The loop that has computed ``value`` in iterations which are over when ``backward`` runs."""
    for loop in value.region.loops():
        if not backward.region.within(loop):
            return loop
        if loop is through:
            return loop
    return None


def _summands(
    part: Occurrence, through: Loop | None, addition: Binary | None
) -> Iterator[tuple[Occurrence, Loop | None, Binary | None]]:
    """What a sum, an average or a scaled value is made of; nothing if ``part`` is none of these."""
    value = part.value
    if isinstance(value, Phi):
        inner = value.carried if value.loop is not None else value.operands()
        yield from ((Occurrence(each, each.node), value.loop or through, addition) for each in inner)
    elif isinstance(value, Binary) and value.operator == "+" and _is_sum(value):
        yield from ((each, through, value) for each in operand_occurrences(value))
    elif isinstance(value, Choice) and _is_sum(value):
        yield from ((each, through, addition) for each in operand_occurrences(value))
    else:
        scaled = _scaled(value)
        if scaled is not None:
            yield scaled, through, addition
        elif isinstance(value, (Display, Comprehension, Attribute, Call)):
            yield from ((each, through, None) for each in _collected(value))


def _scaled(value: Value) -> Occurrence | None:
    """The sum that ``value`` scales by a number, or averages."""
    match value:
        case Binary(operator="/" | "*") if _is_sum(value.left):
            return operand_occurrences(value)[0]
        case Binary(operator="*") if isinstance(value.left, Constant) and _is_sum(value.right):
            return operand_occurrences(value)[1]
        case Unary(operator="-") if _is_sum(value.operand):
            return operand_occurrences(value)[0]
        case Call():
            return _averaged(value)
    return None


def _is_sum(value: Value) -> bool:
    """Whether ``value`` adds up what several iterations compute, or may."""
    match value:
        case Phi():
            return True
        case Binary() | Choice():
            return any(_is_sum(operand) for operand in value.operands())
        case Unary():
            return _is_sum(value.operand)
        case Call():
            return _averaged(value) is not None
    return False


_REDUCTIONS = frozenset({"mean", "sum", "stack", "cat", "scale", "div", "fsum"})


def _averaged(call: Call) -> Occurrence | None:
    """What a call adds up, averages or scales: ``torch.stack(losses)``, ``sum(losses)``, ``scaler.scale(loss)``."""
    if call.name not in _REDUCTIONS:
        return None
    operands = operand_occurrences(call)
    if call.name == "scale" or qualified_names(call.callee) & _FUNCTIONS:
        given = operands[1:] if call.receiver is not None and call.name == "scale" else operands[-1:]
        return given[0] if given and _holds_several(given[0].value) else None
    receiver = call.receiver
    return operands[0] if receiver is not None and not call.arguments and _holds_several(receiver) else None


_FUNCTIONS = frozenset({"builtins.sum", "torch.stack", "torch.cat", "torch.mean", "torch.sum", "torch.hstack"})


def _holds_several(value: Value) -> bool:
    return isinstance(value, (Comprehension, Display)) or _is_sum(value) or bool(role(value, Role.CONTAINER))


def _collected(container: Value) -> Iterator[Occurrence]:
    """What is put into a list, by whatever name: the elements of a literal, of a comprehension, what is appended."""
    for name in names_of(container):
        match name:
            case Comprehension():
                yield Occurrence(name.element, getattr(name.node, "elt", name.element.node))
            case Display():
                yield from operand_occurrences(name)
        for use in name.uses:
            for user in use.uses if isinstance(use, Attribute) else ():
                if isinstance(user, Call) and user.callee is use and user.method in {"append", "add"}:
                    yield from (Occurrence(inserted.value, inserted.node) for inserted in insertions_of(user))


# ------------------------------------------------------------------ one graph each


def _own_forward(addend: Addend, passes: dict[int, Call]) -> Call | None:
    """The forward pass that the loss alone needs, on data of its own iteration; None if iterations share a graph."""
    loop = addend.loop
    found: Call | None = None
    for value in local_ancestors(addend.loss.value):
        if isinstance(value, Phi) and value.loop is loop and value.carried and attachment(value) > Attachment.UNKNOWN:
            return None
        if id(value) not in passes:
            continue
        forward = passes[id(value)]
        if not forward.region.within(loop):
            # The graph of a pass before the loop is shared.
            return None
        if not _is_independent(forward, loop):
            return None
        found = found or forward
    return found if found is not None and not _differentiates(loop) else None


def _is_independent(forward: Call, loop: Loop) -> bool:
    """Whether a pass runs the same module as in other iterations on other data, and takes nothing from those before."""
    module = called_module(forward)
    if module is not None and any(_varies(value, loop) for value in _computed_from(module)):
        return False
    if any(_keeps_state(function) for function in callees(forward)):
        return False
    given = [value for argument in forward.arguments for value in _computed_from(argument.value)]
    if any(isinstance(v, Phi) and v.loop is loop and v.carried and not _is_counter(v) for v in given):
        return False
    return any(_varies(value, loop) for value in given)


def _computed_from(value: Value) -> Iterator[Value]:
    """``value`` and its operands, gradients or not, within the function."""
    seen: set[int] = set()
    pending = [value]
    while pending and len(seen) < _MAX_VALUES:
        current = pending.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            pending.extend((*current.operands(), *(aliases(current) or ())))


def _varies(value: Value, loop: Loop) -> bool:
    """Whether ``value`` is made anew in each iteration: its element, or what a call returns."""
    return value is loop.element or (
        isinstance(value, (Call, Element)) and value.region.within(loop) and not isinstance(value.region, Comprehension)
    )


def _is_counter(phi: Phi) -> bool:
    return bool(role(phi, Role.NUMBER)) and not role(phi, Role.TENSOR, Role.OUTPUT)


def _keeps_state(function: Function) -> bool:
    """Whether a forward stores what carries a graph in its module, as recurrent and spiking networks do."""
    return any(
        store.attribute is not None
        and store.base is not None
        and instance_class(store.base) is not None
        and attachment(store.value) > Attachment.UNKNOWN
        for store in function.lower().stores
    )


def _differentiates(loop: Loop) -> bool:
    """Whether iterations compute gradients by themselves, as the inner loop of meta-learning does."""
    return any(
        call.name == "grad" and backward_of(call) is not None
        for call in loop.function.calls
        if call.region.within(loop)
    )


def _confidence(addend: Addend, forward: Call) -> Confidence:
    loop = addend.loop
    if forward.function.module.is_test or _is_short(loop):
        return Confidence.POSSIBLE
    sure = called_module(forward) is not None and role(forward.callee, Role.MODULE) is Confidence.CERTAIN
    return Confidence.CERTAIN if sure and iterates_over_data(loop) is not None else Confidence.LIKELY


def _is_short(loop: Loop) -> bool:
    """Whether a loop runs over a literal, such as the two views of an image."""
    return isinstance(loop.iterable, Display)
