"""Values that a backward starts from, which proves that they carry a graph."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import display_element, sources
from memlint.model.calls import argument_parameters, proven_call_sites
from memlint.model.effects import backward_of, backward_roots, returns_loss_to_framework
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.upstream import ancestors
from memlint.model.values import Attribute, Call, Choice, Display, Exit, Item, Parameter, Part, Phi, Store, Value


@query(on_cycle=False)
def starts_backward(value: Value) -> bool:
    """Whether a backward starts from this very value under one of its later names.

    Here, in a framework, or in a function of the project that it is passed to.
    """
    return any(_use_starts_backward(alias, use) for alias in _direct_names(value) for use in alias.uses)


def _use_starts_backward(value: Value, use: Value | Store | Exit) -> bool:
    match use:
        case Attribute(name="backward"):
            return any(isinstance(user, Call) and user.callee is use and not user.positional() for user in use.uses)
        case Call(name="scale") if use.receiver is not value:
            return starts_backward(use)
        case Call() if use.callee is not value:
            backward = backward_of(use)
            if backward is not None:
                return any(root is value for root in backward.roots)
            return any(starts_backward(parameter) for parameter in _passed_for(value, use))
        case Exit(kind="return"):
            return returns_loss_to_framework(use.function)
        case Choice():
            return any(_use_starts_backward(use, user) for user in use.uses)
        case Display():
            leads = display_element(use, "loss" if use.kind == "dict" else 0) is value
            return leads and any(
                isinstance(user, (Choice, Exit)) and _use_starts_backward(use, user) for user in use.uses
            )
    return False


def holds_differentiated(value: Value) -> bool:
    """Whether a backward starts from a component of the value: ``output["loss"].backward()``."""
    return any(
        isinstance(use, (Item, Attribute, Part)) and starts_backward(use)
        for alias in _direct_names(value)
        for use in alias.uses
    )


@query(on_cycle=False)
def feeds_backward(call: Call) -> bool:
    """Whether a backward in the same function starts from something computed from ``call``.

    For a function that the caller passes, a backward of the caller counts as well.
    """
    passed = any(isinstance(s, Parameter) and s.function is call.function for s in sources(call.callee))
    return _is_fed_in(call, call.function, _MAX_CALLERS if passed else 0)


def is_fed(value: Value) -> bool:
    """Whether a backward in the same function starts from something computed from ``value``."""
    return id(value) in _fed(value.function)


_MAX_CALLERS = 3


def _is_fed_in(value: Value, function: Function, depth: int) -> bool:
    if id(value) in _fed(function):
        return True
    callers = dict.fromkeys(site.function for site in proven_call_sites(function)) if depth else ()
    return any(_is_fed_in(value, caller, depth - 1) for caller in callers)


@query(on_cycle=frozenset())
def _fed(function: Function) -> frozenset[int]:
    return frozenset(id(ancestor) for root in backward_roots(function) for ancestor in ancestors(root))


def _passed_for(value: Value, call: Call) -> Iterator[Parameter]:
    for argument in call.arguments:
        if argument.value is value:
            yield from argument_parameters(call, argument)


def _direct_names(value: Value) -> Iterator[Value]:
    """``value`` under its own name, and under those that it has after branches: on one of the paths it is the same."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending.extend(use for use in current.uses if isinstance(use, Phi))
