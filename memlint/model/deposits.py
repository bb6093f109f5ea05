"""Functions that fill a container which they are given: ``def keep(out, x): out.append(x)``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import bound_arguments, callees
from memlint.model.containers import elements, insertions_of
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import Argument, Binary, Call, Element, Item, Parameter, Part, Value


class Deposit(NamedTuple):
    """A function puts ``value`` into the container that it is given as ``container``."""

    container: Parameter
    value: Value


@query(on_cycle=())
def deposits(function: Function) -> tuple[Deposit, ...]:
    """What ``function`` puts into containers that it is given, itself or by the functions that it hands them to."""
    return tuple(
        Deposit(parameter, value)
        for parameter in function.lower().parameters
        if not parameter.star and parameter is not function.instance
        for value in elements(parameter)
    )


def deposited(call: Call, container: Value) -> Iterator[Value]:
    """What the functions of the project that ``call`` runs put into ``container``, as the caller knows it.

    What they take out of another container that they are given may be anything that the caller has put in there.
    """
    for function in callees(call) if any(argument.value is container for argument in call.arguments) else ():
        bound: dict[str, Value] | None = None
        for deposit in deposits(function):
            if bound is None:
                bound = bound_arguments(call, function)
            if bound.get(deposit.container.name) is container:
                yield from _as_passed(deposit.value, function, bound)


def _as_passed(value: Value, function: Function, bound: Mapping[str, Value]) -> Iterator[Value]:
    """``value``, which ``function`` computes, in terms of what its caller passes."""
    for source in sources(value):
        parameter = _taken_out_of(source)
        given = bound.get(parameter.name) if parameter is not None and parameter.function is function else None
        if given is None:
            yield source
        elif source is parameter:
            yield given
        else:
            yield from leaves(given)


def _taken_out_of(value: Value) -> Parameter | None:
    """The parameter that ``value`` is, or is an element of: ``v`` in ``for k, v in d.items()``."""
    while not isinstance(value, Parameter):
        match value:
            case Part() | Item():
                value = value.base
            case Element():
                value = value.iterable
            case Call() if value.method in {"items", "values", "pop", "get", "copy"} and value.receiver is not None:
                value = value.receiver
            case Call() if qualified_names(value.callee) & torch.PASSING_BUILTINS and len(value.arguments) == 1:
                value = value.arguments[0].value
            case _:
                return None
    return value


_MAX_NESTING = 3
"""Containers in containers that are looked into."""


def leaves(container: Value, depth: int = _MAX_NESTING) -> Iterator[Value]:
    """What ``container`` and the containers in it hold; itself if nothing is known to be put into it."""
    inside = elements(container) if depth else ()
    for element in inside:
        yield from leaves(element, depth - 1)
    if not inside:
        yield container


class Filling(NamedTuple):
    """A call has a function of the project put the argument ``given`` into the argument ``container``."""

    container: Argument
    given: Argument


def fillings(call: Call) -> Iterator[Filling]:
    """What ``call`` passes to functions of the project that put it, or what it holds, into another argument."""
    for function in callees(call) if len(call.arguments) > 1 else ():
        put = [
            (deposit.container, parameter)
            for deposit in (*deposits(function), *_put_inside(function))
            for value in _summands(deposit.value)
            for parameter in map(_taken_out_of, sources(value))
            if parameter is not None and parameter.function is function and parameter is not deposit.container
        ]
        bound = bound_arguments(call, function) if put else {}
        for container, parameter in dict.fromkeys(put):
            into = _argument_of(call, bound.get(container.name))
            given = _argument_of(call, bound.get(parameter.name))
            if into is not None and given is not None and into is not given:
                yield Filling(into, given)


@query(on_cycle=())
def _put_inside(function: Function) -> tuple[Deposit, ...]:
    """What ``function`` puts into the containers in a container that it is given: ``logs[name].append(value)``."""
    return tuple(
        Deposit(parameter, insertion.value)
        for call in function.lower().calls
        for insertion in insertions_of(call)
        for parameter in _holding(insertion.container)
    )


def _holding(container: Value) -> Iterator[Parameter]:
    """The parameter that has ``container`` as an item, or keeps it under a key: ``logs.setdefault(name, [])``."""
    for source in sources(container):
        holder: Value | None = None
        if isinstance(source, Item):
            holder = source.base
        elif isinstance(source, Call) and source.method == "setdefault":
            holder = source.receiver
        for origin in sources(holder) if holder is not None else ():
            if isinstance(origin, Parameter) and origin is not origin.function.instance:
                yield origin


def _summands(value: Value) -> Iterator[Value]:
    """``value``, or the terms of the sum that it is: ``x`` in ``sums[k] = sums.get(k, 0) + x``."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, Binary) and current.operator in {"+", "-", "*", "/"}:
            pending.extend((current.left, current.right))
        else:
            yield current


def _argument_of(call: Call, value: Value | None) -> Argument | None:
    """The argument of ``call`` that ``value`` is passed as, not starred."""
    return next((each for each in call.arguments if each.value is value and not each.star), None)
