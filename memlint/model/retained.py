"""Whether anything needs the graph that a backward keeps (``retain_graph=True``) when that backward is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from memlint.model.aliases import aliases, instance_class, qualified_names, sources
from memlint.model.attachment import Attachment, attachment, is_leaf
from memlint.model.calls import bound_arguments, call_sites, callees, proven_call_sites
from memlint.model.containers import GROWING_METHODS, elements
from memlint.model.effects import Backward, freeing_roots, returns_loss_to_framework, started_roots
from memlint.model.kinds import Role, is_known_other, role
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.upstream import differentiable_operands, local_ancestors
from memlint.model.values import (
    Attribute,
    Branch,
    Call,
    Display,
    Element,
    Exit,
    Item,
    Loop,
    Parameter,
    Part,
    Phi,
    Region,
    Value,
)


class Need(IntEnum):
    """How likely it is that a retained graph is needed."""

    NO = 0
    UNLIKELY = 1
    """Only if what the function is given carries a graph."""
    UNKNOWN = 2
    YES = 3


class _Pass(NamedTuple):
    """A backward as one function sees it: the call that starts it, and the graph that it runs over."""

    call: Call
    graph: tuple[Value, ...]


_MAX_GRAPH = 2000
_MAX_CALLERS = 2


def need_of(backward: Backward) -> Need:
    """Whether a later backward, or the next run of the same one, goes over the graph that ``backward`` retains."""
    graph = tuple(dict.fromkeys(value for root in backward.roots for value in graph_of(root)))
    need = _need(_Pass(backward.call, graph), _MAX_CALLERS)
    return max(need, Need.UNKNOWN) if any(map(_is_kept_by_argument, backward.roots)) else need


def _is_kept_by_argument(root: Value) -> bool:
    """Whether ``root`` is what an object holds that the function was given: its owner may differentiate it as well."""
    if not isinstance(root, Attribute) or instance_class(root.base) is not None:
        return False
    return any(isinstance(source, Parameter) for source in sources(root.base))


@query(on_cycle=())
def graph_of(root: Value) -> tuple[Value, ...]:
    """What a backward from ``root`` runs over as its function sees it: calls and parameters are not looked into."""
    seen: dict[int, Value] = {}
    pending = [root]
    while pending and len(seen) < _MAX_GRAPH:
        value = pending.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            pending.extend(_nearer(value, root))
    return tuple(seen.values())


def _nearer(value: Value, root: Value) -> Iterator[Value]:
    if isinstance(value, Parameter) or (_is_streamed(value) and root.region.within(value.region)):
        return
    yield from differentiable_operands(value)
    yield from aliases(value) or ()
    if isinstance(value, Call):
        # A function that returns what it has stored returns the same graph each time.
        kept = (leaving.value for function in callees(value) for leaving in function.returns)
        yield from (each for each in kept if isinstance(each, Attribute))
    container = value.base if isinstance(value, Item) else value.iterable if isinstance(value, Element) else value
    if role(container, Role.CONTAINER):
        yield from elements(container)


def _is_streamed(value: Value) -> bool:
    """Whether ``value`` is what a ``for`` gets from a loader, or from something that is not known to hold a graph."""
    if role(value, Role.BATCH):
        return True
    if not isinstance(value, Element) or not isinstance(value.region, Loop) or value.region.is_comprehension:
        return False
    return attachment(value) <= Attachment.UNKNOWN and attachment(value.iterable) <= Attachment.UNKNOWN


def _need(run: _Pass, depth: int) -> Need:
    need = max(_need_by_repetition(run), _need_by_others(run), _need_out_of_sight(run), _need_by_choice(run))
    if need is Need.YES or depth == 0:
        return need
    return max([need, *(_need(site, depth - 1) for site in _as_callers_see(run))])


# ----------------------------------------------------------------------- what is shared


def _weight(value: Value) -> Need:
    """How likely it is that a second backward over ``value`` needs what the first one retained for it."""
    if instance_class(value) is not None or is_known_other(value, *_HOLDERS_OF_GRAPHS):
        return Need.NO
    level = attachment(value)
    if level > Attachment.UNKNOWN:
        runs_module = isinstance(value, Call) and role(value.callee, Role.MODULE, Role.ENGINE)
        return Need.YES if runs_module or isinstance(value, (Parameter, Element)) or not is_leaf(value) else Need.NO
    return Need.NO if level is Attachment.DETACHED else _weight_of_unknown(value)


_HOLDERS_OF_GRAPHS = (Role.TENSOR, Role.OUTPUT, Role.CONTAINER, Role.OBJECT, Role.PREPARED)


def _weight_of_unknown(value: Value) -> Need:
    if isinstance(value, Parameter) or _is_streamed(value):
        return Need.UNLIKELY
    if isinstance(value, (Item, Part, Element, Attribute)):
        return min(_weight(value.iterable if isinstance(value, Element) else value.base), Need.UNKNOWN)
    if isinstance(value, Call) and value.receiver is not None and value.method in torch.TENSOR_EVIDENCE:
        return min(_weight(value.receiver), Need.UNKNOWN)
    return Need.UNKNOWN


def _heaviest(values: Iterable[Value]) -> Need:
    return max(map(_weight, values), default=Need.NO)


# ------------------------------------------------------------------- who goes over it again


def _need_by_repetition(run: _Pass) -> Need:
    """Whether the same call goes over parts of the graph again: in the next iteration, or run of an inner function."""
    function = run.call.function
    enclosing = tuple(function.enclosing())
    again = [value for value in run.graph if value.function in enclosing]
    for loop in run.call.region.loops():
        for value in run.graph:
            if value.function is function and not value.region.within(loop):
                again.append(value)
            elif isinstance(value, Phi) and value.loop is loop:
                again.extend(value.carried)
            elif value is loop.element:
                # What the elements were computed from was there before the loop.
                again.append(value)
    stateful = any(_carries_state(each) for value in run.graph if isinstance(value, Call) for each in callees(value))
    return max(_heaviest(again), Need.UNKNOWN if stateful else Need.NO)


@query(on_cycle=False)
def _carries_state(function: Function) -> bool:
    """Whether each run computes an attribute with a graph from what the last run left there, here or further down.

    A statistic that what the function returns does not depend on is no such state: no later backward runs over it.
    """
    returned = {id(each) for exit in function.lower().exits for each in local_ancestors(exit.value)}
    for store in function.lower().stores:
        if store.base is None or store.attribute is None or instance_class(store.base) is None:
            continue
        before = [
            value
            for value in local_ancestors(store.value)
            if isinstance(value, Attribute) and value.name == store.attribute and instance_class(value.base) is not None
        ]
        given_out = any(id(value) in returned for value in (store.value, *before))
        if before and given_out and attachment(store.value) > Attachment.UNKNOWN:
            return True
    return any(_carries_state(each) for call in function.calls for each in callees(call))


def _need_by_others(run: _Pass) -> Need:
    """Whether another backward of the file goes over parts of the graph afterwards."""
    mine = {id(value) for value in run.graph}
    needs = [Need.NO]
    for function in run.call.function.module.functions:
        for user, graph in _other_backwards(function):
            if user is run.call or (isinstance(user, Call) and run.call.function in callees(user)):
                continue
            shared = (value for value in graph if id(value) in mine and _may_follow(run.call, user, value))
            needs.append(_heaviest(shared))
    return max(needs)


def _other_backwards(function: Function) -> Iterator[tuple[Call | Exit, tuple[Value, ...]]]:
    for call in function.calls:
        for root in started_roots(call):
            yield call, graph_of(root)
    if returns_loss_to_framework(function):
        for leaving in function.returns:
            yield leaving, graph_of(leaving.value)


def _may_follow(first: Call, user: Call | Exit, shared: Value) -> bool:
    """Whether ``user`` may run after ``first`` while the same ``shared`` value is there."""
    if user.function is not first.function or shared.function is not first.function:
        return True
    if user.order > first.order and not _exclude_each_other(first.region, user.region):
        return True
    return any(user.region.within(loop) and not shared.region.within(loop) for loop in first.region.loops())


def _exclude_each_other(one: Region, other: Region) -> bool:
    """Whether at most one of two regions runs, since they lie in different branches of one ``if``."""
    mine = [region for region in one.ancestors() if isinstance(region, Branch)]
    theirs = [region for region in other.ancestors() if isinstance(region, Branch)]
    return any(b is not a and b in a.siblings and b.negated != a.negated for a in mine for b in theirs)


def _need_by_choice(run: _Pass) -> Need:
    """Whether the author chooses between keeping and freeing the same graph, for a reason that may be out of sight."""
    roots = {id(value) for value in run.graph}
    choices = [
        call
        for call in run.call.function.calls
        if call is not run.call and _exclude_each_other(call.region, run.call.region)
        if any(id(root) in roots for root in freeing_roots(call))
    ]
    return Need.UNKNOWN if choices else Need.NO


def _need_out_of_sight(run: _Pass) -> Need:
    """Whether code that is not in sight gets parts of the graph afterwards, and may run a backward over them."""
    mine = {id(value) for value in run.graph}
    given = [
        value
        for call in run.call.function.calls
        if call.order > run.call.order and _is_out_of_sight(call)
        for argument in call.arguments
        for value in graph_of(argument.value)
        if id(value) in mine
    ]
    return max(min(_heaviest(given), Need.UNKNOWN), _need_of_strangers(run))


def _need_of_strangers(run: _Pass) -> Need:
    """How likely callers that are not in sight run a backward over what they get.

    They have the loss itself only to look at; what is computed from it, as by the loss functions of GANs that balance
    gradients first, is not there for nothing.
    """
    if call_sites(run.call.function):
        return Need.NO
    if _returns_more(run):
        return Need.UNKNOWN
    return Need.UNLIKELY if _returned_with(run) else Need.NO


def _returns_more(run: _Pass) -> bool:
    """Whether the function returns something that is computed from the graph, and no part of it."""
    mine = {id(value) for value in run.graph}
    returned = [
        value
        for leaving in run.call.function.exits
        for source in sources(leaving.value)
        for value in (source.elements if isinstance(source, Display) else (source,))
    ]
    return any(
        id(value) not in mine and any(id(each) in mine and _weight(each) > Need.NO for each in graph_of(value))
        for value in returned
    )


def _is_out_of_sight(call: Call) -> bool:
    """Whether neither the project nor what is known of libraries tells what ``call`` does with its arguments."""
    if callees(call) or call.method in frameworks.DETACHING_SINK_METHODS | GROWING_METHODS:
        return False
    if call.name.startswith("on_"):
        return False  # A callback is told of the step, and takes no part in it.
    if role(call.callee, Role.MODULE, Role.LOSS_FUNCTION, Role.ENGINE) or call.method in torch.TENSOR_EVIDENCE:
        return False
    known = (*torch.FUNCTION_MODULES, *torch.DETACHING_ROOTS, *frameworks.METRIC_ROOTS, "builtins.")
    names = qualified_names(call.callee)
    return not names or not all(name.startswith(known) for name in names)


def _returned_with(run: _Pass) -> list[Exit]:
    """Where the function hands out parts of the graph."""
    mine = {id(value) for value in run.graph}
    return [
        leaving
        for leaving in run.call.function.exits
        if any(id(value) in mine and _weight(value) > Need.UNLIKELY for value in graph_of(leaving.value))
    ]


def _as_callers_see(run: _Pass) -> Iterator[_Pass]:
    """The same backward in the functions that pass what it runs over, or get what it ran over."""
    function = run.call.function
    handed_in = {value.name for value in run.graph if isinstance(value, Parameter) and value.function is function}
    handed_out = bool(_returned_with(run))
    for site in proven_call_sites(function):
        bound = bound_arguments(site, function)
        graph = [value for name in handed_in if name in bound for value in graph_of(bound[name])]
        yield _Pass(site, (*graph, site) if handed_out else tuple(graph))
