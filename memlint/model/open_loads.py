"""Functions that hand on to ``torch.load`` where to put tensors, and leave that open unless they are told."""

from __future__ import annotations

import re
from typing import NamedTuple

from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import bound_arguments, callees
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import Call, Constant, Parameter

_LOADS = re.compile(r"load|restore|resume|read", re.IGNORECASE)
"""What functions that load are called: asked before what a call runs, which is dearer. The callee decides."""


class OpenLoad(NamedTuple):
    """``load`` puts tensors where ``parameter`` says, which is None by default."""

    load: Call
    parameter: Parameter


def left_open(call: Call) -> OpenLoad | None:
    """The load in a function that ``call`` runs without saying where to put the tensors."""
    if _LOADS.search(call.name) is None or call.is_open:
        return None
    for function in callees(call):
        found = open_load(function)
        if found is not None and found.parameter.name not in _told(call, function):
            return found
    return None


def ignored_parameter(load: Call) -> Parameter | None:
    """The ``map_location`` that the function around ``load`` takes and does nothing with."""
    function = load.function
    named = (parameter for parameter in function.parameters if parameter.name == "map_location" and not parameter.star)
    return next((each for each in named if not each.uses and each.name not in function.captures), None)


def _told(call: Call, function: Function) -> set[str]:
    """The parameters that the call passes."""
    passed = {id(argument.value) for argument in call.arguments}
    return {name for name, value in bound_arguments(call, function).items() if id(value) in passed}


@query(on_cycle=None)
def open_load(function: Function) -> OpenLoad | None:
    """The load of a function whose ``map_location`` is a parameter that is None unless a caller says more."""
    for call in function.lower().calls:
        if _LOADS.search(call.name) is None:
            continue
        if "torch.load" in qualified_names(call.callee):
            given = call.argument("map_location", 1)
            load = call
        else:
            inner = _handed_on(call)
            if inner is None:
                continue
            given, load = bound_arguments(call, inner.parameter.function).get(inner.parameter.name), inner.load
        for source in sources(given) if given is not None else ():
            if isinstance(source, Parameter) and source.function is function and _is_none_by_default(source):
                return OpenLoad(load, source)
    return None


def _handed_on(call: Call) -> OpenLoad | None:
    return next((found for function in callees(call) if (found := open_load(function)) is not None), None)


def _is_none_by_default(parameter: Parameter) -> bool:
    default = parameter.function.defaults.get(parameter.name)
    found = sources(default) if default is not None else ()
    return any(isinstance(source, Constant) and source.constant is None for source in found)
