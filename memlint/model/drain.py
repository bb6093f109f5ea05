"""Whether a backward has freed what a graph saves.

A backward without ``retain_graph`` frees the saved tensors of every node that it runs over, and only those. A value is
*drained* when all that it was computed from lies upstream of such a backward: what it keeps alive is then graph nodes
(host memory), not activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from enum import Enum

from memlint.model.attachment import Attachment, attachment, keeps_graph, records
from memlint.model.calls import call_sites, callees, has_callers_out_of_sight, proven_call_sites
from memlint.model.effects import backward_of, backward_roots, freeing_roots
from memlint.model.footprint import Footprint, footprint
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.upstream import ancestors, graph_sources, local_ancestors
from memlint.model.values import Binary, Branch, Call, Choice, Phi, Region, Unary, Value


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
    upstream = graph_sources(value)
    if upstream:
        return (
            Drain.UNKNOWN
            if any(isinstance(each, Call) and _is_handed_out(each) for each in upstream)
            else Drain.UNDRAINED
        )
    return Drain.UNDRAINED if not freed and not _escapes_to_caller(value.function) else Drain.UNKNOWN


def _is_covered(value: Value, freed: AbstractSet[int]) -> bool:
    """Whether all that ``value`` was computed from is among ``freed`` (ids of values)."""
    if id(value) in freed:
        return True
    upstream = graph_sources(value)
    if upstream:
        return all(id(call) in freed for call in (*upstream, *_calls_with_graph(value)))
    return any(id(ancestor) in freed and attachment(ancestor) > Attachment.UNKNOWN for ancestor in ancestors(value))


def _calls_with_graph(value: Value) -> Iterator[Value]:
    """The calls of the project's functions in the function of ``value`` that bring a graph of modules into it.

    What they run may be freed for another caller, and not for this one, unless they free it themselves.
    """
    for each in local_ancestors(value):
        functions = callees(each) if isinstance(each, Call) else ()
        if functions and _runs_module(each) and not all(map(_frees_what_it_returns, functions)):
            yield each


@query(on_cycle=False)
def _frees_what_it_returns(function: Function) -> bool:
    """Whether freeing backwards that ``function`` starts run over all of what it returns with a graph."""
    freed = _freed_by(function.lower().calls)
    kept = [leaving.value for leaving in function.returns if keeps_graph(leaving.value)]
    return bool(kept) and all(_is_covered(value, freed) for value in kept)


def is_branch(value: Value) -> bool:
    """Whether freeing backwards run over a part of the graph of ``value``, but not over a branch that saves tensors.

    So it is with ``features.norm()`` and with a further loss on ``features`` that is only logged.
    """
    freed = _freed(value.function.module)
    upstream = ancestors(value)
    if not any(id(each) in freed and _runs_module(each) for each in upstream):
        return False
    return any(id(each) not in freed and _saves(each) for each in upstream)


def _runs_module(value: Value) -> bool:
    return isinstance(value, Call) and attachment(value) > Attachment.UNKNOWN and bool(graph_sources(value))


def _saves(value: Value) -> bool:
    """Whether autograd saves tensors, and more than single numbers, for the operation that computes ``value``."""
    if not records(value):
        return False
    match value:
        case Binary(operator="*" | "/" | "@" | "**"):
            tensors = [each for each in value.operands() if not role(each, Role.NUMBER)]
            return len(tensors) > 1 - (value.operator == "**") and not all(map(is_scalar, tensors))
        case Call():
            given = [argument.value for argument in value.arguments]
            tensors = [each for each in (value.receiver, *given) if each is not None and keeps_graph(each)]
            return value.name not in _SAVING_NOTHING and not (tensors and all(map(is_scalar, tensors)))
    return False


_SAVING_NOTHING = frozenset(
    """
    add sub neg sum mean view reshape flatten transpose permute squeeze unsqueeze expand expand_as view_as t contiguous
    clone cpu cuda to float half double bfloat16 type type_as chunk split unbind narrow select cat stack concat hstack
    vstack repeat roll flip gather scale
    """.split()
)
"""Functions and methods of tensors for which autograd saves no tensor, or indices only."""


@query(on_cycle=False)
def is_scalar(value: Value) -> bool:
    """Whether ``value`` has one element: it is a loss, or a term of one."""
    if footprint(value) is Footprint.SCALAR or id(value) in _terms(value.function.module):
        return True
    match value:
        case Binary():
            return all(is_scalar(each) or bool(role(each, Role.NUMBER)) for each in value.operands())
        case Unary():
            return is_scalar(value.operand)
        case Call(method=str()) if value.receiver is not None and value.method not in {"expand", "repeat", "tile"}:
            return value.method in torch.TENSOR_EVIDENCE and is_scalar(value.receiver)
    return False


@query(on_cycle=frozenset())
def _terms(module: Module) -> frozenset[int]:
    """Ids of the values that backwards start from, and of what those are the sum or the scaled value of."""
    pending = [root for function in module.functions for call in function.calls for root in _losses(call)]
    found: set[int] = set()
    while pending:
        value = pending.pop()
        if id(value) in found:
            continue
        found.add(id(value))
        if isinstance(value, (Binary, Phi, Choice, Unary)):
            pending.extend(value.operands())
        elif isinstance(value, Call) and value.name in {"scale", "add", "mul", "div"}:
            pending.extend(argument.value for argument in value.arguments)
    return frozenset(found)


def _losses(call: Call) -> tuple[Value, ...]:
    """What ``call`` starts a backward from, if no gradient is given, so that it has one element."""
    backward = backward_of(call)
    if backward is None or len(backward.roots) != 1 or call.name == "grad":
        return ()
    given = call.argument("gradient", 0) if backward.roots[0] is call.receiver else None
    return backward.roots if given is None else ()


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
    """The calls inside ``region`` that run a freeing backward over what ``value`` was computed from."""
    starting = [call for call in region.function.calls if call.region.within(region) and any(freeing_roots(call))]
    if _is_covered(value, _freed_by(starting)):
        return [call for call in starting if _is_covered(value, _freed_by((call,)))] or starting
    return [call for call in _steps_behind(value) if call.region.within(region)]


def _steps_behind(value: Value) -> tuple[Call, ...]:
    """The calls that all of the graph of ``value`` comes from, if each runs a freeing backward over it by itself."""
    behind = [each for each in local_ancestors(value) if isinstance(each, Call) and keeps_graph(each)]
    freed = [bool(callees(each)) and all(map(_frees_what_it_returns, callees(each))) for each in behind]
    return tuple(behind) if all(freed) else ()


def _is_unconditional(calls: list[Call], region: Region) -> bool:
    """Whether one of ``calls`` frees each time that ``region`` runs: one without condition, or one on every branch."""
    calls = [call for call in calls if all(map(_frees_on_every_path, callees(call)))]
    taken = {id(branch) for call in calls for branch in _branches(call, region)[-1:]}
    for call in calls:
        branches = _branches(call, region)
        if not branches or all(id(sibling) in taken for sibling in branches[-1].siblings):
            return True
    return False


@query(on_cycle=False)
def _frees_on_every_path(function: Function) -> bool:
    """Whether ``function`` runs a freeing backward whatever its conditions say, or none at all by itself."""
    starting = [call for call in function.calls if any(freeing_roots(call))]
    return not starting or _is_unconditional(starting, function.body)


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


def _is_handed_out(call: Call) -> bool:
    """Whether a function hands what ``call`` computes, with its graph, to callers that are not in sight."""
    return _escapes_to_caller(call.function) and any(
        ancestor is call for exit in call.function.returns for ancestor in local_ancestors(exit.value)
    )


def _escapes_to_caller(function: Function) -> bool:
    if not function.returns or function.parent is None:
        return False
    return not call_sites(function) or has_callers_out_of_sight(function)


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
