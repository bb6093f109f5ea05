"""What is put into containers that outlive the iteration or the call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from memlint.model.aliases import base_names, qualified_names, same_place, sources
from memlint.model.attachment import hands_on
from memlint.model.calls import callees
from memlint.model.containers import (
    GROWING_METHODS,
    Insertion,
    insertions_of,
    is_container,
    names_of,
)
from memlint.model.deposits import fillings
from memlint.model.detaching import attached_members
from memlint.model.drain import Drain, drain
from memlint.model.effects import calls_in
from memlint.model.gradmode import GradMode, grad_mode, is_lightning_module, is_part_of_forward
from memlint.model.instances import instance_kind
from memlint.model.kinds import Role, class_of, is_known_other, kinds
from memlint.model.loops import iterates_over_parts
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.spans import Span, belongs_outside, container_span, is_of_another, tensor_span
from memlint.model.upstream import graph_sources, local_ancestors
from memlint.model.values import (
    Call,
    Comprehension,
    Constant,
    Display,
    Exit,
    Loop,
    Occurrence,
    Store,
    Value,
    operand_occurrences,
)


class Stash(NamedTuple):
    """A container that outlives the iteration or call gets ``value``."""

    insertion: Insertion
    span: Span
    loop: Loop | None

    @property
    def occurrence(self) -> Occurrence:
        """What is put in, where it is written."""
        return Occurrence(self.insertion.value, self.insertion.node)


@query(on_cycle=())
def stashes(function: Function) -> tuple[Stash, ...]:
    """What one function puts into containers that outlive the iteration (or, without a loop, the call)."""
    return tuple(_stashes(function))


def _stashes(function: Function) -> Iterator[Stash]:
    for insertion in insertions_in(function):
        if class_of(insertion.container) is not None:
            continue  # What a class of the project keeps is told by its own methods.
        if _is_told_otherwise(insertion) or _replaces_entries(insertion) or _is_array(insertion.container):
            continue
        if _is_written_in_part(insertion):
            continue
        span, loop = container_span(insertion.container, insertion.event.region)
        if span is not None:
            yield Stash(insertion, span, loop)


def _is_told_otherwise(insertion: Insertion) -> bool:
    """Whether a method such as ``update`` is one of a library's object, which may keep numbers: a meter, a writer."""
    event, container = insertion.event, insertion.container
    if not isinstance(event, Call) or event.method in {"append", "appendleft", "extend"} or is_container(container):
        return False
    if any(kind.name.endswith("AverageMeter") for kind in kinds(container)):
        return False  # A class that many projects have copied: it sums up what it is given.
    return event.method in GROWING_METHODS and (is_known_other(container, Role.CONTAINER) or is_of_another(container))


def _is_written_in_part(insertion: Insertion) -> bool:
    """Whether slices of a tensor are written that another object has: ``x.embedding[:, start:end] = y``."""
    target = insertion.event.target if isinstance(insertion.event, Store) else None
    if not isinstance(target, cst.Subscript) or not is_of_another(insertion.container):
        return False
    return len(target.slice) > 1 and any(isinstance(part.slice, cst.Slice) for part in target.slice)


def _is_array(container: Value) -> bool:
    """Whether ``container`` is an array of NumPy that holds numbers, into which nothing with a graph can be written."""
    made = [source for source in sources(container) if not isinstance(source, Constant)]
    return bool(made) and all(
        isinstance(source, Call)
        and source.argument("dtype") is None
        and any(name.startswith("numpy.") for name in qualified_names(source.callee))
        for source in made
    )


def _replaces_entries(insertion: Insertion) -> bool:
    """Whether each run puts its values where others were, so that nothing grows.

    ``metrics.update({"loss": loss})``, and ``for i, x in enumerate(xs): xs[i] = f(x)``.
    """
    event, value = insertion.event, insertion.value
    if isinstance(event, Call):
        constant = isinstance(value, Display) and all(isinstance(key, Constant) for key in value.keys)
        return event.method == "update" and constant and isinstance(value, Display) and not value.starred
    if not isinstance(event, Store) or event.base is None:
        return False
    base = event.base
    loops = (loop for loop in event.region.loops() if loop.iterable is not None)
    return any(_goes_through(loop.iterable, base) for loop in loops if loop.iterable is not None)


_POSITIONS = frozenset({"enumerate", "range", "len", "list", "tuple", "keys", "items"})


@query(on_cycle=False)
def _goes_through(iterable: Value, container: Value) -> bool:
    """Whether ``iterable`` yields the indices or keys of ``container``: ``enumerate(xs)``, ``xs.keys()``."""
    for source in sources(iterable):
        if same_place(source, container):
            return True
        if isinstance(source, Call) and source.name in _POSITIONS:
            given = (*source.positional(), *filter(None, [source.receiver]))
            if any(_goes_through(each, container) for each in given):
                return True
    return False


def insertions_in(function: Function) -> Iterator[Insertion]:
    """What the code of ``function`` puts into containers, by methods, at indices that vary, and by ``+= [x]``."""
    for call in function.calls:
        yield from insertions_of(call)
        for filling in fillings(call):
            given, into = filling.given, filling.container
            yield Insertion(into.value, given.value, call, given.node.value, into.node.value)
    for store in function.stores:
        if store.index is not None and store.base is not None and not isinstance(store.index, Constant):
            yield item_insertion(store, store.base)
    for binary in function.sums:
        # ``losses += [loss]`` and ``losses = losses + [loss]``
        if binary.operator == "+" and isinstance(binary.right, Display) and binary.right.kind == "list":
            holder = operand_occurrences(binary)[0].node
            for element in operand_occurrences(binary.right):
                yield Insertion(binary.left, element.value, binary, element.node, holder)


def item_insertion(store: Store, container: Value) -> Insertion:
    """What ``container[key] = value`` puts into the container."""
    holder = store.target.value if isinstance(store.target, cst.Subscript) else store.target
    return Insertion(container, store.value, store, _assigned_expression(store), holder)


def _assigned_expression(store: Store) -> cst.CSTNode:
    """The expression that is assigned or added; for one of several targets, ``a[i], b[i] = f()``, that target."""
    if isinstance(store.node, cst.AugAssign):
        return store.node.value
    if isinstance(store.node, cst.Assign):
        whole = any(target.target is store.target for target in store.node.targets)
        return store.node.value if whole else store.target
    return store.value.node


def slot_stashes(function: Function) -> Iterator[Stash]:
    """What one function writes into parts of tensors that outlive the iteration or call: ``preds[i] = out``."""
    for store in function.stores:
        if not isinstance(store.target, cst.Subscript) or store.base is None or store.augmented:
            continue
        # The mode may be a question to all callers, and is asked last.
        span, loop = tensor_span(store.base, store.region)
        if span is not None and grad_mode(store.region) is not GradMode.DISABLED:
            made = sources(store.base)
            yield Stash(item_insertion(store, made[0] if len(made) == 1 else store.base), span, loop)


def gathered(function: Function) -> Iterator[Stash]:
    """What one function gathers with its graph in comprehensions over data: ``[model(x) for x in loader]``."""
    for comprehension in function.comprehensions:
        loop = comprehension.loop
        # What is quick to tell comes first: most comprehensions call nothing, or gather nothing attached.
        if comprehension.kind == "generator" or next(calls_in(loop), None) is None or iterates_over_parts(loop):
            continue
        named = (use.target for use in comprehension.uses if isinstance(use, Store) and use.value is comprehension)
        holder = next(named, comprehension.node)
        written = comprehension.element.node
        insertion = Insertion(comprehension, comprehension.element, comprehension, written, holder)
        stash = Stash(insertion, Span.ITERATION, loop)
        calls = _calls_within(comprehension.element, loop)
        if calls and attached_members(stash.occurrence) and _computes(comprehension.element, calls, loop):
            yield stash


def is_built_for_callers(stash: Stash) -> bool:
    """Whether a container is a result, and no backward frees what its iterations compute.

    That is a comprehension that is returned, and what a part of the forward pass of a module returns.
    """
    event, container = stash.insertion.event, stash.insertion.container
    if isinstance(event, Comprehension):
        container = event
    elif not _computes_output(event.region.function) or belongs_outside(container):
        return False
    if drain(stash.insertion.value) is Drain.DRAINED:
        return False
    return any(_is_returned(use) for name in names_of(container) for use in name.uses)


def _is_returned(use: Value | Store | Exit) -> bool:
    """Whether ``use`` leaves the function, alone or beside others: ``return outputs, scores``."""
    return isinstance(use, Exit) or (isinstance(use, Display) and any(isinstance(user, Exit) for user in use.uses))


def _computes_output(function: Function) -> bool:
    """Whether ``function`` is a method of a module, and a part of its forward pass."""
    owner = function.owner
    return owner is not None and instance_kind(owner).role is Role.MODULE and is_part_of_forward(function)


def _calls_within(element: Value, loop: Loop) -> list[Call]:
    """The calls in ``loop`` that ``element`` comes from, if one of them does more than hand on what it is given."""
    calls = [each for each in local_ancestors(element) if isinstance(each, Call) and each.region.within(loop)]
    return calls if not all(map(hands_on, calls)) else []


def _computes(element: Value, calls: Sequence[Call], loop: Loop) -> bool:
    """Whether each iteration of ``loop`` runs a module for ``element``, or a step that trains, among ``calls``."""
    return any(
        call.function is not loop.function or call.region.within(loop) for call in graph_sources(element)
    ) or any(callees(call) for call in calls if drain(call) is Drain.DRAINED)


def collects_step_outputs(stash: Stash) -> bool:
    """Whether a step hook of a LightningModule collects outputs in an attribute: MEM607 speaks of those."""
    function = stash.insertion.event.region.function
    owner = function.owner
    if owner is None or stash.span is not Span.CALL or not function.name.endswith("_step"):
        return False
    return is_lightning_module(base_names(owner))
