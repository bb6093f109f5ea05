"""What functions keep of their arguments beyond the call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from memlint.model.accumulations import Accumulation, accumulations, is_module_state
from memlint.model.aliases import instance_class, sources
from memlint.model.attachment import Attachment, attachment
from memlint.model.calls import (
    argument_parameters,
    callees,
    gathering_parameters,
)
from memlint.model.detaching import written_members
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.spans import Span, belongs_outside, loops_outlived, parameter_behind
from memlint.model.stashes import stashes
from memlint.model.upstream import local_ancestors
from memlint.model.values import (
    Argument,
    Binary,
    Call,
    ClassValue,
    Comparison,
    Constant,
    Display,
    Exit,
    Formatted,
    FunctionValue,
    Occurrence,
    Parameter,
    Phi,
    Store,
    Unary,
    Value,
)


class Keeping(NamedTuple):
    """A function keeps what is passed for ``parameter`` beyond the call: summed up, or in a container."""

    parameter: Parameter
    summed: bool
    holder: cst.CSTNode
    kept: Value
    """The container, or the new value of the sum."""
    is_state: bool = False
    """Whether it is state of a module, of which its own class is told: see :func:`is_module_state`."""


@query(on_cycle=())
def keepings(function: Function) -> tuple[Keeping, ...]:
    """Parameters that ``function`` keeps with their graph in attributes of its instance or outer variables."""
    return tuple(_keepings(function.lower()))


def _keepings(function: Function) -> Iterator[Keeping]:
    for accumulation in accumulations(function):
        summed = tuple(_summed(accumulation, function)) if accumulation.span is Span.CALL else ()
        if summed and grad_mode(accumulation.region) is not GradMode.DISABLED:
            yield from summed
    for stash in stashes(function):
        # What is put into a container of the caller is told where the caller passes it.
        if stash.span is not Span.CALL or _is_computed_without_gradients(stash.insertion.value):
            continue
        if parameter_behind(stash.insertion.container) is None:
            for parameter in _parameters_in(stash.insertion.value, function):
                yield Keeping(parameter, False, stash.insertion.holder, stash.insertion.container)
    yield from _passed_on(function)


def _is_computed_without_gradients(value: Value) -> bool:
    return isinstance(value, (Binary, Unary)) and grad_mode(value.region) is GradMode.DISABLED


def _summed(accumulation: Accumulation, function: Function) -> Iterator[Keeping]:
    for addend in accumulation.addends:
        for parameter in _parameters_in(addend.value, function):
            state = is_module_state(function, accumulation)
            yield Keeping(parameter, True, accumulation.holder, accumulation.value, state)


def _passed_on(function: Function) -> Iterator[Keeping]:
    """What the functions keep that ``function`` calls."""
    for call in function.calls:
        for argument in call.arguments if _keeps_something(call) and _kept_beyond(call) else ():
            for keeping in kept_arguments(call, argument):
                for parameter in _parameters_in(argument.value, function):
                    yield Keeping(parameter, keeping.summed, call.node, keeping.kept, keeping.is_state)


def _keeps_something(call: Call) -> bool:
    """Whether a function of the project that ``call`` runs keeps any of its parameters."""
    # What a call runs is dear to find out, and half of all calls are given nothing that could be worth keeping.
    given = any(not isinstance(argument.value, _GRAPH_FREE) for argument in call.arguments)
    return given and any(keepings(function) for function in callees(call))


_GRAPH_FREE = (Constant, Formatted, Comparison, FunctionValue, ClassValue)


def _kept_beyond(call: Call) -> bool:
    """Whether the object whose method is called outlives the function that calls it."""
    receiver = call.receiver
    if receiver is None:
        return True
    return belongs_outside(receiver) or isinstance(receiver, Parameter) or instance_class(receiver) is not None


def _parameters_in(value: Value, function: Function) -> Iterator[Parameter]:
    """Parameters of ``function`` whose graph reaches ``value``, those of the instance left out."""
    found: set[str] = set()
    for ancestor in local_ancestors(value):
        if not isinstance(ancestor, Parameter) or ancestor.function is not function or ancestor is function.instance:
            continue
        if ancestor.name not in found:
            found.add(ancestor.name)
            yield ancestor


def kept_arguments(call: Call, argument: Argument) -> Iterator[Keeping]:
    """How the functions of the project that ``call`` runs keep ``argument`` beyond the call."""
    gathering = (parameter for parameter, _ in gathering_parameters(call, argument))
    for parameter in (*argument_parameters(call, argument), *gathering):
        for keeping in keepings(parameter.function):
            if keeping.parameter is parameter:
                yield keeping


def kept_by(call: Call) -> Iterator[tuple[Occurrence, Keeping]]:
    """The arguments that the functions of the project which ``call`` runs keep; each argument once."""
    for argument in call.arguments if _keeps_something(call) and not _is_dropped_with(call) else ():
        keeping = next(kept_arguments(call, argument), None)
        for where in written_members(Occurrence(argument.value, argument.node.value)) if keeping is not None else ():
            if keeping is not None and attachment(where.value) > Attachment.UNKNOWN:
                yield where, keeping


def _is_dropped_with(call: Call) -> bool:
    """Whether the object whose method is called is made anew for each iteration (or call), and nobody else gets it."""
    receiver = call.receiver
    made = sources(receiver) if receiver is not None else ()
    if receiver is None or not all(isinstance(each, Call) and each.function is call.function for each in made):
        return False
    return bool(made) and not loops_outlived(receiver, call.region) and not any(map(_is_handed_out, made))


def _is_handed_out(made: Value) -> bool:
    """Whether an object leaves the code that made it: stored, returned, or passed to something."""
    return any(
        (isinstance(use, Store) and use.value is name and use.base is not None)
        or (isinstance(use, Call) and use.callee is not name)
        or isinstance(use, (Exit, Display))
        for name in (made, *(use for use in made.uses if isinstance(use, Phi)))
        for use in name.uses
    )
