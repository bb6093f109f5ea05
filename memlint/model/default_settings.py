"""Settings that are on unless somebody turns them off, where a file hands them on under their own name."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.model.aliases import sources
from memlint.model.scopes import Function, Module
from memlint.model.values import Attribute, Constant, Parameter, Value


def on_by_default(module: Module, name: str) -> Iterator[cst.CSTNode]:
    """Where parameters and attributes called ``name`` are ``True`` by default, in a file that passes them on.

    Only what reaches a call as ``name=name`` or ``name=x.name`` counts: that the callee means the same by the name.
    """
    if name not in module.text or not _is_handed_on(module, name):
        return
    for function in module.functions:
        default = function.defaults.get(name)
        if default is not None and _is_true(default):
            yield from (each.node for each in function.parameters if each.name == name and _goes_on(each, function))
        for store in function.stores:
            unconditional = store.attribute == name and store.region is function.body
            if unconditional and not store.augmented and _is_constant_true(store.value):
                yield store.node


def _is_handed_on(module: Module, name: str) -> bool:
    calls = (call for calls in module.calls_by_name.values() for call in calls)
    return any(
        _names(argument.value, name) for call in calls for argument in call.arguments if argument.keyword == name
    )


def _goes_on(parameter: Parameter, function: Function) -> bool:
    """Whether a parameter is stored or passed under its own name."""
    stored = [store.value for store in function.stores if store.attribute == parameter.name]
    passed = [a.value for call in function.calls for a in call.arguments if a.keyword == parameter.name]
    return any(parameter in sources(value) for value in (*stored, *passed))


def _names(value: Value, name: str) -> bool:
    if isinstance(value, Attribute):
        return value.name == name
    return isinstance(value.node, cst.Name) and value.node.value == name


def _is_true(value: Value) -> bool:
    return any(_is_constant_true(source) for source in sources(value))


def _is_constant_true(value: Value) -> bool:
    return isinstance(value, Constant) and value.constant is True
