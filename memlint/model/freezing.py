"""Modules whose parameters are frozen: set to require no gradient."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import sources
from memlint.model.calls import passed_arguments
from memlint.model.containers import names_of
from memlint.model.memo import query
from memlint.model.values import Attribute, Call, Constant, Element, Parameter, Store, Value


def turns_off_grad(call: Call) -> bool:
    """Whether ``call``, of ``requires_grad_``, passes False."""
    value = call.argument("requires_grad", 0)
    return isinstance(value, Constant) and value.constant is False


@query(on_cycle=False)
def is_frozen(module: Value) -> bool:
    """Whether all parameters of a module are set to require no gradient, and never to require one again."""
    found = [_freezing(name) for name in _module_names(module)]
    return True in found and False not in found


def _module_names(module: Value) -> Iterator[Value]:
    yield from names_of(module)
    for source in sources(module):
        if isinstance(source, Parameter):
            for passed in passed_arguments(source) or ():
                yield from names_of(passed)


def _freezing(name: Value) -> bool | None:
    """True if gradients are switched off for all parameters of the module ``name``, False if on, None if neither."""
    result: bool | None = None
    for use in name.uses:
        if not isinstance(use, Attribute):
            continue
        for user in use.uses:
            if not isinstance(user, Call) or user.callee is not use:
                continue
            switched = _switches(user)
            if switched is False:
                return False
            result = result or switched
    return result


def _switches(call: Call) -> bool | None:
    if call.method == "requires_grad_":
        return turns_off_grad(call)
    if call.method != "parameters":
        return None
    for use in call.uses:
        if isinstance(use, Element):
            for user in use.uses:
                if isinstance(user, Store) and user.attribute == "requires_grad" and isinstance(user.value, Constant):
                    return not user.value.constant
                if isinstance(user, Attribute) and user.name == "requires_grad_":
                    for inner in user.uses:
                        if isinstance(inner, Call):
                            return turns_off_grad(inner)
    return None
