"""Tensors that NumPy reads as they are, which it could not if they had a graph."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import qualified_names
from memlint.model.calls import argument_parameters
from memlint.model.containers import names_of
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.upstream import is_index_component
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Choice,
    Constant,
    Display,
    Exit,
    Item,
    Parameter,
    Part,
    Phi,
    Store,
    Unary,
    Value,
)


@query(on_cycle=False)
def is_read_by_numpy(tensor: Value) -> bool:
    """Whether NumPy reads ``tensor``, or the tensors that it holds, by one of its names.

    That would raise if it was attached: whoever calls the function has gradients disabled, or it was never run.
    """
    seen: set[int] = set()
    pending = list(names_of(tensor))
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        for use in value.uses:
            if isinstance(use, Attribute) and use.name == "numpy":
                return True
            if isinstance(use, Call) and _is_given_to_numpy(value, use):
                return True
            pending.extend(_same_graph(value, use))
    return False


def is_array(value: Value) -> bool:
    """Whether NumPy is given ``value`` itself: it is no tensor on a device, which NumPy could not read."""
    return any(isinstance(use, Call) and _is_given_to_numpy(name, use) for name in names_of(value) for use in name.uses)


def _is_given_to_numpy(value: Value, call: Call) -> bool:
    """Whether ``call`` is one of NumPy, or of a function of the project that passes ``value`` to one."""
    if call.callee is value:
        return False
    if any(name.startswith("numpy.") for name in qualified_names(call.callee)):
        return True
    given = (argument for argument in call.arguments if argument.value is value)
    return any(
        _is_passed_to_numpy(parameter) for argument in given for parameter in argument_parameters(call, argument)
    )


@query(on_cycle=False)
def _is_passed_to_numpy(parameter: Parameter) -> bool:
    return is_array(parameter)


def _is_one_member(use: Item | Part) -> bool:
    """Whether ``use`` is a member of a container by its own name or place: the others may have graphs."""
    by_name = isinstance(use, Item) and all(isinstance(index, Constant) for index in use.index)
    return by_name and role(use.base, Role.CONTAINER) is not None


def _same_graph(value: Value, use: Value | Store | Exit) -> Iterator[Value]:
    """What ``use`` makes of ``value`` in the same function without leaving its graph."""
    match use:
        case Attribute() if use.name not in torch.DETACHING_ATTRIBUTES:
            called = [user for user in use.uses if isinstance(user, Call) and user.callee is use]
            yield from (user for user in called if user.method not in torch.DETACHING_METHODS)
            if not called:
                yield use
        case Item() | Part() if not is_index_component(use) and not _is_one_member(use):
            yield use
        case Phi() | Choice() | Binary() | Unary() | Display():
            yield use
        case Call() if use.callee is not value:
            names = qualified_names(use.callee)
            if any(name.startswith("torch.") for name in names) and not names & torch.DETACHING_FUNCTIONS:
                yield use
