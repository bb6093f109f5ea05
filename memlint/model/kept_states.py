"""How the state of a model is kept while it trains on: as a copy, or as what it is, which goes on changing."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from memlint.model.aliases import instance_class, qualified_names, sources
from memlint.model.calls import proven_call_sites
from memlint.model.containers import container_origins
from memlint.model.destinations import Destination, destinations
from memlint.model.effects import Effect, effects, region_effects
from memlint.model.states_left_behind import move_after
from memlint.model.values import (
    Attribute,
    Binary,
    Branch,
    Call,
    Choice,
    Comparison,
    Comprehension,
    Constant,
    Display,
    Element,
    Exit,
    Loop,
    Part,
    Region,
    Store,
    Unary,
    Value,
)


class Form(Enum):
    """What is kept of a state."""

    ITSELF = auto()
    """The tensors of the model."""
    COPY = auto()
    """Tensors of their own, on the same device."""


class KeptState(NamedTuple):
    """A ``state_dict()`` that is stored as the best so far."""

    state: Call
    form: Form
    made: Value
    """What makes the copy, or holds the state."""
    store: Store
    loop: Loop | None
    """The loop that trains and stores it; None for an object that is told of each result."""


def kept_states(state: Call) -> Iterator[KeptState]:
    """The stores that keep ``state`` on improvement, by whatever way it goes there."""
    for value, form in _carriers(state):
        for use in value.uses:
            if isinstance(use, Store) and use.value is value and use.index is None:
                loop = _improving_loop(use)
                if loop is not None or _is_kept_by_object(use):
                    yield KeptState(state, form, value, use, loop)


def starting_states(state: Call) -> Iterator[KeptState]:
    """Copies of ``state`` that are made once, outside of loops, and serve at most to go back to it.

    Not of a module that moves to the device afterwards, whose copy stays in host memory.
    """
    if state.region.loop is not None or move_after(state) is not None:
        return
    for value, form in _carriers(state):
        if form is not Form.COPY or value.function is not state.function:
            continue
        store = next((use for use in value.uses if isinstance(use, Store) and use.index is None), None)
        if store is None or _is_replaced(store) or not _outlives_training(store):
            continue
        if all(map(_goes_back, destinations(value))):
            yield KeptState(state, form, value, store, None)


def _is_replaced(store: Store) -> bool:
    """Whether something else may take the place of what is stored, as better weights do in the end."""
    owner = instance_class(store.base) if store.base is not None else None
    stores = store.function.stores if owner is None else owner.instance_stores.get(store.attribute or "", ())
    others = stores if owner is not None else [other for other in stores if other.key == store.key]
    return any(other is not store and not isinstance(other.value, Constant) for other in others)


def _outlives_training(store: Store) -> bool:
    """Whether an object keeps it, or a function that trains afterwards."""
    if store.base is not None:
        return store.attribute is not None and instance_class(store.base) is not None
    return any(call.order > store.order and effects(call) & Effect.STEP for call in store.function.calls)


def _goes_back(use: Destination) -> bool:
    """Whether a use loads the state into a module, or keeps it and hands it to nobody."""
    if isinstance(use.user, Value):
        return isinstance(use.user, Call) and use.user.name == "load_state_dict"
    return not any(isinstance(each, Exit) for each in use.value.uses)


def states_in_lists(state: Call) -> Iterator[tuple[Value, Form]]:
    """What a loop that trains puts of ``state`` into a list that was there before it, after each of its iterations.

    A model that the loop makes anew has a state of its own each time.
    """
    loops = list(state.region.loops())
    trains = any(region_effects(loop) & Effect.STEP for loop in loops)
    if not trains or state.receiver is None or any(s.region.within(loops[-1]) for s in sources(state.receiver)):
        return
    for value, form in _carriers(state):
        if value.function is state.function and any(is_put_into_list(use, value, loops[-1]) for use in value.uses):
            yield value, form


def is_put_into_list(use: object, value: Value, loop: Loop) -> bool:
    """Whether ``use`` appends ``value`` to a list that was there before ``loop``."""
    if not isinstance(use, Call) or use.method != "append" or use.receiver is None or use.callee is value:
        return False
    made = container_origins(use.receiver)
    return bool(made) and not any(origin.region.within(loop) for origin in made)


_MAX_STEPS = 20
_PASSING = frozenset({"builtins.dict", "collections.OrderedDict", "copy.copy"})


def _carriers(state: Call) -> Iterator[tuple[Value, Form]]:
    """The values that are the state, hold it, or are copies of it."""
    pending: list[tuple[Value, Form]] = [(state, Form.ITSELF)]
    seen: set[int] = set()
    while pending and len(seen) < _MAX_STEPS:
        value, form = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value, form
        for use in value.uses:
            pending += _next(value, form, use)


def _next(value: Value, form: Form, use: object) -> Iterator[tuple[Value, Form]]:
    match use:
        case Exit(kind="return"):
            yield from ((site, form) for site in proven_call_sites(use.function))
        case Display():
            yield use, form
        case Call() if use.callee is not value:
            names = qualified_names(use.callee)
            if "copy.deepcopy" in names:
                yield use, Form.COPY
            elif names & _PASSING and value in use.positional():
                yield use, form
        case Attribute(name="copy"):
            yield from ((call, form) for call in use.uses if isinstance(call, Call) and call.callee is use)
        case Attribute(name="items"):
            yield from _rebuilt(use, form)


def _rebuilt(items: Attribute, form: Form) -> Iterator[tuple[Value, Form]]:
    """``{k: v for k, v in state.items()}``, and with copies of each ``v`` on the same device."""
    for call in items.uses:
        for use in call.uses if isinstance(call, Call) and call.callee is items else ():
            for made in use.uses if isinstance(use, Element) else ():
                yield from _entries(made, form)


def _entries(entry: object, form: Form) -> Iterator[tuple[Value, Form]]:
    value: object = entry
    while isinstance(value, Part) or (isinstance(value, Call) and value.method in _KEEPING_DEVICE):
        if isinstance(value, Call) and value.method == "clone":
            form = Form.COPY
        for use in value.uses:
            if isinstance(use, Comprehension) and use.kind == "dict" and use.element is value:
                yield use, form
        read = next((use for use in value.uses if isinstance(use, Attribute)), None)
        value = next((use for use in read.uses if isinstance(use, Call)), None) if read is not None else None


_KEEPING_DEVICE = frozenset({"detach", "clone", "contiguous"})


def _improving_loop(store: Store) -> Loop | None:
    """The loop that trains and runs ``store`` in some of its iterations."""
    conditional = False
    for region in store.region.ancestors():
        conditional = conditional or (isinstance(region, Branch) and region.test is not None)
        if isinstance(region, Loop):
            return region if conditional and region_effects(region) & Effect.STEP else None
    return None


def _is_kept_by_object(store: Store) -> bool:
    """Whether a method keeps the state as an attribute where one number is better than another: early stopping."""
    if store.base is None or store.attribute is None or instance_class(store.base) is None:
        return False
    return any(isinstance(region, Branch) and _compares(region) for region in _within_function(store.region))


def _within_function(region: Region) -> Iterator[Region]:
    return (each for each in region.ancestors() if each.function is region.function)


_ORDERS = frozenset({"<", ">", "<=", ">="})


def _compares(branch: Branch) -> bool:
    """Whether the test of ``branch``, or of one that came before it, asks which of two values is larger."""
    pending = [each.test for each in branch.siblings if each.test is not None]
    seen: set[int] = set()
    while pending:
        for value in (current := pending.pop(), *sources(current)):
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, Comparison) and not _ORDERS.isdisjoint(value.operators):
                return True
            if isinstance(value, (Binary, Choice, Unary, Comparison)):
                pending.extend(value.operands())
    return False


def is_loaded_after(kept: KeptState) -> bool:
    """Whether a model loads what was kept, once the loop has ended or elsewhere."""
    end = kept.loop.last if kept.loop is not None else kept.store.order
    return any(
        isinstance(use.user, Call)
        and use.user.name == "load_state_dict"
        and use.user.callee is not use.value
        and (use.user.function is not kept.store.function or use.user.order > end)
        for use in destinations(kept.made)
    )
