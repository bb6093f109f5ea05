"""Whether what outlives an iteration or a call keeps graphs alive, and how sure that is."""

from __future__ import annotations

from memlint.findings import Confidence
from memlint.model.accumulations import joined
from memlint.model.aliases import qualified_names, sources
from memlint.model.attachment import Attachment, attachment, certainty, hands_on
from memlint.model.calls import (
    callees,
    passed_arguments,
)
from memlint.model.downstream import Reach, reaches_gradient
from memlint.model.drain import Drain, drain, drained_on_some_paths, drained_outside, drained_within
from memlint.model.effects import started_roots
from memlint.model.forwards import runs_module
from memlint.model.gradmode import is_part_of_forward
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.loops import iterates_over_data, iterates_over_parts, takes_next
from memlint.model.numpy_reads import is_read_by_numpy
from memlint.model.scopes import Function
from memlint.model.spans import Span, is_deleted_after_use, loops_outlived
from memlint.model.stashes import insertions_in
from memlint.model.upstream import graph_sources, local_ancestors
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Comprehension,
    Element,
    Free,
    Item,
    Loop,
    Parameter,
    Part,
    Phi,
    Store,
    Value,
)


def is_made_anew(added: Value, kept: Value, loop: Loop | None) -> bool:
    """Whether ``kept`` gets another graph in each iteration of ``loop``, or of one around it that the holder outlives.

    Without a loop it is the call that gets another one.
    """
    return loop is None or any(_is_made_within(added, each) for each in _lived_through(kept, loop))


def _is_made_within(value: Value, loop: Loop) -> bool:
    """Whether the graph of ``value`` is built in each iteration of ``loop`` (or in a function called there)."""
    modules = graph_sources(value)
    if modules and _all_run_before(modules, value, loop):
        return False  # Parts of one output, which is there before: what the loop adds to its graph is small.
    if modules and _comes_from_callers(value, loop):
        return False
    upstream = list(local_ancestors(value))
    inside = [a for a in upstream if a.region.within(loop) and attachment(a) > Attachment.UNKNOWN]
    if any(isinstance(a, Element) and _yields(a.iterable) for a in inside):
        return True
    if any(isinstance(a, Call) and not hands_on(a) for a in inside):
        return True
    if any(isinstance(a, Call) and attachment(a) > Attachment.UNKNOWN and not hands_on(a) for a in upstream):
        return False
    return any(not isinstance(a, Phi) and not _is_taken_out(a) and not _is_part_from_before(a, loop) for a in inside)


def _all_run_before(modules: tuple[Value, ...], value: Value, loop: Loop) -> bool:
    """Whether the modules behind ``value`` are run before ``loop``, by its function or by those that it calls there.

    A function that is called in the loop as well may have modules behind it that other callers run.
    """
    if all(call.function is loop.function and not call.region.within(loop) for call in modules):
        return True
    local = list(local_ancestors(value))
    if any(isinstance(each, _HANDED_IN) and attachment(each) > Attachment.UNKNOWN for each in local):
        return False
    running = [each for each in local if isinstance(each, Call) and (each in modules or _runs_module_inside(each))]
    return bool(running) and not any(call.region.within(loop) for call in running)


_HANDED_IN = (Parameter, Attribute, Free, Element)


def _runs_module_inside(call: Call) -> bool:
    return any(map(runs_module, callees(call)))


def _is_part_from_before(value: Value, loop: Loop) -> bool:
    """Whether ``value`` is a part of a tensor that was there before ``loop``: ``weight[offset : offset + size]``."""
    return isinstance(value, Item) and not any(source.region.within(loop) for source in sources(value.base))


def _comes_from_callers(value: Value, loop: Loop) -> bool:
    """Whether the function was given the graph of ``value``, and ``loop`` runs no module or function on it."""
    upstream = list(local_ancestors(value))
    calls = (each for each in upstream if isinstance(each, Call) and each.region.within(loop))
    if any(role(call.callee, Role.MODULE) or callees(call) for call in calls):
        return False
    carrying = (each for each in upstream if isinstance(each, Parameter) and attachment(each) > Attachment.UNKNOWN)
    return any(each is not loop.function.instance for each in carrying)


def _is_taken_out(value: Value) -> bool:
    """Whether ``value`` was put into a container before: ``v`` in ``for k, v in d.items()``."""
    match value:
        case Part() | Item() if isinstance(value.base, Call) and callees(value.base):
            return False  # What the function returned, however it is packed.
        case Part() | Item():
            return role(value.base, Role.CONTAINER) is not None or _is_taken_out(value.base)
        case Element():
            made = sources(value.iterable)
            listed = all(isinstance(each, Call) and each.method in {"items", "values"} for each in made)
            return listed or role(value.iterable, Role.CONTAINER) is not None
        case Call():
            return hands_on(value)
    return False


def _yields(iterable: Value) -> bool:
    """Whether each element is computed when it is asked for: by a generator of the project, paired or not."""
    for source in sources(iterable):
        if not isinstance(source, Call):
            continue
        if any(function.is_generator for function in callees(source)):
            return True
        if qualified_names(source.callee) & torch.PASSING_BUILTINS and any(map(_yields, source.positional())):
            return True
    return False


def retention_confidence(kept: Value, added: Value, span: Span, loop: Loop | None) -> Confidence | None:
    """How sure it is that keeping ``added`` in ``kept`` is a hazard; None if it is differentiated later or bounded.

    What a freeing backward inside the loop has run over cannot be differentiated again, wherever it goes. A test is
    over before what it keeps counts, and what NumPy reads has no graph when the code runs.
    """
    if added.function.module.is_test or is_read_by_numpy(kept) or (span is Span.CALL and is_deleted_after_use(kept)):
        return Confidence.POSSIBLE
    if any(drained_within(added, each) and not _feeds_backward_in(kept, each) for each in _lived_through(kept, loop)):
        return Confidence.POSSIBLE if _ends_with_batch(kept, loop) else certainty(added)
    reach = reaches_gradient(kept)
    if reach is Reach.YES:
        return None
    if loop is not None and (_is_alive_anyway(added, loop) or _is_bounded(kept, added, loop)):
        return Confidence.POSSIBLE
    if span is Span.ITERATION and added.function.name != "forward" and is_part_of_forward(added.function):
        return Confidence.POSSIBLE  # It is gone with the pass, and whoever runs the module decides on the mode.
    drained = drain(added) is Drain.DRAINED
    if span is Span.ITERATION and loop is not None and drained and drained_outside(added, loop):
        # The one backward that frees it runs after the loop: the graphs are alive together in any case.
        return None
    if reach is Reach.UNKNOWN:
        # What may be differentiated out of sight has to be known to carry a graph, and one that is freed for sure.
        freed = drained and (loop is None or not drained_on_some_paths(added, loop))
        return certainty(added) if freed and attachment(added) is Attachment.CERTAIN else Confidence.POSSIBLE
    return certainty(added)


def _is_alive_anyway(added: Value, loop: Loop) -> bool:
    """Whether another container keeps the graph of the modules behind ``added``, for a later backward.

    Entropies that are collected for a report, beside the log-probabilities that the loss is made of.
    """
    behind = {id(call) for call in graph_sources(added)}
    return bool(behind) and any(
        insertion.event.region.within(loop)
        and behind <= {id(call) for call in graph_sources(insertion.value)}
        and reaches_gradient(insertion.container) is Reach.YES
        for insertion in insertions_in(loop.function)
        if insertion.value is not added
    )


def _is_bounded(kept: Value, added: Value, loop: Loop) -> bool:
    """Whether no more is kept than is alive anyway: for each layer, for pieces of one tensor, or what a chain holds."""
    lived = _lived_through(kept, loop)
    return _works_on_pieces(added, loop) or all(map(iterates_over_parts, lived)) or _is_link(added, loop)


def _is_link(added: Value, loop: Loop) -> bool:
    """Whether the next iteration computes its value from ``added``, whose graph the last one holds in any case.

    The returns of an episode, the states of a recurrent network: ``g = r + gamma * g; returns.append(g)``.
    """
    heads = [phi for phi in loop.phis.values() if any(value is added for value in joined(phi.carried))]
    return any(ancestor in heads for ancestor in local_ancestors(added) if isinstance(ancestor, Phi))


_PIECES = frozenset({"split", "chunk", "unbind", "tensor_split"})


def _works_on_pieces(added: Value, loop: Loop) -> bool:
    """Whether the loop only computes on pieces of one tensor, whose graph is there before and bounds what is kept."""
    in_pieces = loop.iterable is not None and any(
        isinstance(source, Call) and source.name in _PIECES for source in sources(loop.iterable)
    )
    return in_pieces and not any(call.region.within(loop) for call in graph_sources(added))


def _lived_through(kept: Value, loop: Loop | None) -> list[Loop]:
    """``loop`` and the loops around it over whose iterations the holder lives that ``kept`` is, or is stored in."""
    if loop is None:
        return []
    stored_in = [use.base for use in kept.uses if isinstance(use, Store) and use.value is kept and use.base is not None]
    wider = loops_outlived(stored_in[0] if stored_in else kept, loop)
    return [loop, *(each for each in wider if each is not loop)]


def _ends_with_batch(kept: Value, loop: Loop | None) -> bool:
    """Whether the holder starts anew for each batch, whose few steps it counts: those of the discriminator in a GAN."""
    lived = _lived_through(kept, loop)
    around = [each for each in lived[-1].loops() if each not in lived] if lived else []
    over_data = any(iterates_over_data(each) is not None for each in around)
    return over_data and not any(iterates_over_data(each) is not None or takes_next(each) for each in lived)


def _feeds_backward_in(kept: Value, loop: Loop) -> bool:
    """Whether a backward inside the loop starts from the holder itself."""
    return any(
        ancestor is kept
        for call in loop.function.calls
        if call.region.within(loop)
        for root in started_roots(call)
        for ancestor in local_ancestors(root)
    )


_MAX_NESTING = 3
"""Modules around a module that hand their own input on to it."""


def depends_on_input(value: Value, function: Function, depth: int = _MAX_NESTING) -> bool:
    """Whether ``value`` is computed differentiably from what a forward method gets from callers out of sight.

    The input of a module inside a network is an activation; only the first module gets what needs no gradient.
    """
    if function.name != "forward":
        return False
    for ancestor in local_ancestors(value):
        if isinstance(ancestor, Parameter) and ancestor.function is function and ancestor is not function.instance:
            passed = passed_arguments(ancestor) if depth else ()
            handed_on = passed is None or (
                bool(passed) and all(depends_on_input(given, given.function, depth - 1) for given in passed)
            )
            return handed_on and attachment(ancestor) is Attachment.UNKNOWN
    return False


def is_replaced_before(value: Value, event: Call | Store | Binary | Comprehension) -> bool:
    """Whether the attached part of a dict or list has been overwritten by something detached before ``event``."""
    for use in value.uses:
        if not isinstance(use, Store) or use.base is not value or use.index is None:
            continue
        if use.order < event.order and attachment(use.value) is Attachment.DETACHED:
            return True
    return False
