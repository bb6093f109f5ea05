"""How long what holds a value lives: for the iterations of a loop, between calls, as long as an object."""

from __future__ import annotations

from enum import Enum

from memlint.model.aliases import instance_class, sources
from memlint.model.calls import (
    bound_arguments,
    proven_call_sites,
)
from memlint.model.containers import (
    container_origins,
)
from memlint.model.kinds import Role, role
from memlint.model.memo import query
from memlint.model.values import (
    Attribute,
    Call,
    Free,
    Item,
    Loop,
    Parameter,
    Phi,
    Region,
    Value,
)


class Span(str, Enum):
    """What a holder outlives."""

    ITERATION = "iteration"
    """The iterations of a loop in the same function."""
    CALL = "call"
    """The calls of the function: it is an attribute, or belongs to the module or an enclosing function."""


def container_span(container: Value, region: Region) -> tuple[Span | None, Loop | None]:
    """What a container outlives that is filled in ``region``, and the loop over whose iterations it is filled.

    (None, None) if it is made anew for every iteration of the loops around, or if there is no loop and it is local.
    """
    origins = container_origins(container)
    here = [origin for origin in origins if origin.region.function is region.function]
    outside = belongs_outside(container)
    loops = list(region.loops())
    if here and not outside:
        outlived = [loop for loop in loops if not all(origin.region.within(loop) for origin in here)]
        return (Span.ITERATION, outlived[0]) if outlived else (None, None)
    if outside or any(origin.region.function is not region.function for origin in origins):
        return Span.CALL, loops[0] if loops else None
    parameter = parameter_behind(container)
    if parameter is not None and loops:
        return Span.ITERATION, loops[0]
    if parameter is not None and _is_held_by_callers(parameter):
        return Span.CALL, None
    return None, None


@query(on_cycle=False)
def _is_held_by_callers(parameter: Parameter) -> bool:
    """Whether a caller passes a container for ``parameter`` that outlives the iteration (or the call) that it is in."""
    function = parameter.function
    for site in proven_call_sites(function) if role(parameter, Role.CONTAINER) else ():
        passed = bound_arguments(site, function).get(parameter.name)
        if passed is not None and container_span(passed, site.region)[0] is not None:
            return True
    return False


def loops_outlived(holder: Value, region: Region) -> list[Loop]:
    """The loops around ``region``, innermost first, over whose iterations the object ``holder`` is the same."""
    root: Value = holder
    while isinstance(root, (Attribute, Item)):
        root = root.base
    made = [source for source in sources(root) if source.function is region.function]
    return [loop for loop in region.loops() if not any(source.region.within(loop) for source in made)]


def belongs_outside(container: Value) -> bool:
    """Whether the container is an attribute of the instance, or a variable of the module or an enclosing function."""
    value = container
    while isinstance(value, (Phi, Item)):
        value = value.inputs[0] if isinstance(value, Phi) else value.base
    if isinstance(value, Attribute):
        return instance_class(value.base) is not None
    return isinstance(value, Free)


def is_deleted_after_use(container: Value) -> bool:
    """Whether a method deletes the attribute that holds the container: ``del self.states`` at the end of a pass."""
    value = container
    while isinstance(value, (Phi, Item)):
        value = value.inputs[0] if isinstance(value, Phi) else value.base
    owner = instance_class(value.base) if isinstance(value, Attribute) else None
    if owner is None or not isinstance(value, Attribute):
        return False
    methods = (method.lower() for method in owner.methods.values())
    return any(deletion.key.endswith(f".{value.name}") for method in methods for deletion in method.deletions)


def parameter_behind(container: Value) -> Parameter | None:
    """The parameter that ``container`` is, or is an item of."""
    value = container
    while isinstance(value, (Phi, Item)):
        value = value.inputs[0] if isinstance(value, Phi) else value.base
    return value if isinstance(value, Parameter) and value.index is not None else None


def tensor_span(tensor: Value, region: Region) -> tuple[Span | None, Loop | None]:
    """Like :func:`container_span`, for a tensor that is made beforehand and filled in place."""
    made = sources(tensor)
    if not made or not all(isinstance(source, Call) and role(source, Role.TENSOR) for source in made):
        return None, None
    outlived = loops_outlived(tensor, region)
    if belongs_outside(tensor):
        return Span.CALL, outlived[0] if outlived else None
    return (Span.ITERATION, outlived[0]) if outlived else (None, None)
