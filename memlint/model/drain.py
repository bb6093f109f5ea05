"""Whether a backward has freed what a graph saves.

A backward without ``retain_graph`` frees the saved tensors of every node that it runs over, and only those. A value is
*drained* when all that it was computed from lies upstream of such a backward: what it keeps alive is then graph nodes
(host memory), not activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from enum import Enum

from memlint.model.attachment import Attachment, attachment
from memlint.model.calls import call_sites, proven_call_sites
from memlint.model.effects import backward_roots, freeing_roots
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.upstream import ancestors, graph_sources
from memlint.model.values import Branch, Call, Region, Value


class Drain(str, Enum):
    """Whether a backward has freed what a value's graph saves."""

    DRAINED = "drained"
    UNDRAINED = "undrained"
    UNKNOWN = "unknown"


def drain(value: Value) -> Drain:
    """Whether a freeing backward runs over everything that ``value`` was computed from."""
    freed = _freed(value.function.module)
    if _is_covered(value, freed):
        return Drain.DRAINED
    if graph_sources(value):
        return Drain.UNDRAINED
    return Drain.UNDRAINED if not freed and not _escapes_to_caller(value.function) else Drain.UNKNOWN


def _is_covered(value: Value, freed: AbstractSet[int]) -> bool:
    """Whether all that ``value`` was computed from is among ``freed`` (ids of values)."""
    if id(value) in freed:
        return True
    upstream = graph_sources(value)
    if upstream:
        return all(id(call) in freed for call in upstream)
    return any(id(ancestor) in freed and attachment(ancestor) > Attachment.UNKNOWN for ancestor in ancestors(value))


def drained_within(value: Value, region: Region) -> bool:
    """Whether a freeing backward inside ``region`` runs over all that ``value`` was computed from.

    A later backward through ``value`` would then raise, so nothing that keeps it can be there for one.
    """
    covering = _covering(value, region)
    return bool(covering) and _is_unconditional(covering, region)


def drained_on_some_paths(value: Value, region: Region) -> bool:
    """Whether freeing backwards inside ``region`` run over ``value`` under a condition only."""
    covering = _covering(value, region)
    return bool(covering) and not _is_unconditional(covering, region)


def _covering(value: Value, region: Region) -> list[Call]:
    """The calls inside ``region`` that start a freeing backward over what ``value`` was computed from."""
    starting = [call for call in region.function.calls if call.region.within(region) and any(freeing_roots(call))]
    if not _is_covered(value, _freed_by(starting)):
        return []
    return [call for call in starting if _is_covered(value, _freed_by((call,)))] or starting


def _is_unconditional(calls: list[Call], region: Region) -> bool:
    """Whether one of ``calls`` runs each time that ``region`` does: one without condition, or one on every branch."""
    taken = {id(branch) for call in calls for branch in _branches(call, region)[-1:]}
    for call in calls:
        branches = _branches(call, region)
        if not branches or all(id(sibling) in taken for sibling in branches[-1].siblings):
            return True
    return False


def _branches(call: Call, region: Region) -> list[Branch]:
    """The branches around ``call`` within ``region``, innermost first."""
    found: list[Branch] = []
    for ancestor in call.region.ancestors():
        if ancestor is region:
            break
        if isinstance(ancestor, Branch) and not ancestor.follows:
            found.append(ancestor)
    return found


def drained_outside(value: Value, region: Region) -> bool:
    """Whether a freeing backward of the same function, outside ``region``, runs over all that ``value`` comes from."""
    return _is_covered(value, _freed_by(call for call in region.function.calls if not call.region.within(region)))


def _freed_by(calls: Iterable[Call]) -> set[int]:
    return {id(ancestor) for call in calls for root in freeing_roots(call) for ancestor in ancestors(root)}


def _escapes_to_caller(function: Function) -> bool:
    return bool(function.returns) and function.parent is not None and not call_sites(function)


@query(on_cycle=frozenset())
def _freed(module: Module) -> frozenset[int]:
    """Ids of the values that a freeing backward of the file, or of a caller that gets what is returned, runs over."""
    found: set[int] = set()
    for function in module.functions:
        for root in (*backward_roots(function, freeing=True), *_returned_roots(function)):
            found.update(id(ancestor) for ancestor in ancestors(root))
    return frozenset(found)


def _returned_roots(function: Function) -> Iterator[Value]:
    """Returned values that a caller in another file runs a backward over."""
    if not function.returns or function.parent is None:
        return
    for call in proven_call_sites(function):
        if call.function.module is function.module:
            continue
        for root in backward_roots(call.function, freeing=True):
            if any(ancestor is call for ancestor in ancestors(root)):
                yield from (exit.value for exit in function.returns)
                return
