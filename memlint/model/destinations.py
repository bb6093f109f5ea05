"""Where an object and its parts end up: the calls and operations that use them, across names, functions and files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import find_method, instance_class, qualified_names, sources
from memlint.model.calls import argument_parameters, bound_arguments_of_constructor, call_sites, callees
from memlint.model.containers import insertions_of, is_container, names_of
from memlint.model.knowledge import torch
from memlint.model.scopes import Class, Function
from memlint.model.values import (
    Attribute,
    Awaited,
    Call,
    Choice,
    ClassValue,
    Comparison,
    Comprehension,
    Display,
    Element,
    Exit,
    Formatted,
    Item,
    Parameter,
    Part,
    Phi,
    Store,
    Value,
)


class Destination(NamedTuple):
    """``user`` does something with ``value``, which is the object or a part of it; None: unknown callers get it."""

    value: Value
    user: Value | Function


_MAX_VALUES = 500
_PARTS = (Phi, Choice, Awaited, Item, Part, Element, Display, Comprehension)
_PART_METHODS = frozenset({"get", "pop", "items", "values", "copy", "setdefault", "popitem"})


def destinations(value: Value) -> Iterator[Destination]:
    """The uses of ``value`` and its parts that are neither names nor ways to a part.

    Follows names, items, loops over the object, new containers of its parts, attributes of ``self``, calls of the
    project's functions, and returns to their callers.
    """
    seen: set[int] = set()
    pending = [value]
    while pending and len(seen) < _MAX_VALUES:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        for use in current.uses:
            nearer = _next(current, use)
            if nearer is None:
                yield Destination(current, use.function if isinstance(use, (Exit, Store)) else use)
            else:
                pending.extend(nearer)


def _next(value: Value, use: Value | Store | Exit) -> list[Value] | None:
    """The values under which a use makes ``value`` known; None if the use is a destination."""
    match use:
        case Store():
            return _stored(value, use)
        case Exit():
            return [call for call in call_sites(use.function) if use.function in callees(call)] or None
        case Attribute():
            return _through_attribute(use)
        case Call():
            return _passed(value, use)
        case Comparison() | Formatted():
            return []
        case Comprehension() if use.element is not value:
            return []
    return [use] if isinstance(use, _PARTS) else None


def _stored(value: Value, store: Store) -> list[Value] | None:
    if store.value is not value:
        return []
    if store.base is None:
        return list(store.function.captures.get(store.key or "", ()))
    if store.attribute is None:
        # Of a container that others fill as well, its other entries would be taken for parts of the object.
        return list(names_of(store.base)) if is_container(store.base) else None
    owner = instance_class(store.base)
    loads = owner.module.loads.get(store.attribute, []) if owner is not None else []
    return list(loads) or None


def _through_attribute(attribute: Attribute) -> list[Value] | None:
    calls = [use for use in attribute.uses if isinstance(use, Call) and use.callee is attribute]
    if not calls:
        return [attribute]
    if attribute.name in _PART_METHODS:
        return list(calls)
    if attribute.name == "keys":
        return []
    return None


def _passed(value: Value, call: Call) -> list[Value] | None:
    if call.callee is value:
        return None
    found: list[Value] = []
    for argument in call.arguments:
        if argument.value is value:
            found.extend(argument_parameters(call, argument))
    for source in sources(call.callee):
        if isinstance(source, ClassValue):
            found.extend(_initialised_with(value, call, source.target))
    if found or callees(call):
        return found
    if call.receiver is not None and any(insertion.value is value for insertion in insertions_of(call)):
        return list(names_of(call.receiver))
    if qualified_names(call.callee) & torch.PASSING_BUILTINS:
        return [call]
    return None


def _initialised_with(value: Value, call: Call, owner: Class) -> Iterator[Parameter]:
    init = find_method(owner, "__init__")
    if init is not None:
        bound = bound_arguments_of_constructor(call, init)
        yield from (parameter for parameter in init.parameters if bound.get(parameter.name) is value)
