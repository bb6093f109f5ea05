"""Where the state that an object keeps in an attribute is dropped, so that it does not outlive one pass."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import instance_class, mro, sources
from memlint.model.attachment import Attachment, attachment
from memlint.model.calls import call_sites, callees
from memlint.model.effects import Effect, region_effects
from memlint.model.kinds import class_of
from memlint.model.memo import query
from memlint.model.scopes import Class, Function
from memlint.model.values import Branch, Parameter, Region, Store

_MAX_CALLERS = 3
"""Calls that lie between the code that runs a model and the method that drops its state."""


@query(on_cycle=False)
def is_dropped_for_each_pass(updating: Function, attribute: str) -> bool:
    """Whether the state that the method ``updating`` keeps in ``attribute`` is dropped before or after each pass.

    ``self._clear_cache()`` in the ``encode`` of a network, whose blocks keep the last frames in their attributes.
    Dropping it once an epoch does not count: it lives over the steps then.
    """
    owner = updating.owner
    stores = tuple(_dropping(updating, owner, attribute)) if owner is not None else ()
    found = [(store, place) for store in stores for place in _places(store.region, updating, _MAX_CALLERS)]
    if not any(place.function is not store.function or _is_from_outside(store) for store, place in found):
        return False  # Nobody is known to call the method that drops it.
    return not any(_is_outside_steps(place) for _, place in found)


@query(on_cycle=False)
def starts_anew_on_request(updating: Function, attribute: str) -> bool:
    """Whether the method ``updating`` drops the state in ``attribute`` itself, if one of its arguments says so.

    ``if step == 0: self.start(batch)``, where ``start`` assigns zeros.
    """
    owner = updating.owner
    dropped = {store.function for store in _dropping(updating, owner, attribute)} if owner is not None else set()
    own = [store.region for store in updating.stores if store.attribute == attribute and _has_no_graph(store)]
    calls = [call.region for call in updating.calls for function in callees(call) if function in dropped]
    return any(_is_asked_for(region, updating) for region in (*own, *calls))


def _is_asked_for(region: Region, function: Function) -> bool:
    """Whether a branch around ``region`` tests an argument of ``function``."""
    tests = [each.test for each in region.ancestors() if isinstance(each, Branch) and each.test is not None]
    tested = [*tests, *(operand for test in tests for operand in test.operands())]
    return any(
        isinstance(source, Parameter) and source.function is function and source is not function.instance
        for test in tested
        for source in sources(test)
    )


def _dropping(updating: Function, owner: Class, attribute: str) -> Iterator[Store]:
    """The assignments to ``attribute`` of what has no graph, outside of ``updating`` and of constructors."""
    for function in owner.module.functions:
        for store in function.lower().stores if function is not updating and function.name != "__init__" else ():
            if store.attribute == attribute and _may_be_of(store, owner) and _has_no_graph(store):
                yield store


def _has_no_graph(store: Store) -> bool:
    """Whether a constant is stored, or a tensor without a graph: ``torch.zeros(size)``, ``state.detach()``."""
    return attachment(store.value) is Attachment.DETACHED


def _is_from_outside(store: Store) -> bool:
    """Whether the attribute is one of another object: ``for module in model.modules(): module.cache = None``."""
    return store.base is not None and instance_class(store.base) is None


def _may_be_of(store: Store, owner: Class) -> bool:
    """Whether the object whose attribute is set may be an instance of ``owner``."""
    if store.base is None:
        return False
    holder = instance_class(store.base) or class_of(store.base)
    return holder is None or holder in mro(owner) or owner in mro(holder)


def _places(region: Region, updating: Function, depth: int) -> Iterator[Region]:
    """``region`` and the places that lead to it, those in ``updating`` itself left out."""
    if region.function is updating:
        return
    yield region
    for call in call_sites(region.function) if depth and region.function.is_method else ():
        yield from _places(call.region, updating, depth - 1)


def _is_outside_steps(place: Region) -> bool:
    """Whether the function of ``place`` trains in a loop that ``place`` is not in."""
    loops = {loop for call in place.function.calls for loop in call.region.loops()}
    around = set(place.loops())
    return any(region_effects(loop) & Effect.BACKWARD for loop in loops - around)
