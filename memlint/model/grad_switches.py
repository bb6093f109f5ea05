"""Where ``requires_grad`` of parameters is switched, by whatever helper: what is frozen for a while, or for good."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import bound_arguments, call_sites, callees
from memlint.model.identity import Objects, everywhere, objects, seen_from
from memlint.model.memo import query
from memlint.model.optimized import overlap, walked_module
from memlint.model.scopes import Function
from memlint.model.values import Call, Constant, Display, Parameter, Region, Value

_MAX_CALLERS = 3
_FREEZING_WORDS = re.compile(r"freez|frozen|lora|adapter|peft|trainable|toggle|requires_grad|only_train")
"""Words in the names of functions out of sight that may switch gradients off; they keep memlint silent, no more."""


class Switch(NamedTuple):
    """Parameters are told to require a gradient, or not to."""

    order: int
    region: Region
    modules: Objects
    """Whose parameters; empty if that is not known."""
    flag: Value | None
    """What is passed or stored; None if that is not in sight."""

    @property
    def turns_on(self) -> bool:
        """Whether it is known to switch gradients on."""
        values = sources(self.flag) if self.flag is not None else ()
        return bool(values) and all(isinstance(value, Constant) and value.constant is True for value in values)

    def concerns(self, module: Objects) -> bool:
        """Whether it may switch parameters of ``module``."""
        return not self.modules or overlap(everywhere(self.modules), module)


@query(on_cycle=())
def grad_switches(function: Function) -> tuple[Switch, ...]:
    """The switches in ``function``, those in functions that it calls included, in the order of their evaluation."""
    found = [*_stored(function), *(switch for call in function.lower().calls for switch in _switched_by(call))]
    return tuple(sorted(found, key=lambda switch: switch.order))


def _stored(function: Function) -> Iterator[Switch]:
    for store in function.lower().stores:
        if store.attribute == "requires_grad" and store.base is not None:
            yield Switch(store.order, store.region, _owners(store.base), store.value)


def _owners(parameter: Value) -> Objects:
    module = walked_module(parameter)
    return objects(parameter if module is None else module)


def _switched_by(call: Call) -> Iterator[Switch]:
    if call.method == "requires_grad_" and call.receiver is not None:
        flag = call.argument("requires_grad", 0)
        yield Switch(call.order, call.region, _owners(call.receiver), _true(call) if flag is None else flag)
        return
    functions = callees(call)
    for function in functions:
        if function is not call.function:
            for inner in grad_switches(function):
                yield Switch(call.order, call.region, _seen_from(inner.modules, call, function), _flag(inner, call))
    if not functions and _may_freeze(call):
        yield Switch(call.order, call.region, _given(call), None)


def _given(call: Call) -> Objects:
    """What a call hands to code out of sight; Lightning's ``toggle_optimizer`` is about what it is not given."""
    if call.name == "toggle_optimizer":
        return frozenset()
    given = [argument.value for argument in call.arguments]
    return frozenset().union(*map(objects, given if call.receiver is None else [call.receiver, *given]))


def _true(call: Call) -> Value:
    return Constant(call.node, call.region, call.order, True)


def _may_freeze(call: Call) -> bool:
    if call.name in {"requires_grad_", "is_frozen"} or "unfreez" in call.name.lower():
        return False
    return bool(_FREEZING_WORDS.search(call.name.lower())) or any(
        name.startswith("peft.") for name in qualified_names(call.callee)
    )


def _seen_from(modules: Objects, call: Call, function: Function) -> Objects:
    """Like :func:`memlint.model.identity.seen_from`, with the elements of a list that is passed."""
    seen = set(seen_from(modules, call, function))
    bound = bound_arguments(call, function)
    for each in modules:
        if isinstance(each.root, Parameter) and each.root.name in bound:
            for source in sources(bound[each.root.name]):
                if isinstance(source, Display):
                    seen.update(found for element in source.elements for found in objects(element))
    return frozenset(seen)


def _flag(switch: Switch, call: Call) -> Value | None:
    """What ``call`` switches to: the argument, where the function switches to what it is given."""
    flag = switch.flag
    if not isinstance(flag, Parameter):
        return flag
    passed = bound_arguments(call, flag.function).get(flag.name)
    return flag.function.defaults.get(flag.name) if passed is None else passed


def is_switched_off(module: Objects, at: Call, depth: int = _MAX_CALLERS) -> bool:
    """Whether gradients of ``module`` may be switched off where ``at`` runs."""
    before = [switch for switch in grad_switches(at.function) if switch.order < at.order and switch.concerns(module)]
    if before:
        return not before[-1].turns_on
    sites = [site for site in call_sites(at.function) if site.function is not at.function] if depth else []
    return any(is_switched_off(module, site, depth - 1) for site in sites)


def is_ever_switched_off(module: Objects, function: Function) -> bool:
    """Whether code of ``function``, or that it calls, may switch gradients of ``module`` off."""
    return any(not switch.turns_on and switch.concerns(module) for switch in grad_switches(function))
