"""Where a value is made: its sources, across the functions and constructors of the project."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import display_element, sources
from memlint.model.calls import callees, passed_arguments
from memlint.model.keywords import given
from memlint.model.memo import query
from memlint.model.scopes import Class
from memlint.model.values import Call, ClassValue, Parameter, Part, Value


@query(on_cycle=())
def definitions(value: Value) -> tuple[Value, ...]:
    """The sources of ``value``, with what the project's calls pass for a parameter, and what its functions return."""
    found: list[Value] = []
    seen: set[int] = set()
    pending = list(sources(value))
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        nearer = tuple(_nearer(current))
        if nearer:
            pending.extend(source for value in nearer for source in sources(value))
        else:
            found.append(current)
    return tuple(found)


def _nearer(value: Value) -> Iterator[Value]:
    match value:
        case Parameter():
            yield from passed_arguments(value) or passed_to_constructor(value)
        case Call():
            yield from (exit.value for function in callees(value) for exit in function.returns)
        case Part() if value.index is not None:
            yield from _returned_parts(value, value.index)


def _returned_parts(part: Part, index: int) -> Iterator[Value]:
    """What the project's functions return at ``index`` of the tuple that is unpacked."""
    for source in sources(part.base):
        for function in callees(source) if isinstance(source, Call) else ():
            for exit in function.returns:
                for returned in sources(exit.value):
                    element = display_element(returned, index)
                    if element is not None:
                        yield element


def passed_to_constructor(parameter: Parameter) -> tuple[Value, ...]:
    """What the project's calls of a class pass for a parameter of its ``__init__``."""
    function = parameter.function
    if function.owner is None or function.name != "__init__" or parameter.star:
        return ()
    found: list[Value] = []
    for call in calls_of_class(function.owner):
        position = None if parameter.keyword_only else parameter.index - 1
        found.extend(given(call, parameter.name, position).values)
    return tuple(found)


@query(on_cycle=())
def calls_of_class(owner: Class) -> tuple[Call, ...]:
    """The calls in the project that make an instance of a class."""
    return tuple(
        call
        for module in owner.module.project.mentioning(owner.name) or (owner.module,)
        for call in module.calls_by_name.get(owner.name, ())
        if any(isinstance(source, ClassValue) and source.target is owner for source in sources(call.callee))
    )
