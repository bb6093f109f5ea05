"""How long what holds a value lives: for the iterations of a loop, between calls, as long as an object."""

from __future__ import annotations

from enum import Enum

from memlint.model.aliases import instance_class, same_place, sources
from memlint.model.calls import bound_arguments, callees, proven_call_sites
from memlint.model.containers import EMPTYING, container_origins
from memlint.model.kinds import Role, role
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import (
    Attribute,
    Call,
    Constant,
    Free,
    Item,
    Loop,
    Parameter,
    Phi,
    Region,
    Store,
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
    return place_span(container, region)


def place_span(place: Value, region: Region) -> tuple[Span | None, Loop | None]:
    """Like :func:`container_span`, for an attribute or an item of an object: ``stats.losses``, ``logs["loss"]``.

    It lives as long as the object, unless the object gets another one in its place. What is in an attribute of an
    attribute of the instance outlives the call.
    """
    if not isinstance(place, (Attribute, Item)):
        return None, None
    around = next(iter(region.loops()), None)
    loops = [loop for loop in loops_outlived(place, region) if not _is_renewed(place, loop)]
    if is_reached_from_outside(place):
        return (Span.CALL, around) if around is None or around in loops else (None, None)
    return (Span.ITERATION, loops[0]) if loops else (None, None)


def _bases(place: Value) -> list[Value]:
    """The objects that ``place`` is reached through, the nearest first: ``a.b`` and ``a`` for ``a.b["c"]``."""
    found = []
    while isinstance(place, (Attribute, Item)):
        place = place.base
        found.append(place)
    return found


def _is_renewed(place: Value, loop: Loop) -> bool:
    """Whether the object gets another one for ``place`` in the loop, or is told to start anew: ``stats.reset()``."""
    while isinstance(place, (Attribute, Item)):
        if any(_puts_another(store, place) for store in loop.function.stores if store.region.within(loop)):
            return True
        if any(_may_empty(call, place) for call in loop.function.calls if call.region.within(loop)):
            return True
        place = place.base
    return False


def _puts_another(store: Store, place: Attribute | Item) -> bool:
    if store.base is None or store.augmented or not same_place(store.base, place.base):
        return False
    if isinstance(place, Attribute):
        return store.attribute == place.name
    keys = (place.index[0] if len(place.index) == 1 else None, store.index)
    known = [key.constant for key in keys if isinstance(key, Constant)]
    return store.attribute is None and (len(known) < len(keys) or known[0] == known[1])


def _may_empty(call: Call, place: Attribute | Item) -> bool:
    """Whether ``call`` clears ``place``, or is a method of the object that has it and may do so."""
    if call.receiver is None:
        return False
    if call.method in EMPTYING and same_place(call.receiver, place):
        return True
    if not same_place(call.receiver, place.base) or role(call.receiver, Role.MODULE, Role.ENGINE):
        return False
    functions = callees(call)
    name = getattr(place, "name", None)
    if functions:
        return any(_renews(function, name) for function in functions)
    # A method out of sight that is given nothing: ``stats.reset()``.
    return not call.arguments and instance_class(call.receiver) is None


def _renews(function: Function, name: str | None) -> bool:
    """Whether a method assigns the attribute ``name`` of its instance, or empties what is there."""
    for store in function.lower().stores:
        if store.attribute == name and store.base is not None and instance_class(store.base) is not None:
            return True
    emptying = (call.receiver for call in function.calls if call.method in EMPTYING)
    return any(isinstance(each, Attribute) and each.name == name for each in emptying)


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


def is_reached_from_outside(place: Value) -> bool:
    """Whether ``place`` belongs outside, or is a part of what does: ``self.stats.losses``, ``settings.history``."""
    return belongs_outside(place) or any(map(belongs_outside, _bases(place)))


def is_of_another(place: Value) -> bool:
    """Whether ``place`` is an attribute of an object that is not the instance itself: ``stats.losses``."""
    return isinstance(place, Attribute) and instance_class(place.base) is None


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
