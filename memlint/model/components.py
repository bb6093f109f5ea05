"""Which components of a tuple that a call returns are used: ``y`` of ``y, _ = attention(x, x, x)``."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.values import Call, Choice, Constant, Exit, Item, Part, Phi, Store, Value


def readers(value: Value) -> Iterator[Value | Store | Exit]:
    """Who uses ``value``, through the names that it is bound to; binding it to a local name is no use."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        for use in current.uses:
            if isinstance(use, (Phi, Choice)):
                pending.append(use)
            elif not (isinstance(use, Store) and use.base is None):
                yield use


def used_components(call: Call) -> frozenset[int] | None:
    """The indices of the components of what ``call`` returns that something uses; None if it is used as a whole."""
    if _is_captured(call):
        return None
    found: set[int] = set()
    for use in readers(call):
        match use:
            case Part(index=int() as index):
                if _is_captured(use) or next(readers(use), None) is not None:
                    found.add(index)
            case Item(index=(Constant(constant=int() as index),)):
                found.add(index)
            case _:
                return None
    return frozenset(found)


def _is_captured(value: Value) -> bool:
    """Whether a name that ``value`` is bound to is read by another function, or by whoever imports it."""
    function = value.function
    names = {use.key for use in value.uses if isinstance(use, Store) and use.base is None and use.key is not None}
    return bool(names & (set(function.captures) | set(function.global_names)))
