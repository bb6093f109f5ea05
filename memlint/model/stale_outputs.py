"""Large outputs that a local variable holds through the backward although nothing needs them any more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.findings import Confidence
from memlint.model.aliases import aliases
from memlint.model.effects import started_roots
from memlint.model.forwards import is_repeated
from memlint.model.optimization import accumulates
from memlint.model.saved_tensors import holders, producers
from memlint.model.scopes import Function
from memlint.model.upstream import differentiable_operands, local_ancestors
from memlint.model.values import Attribute, Binary, Call, Item, Part, Phi, Store, Unary, Value
from memlint.model.vocabulary import gives_perplexity, predicts_next_word, scores_vocabulary


class StaleOutput(NamedTuple):
    """``names`` hold an output of ``forward`` while ``backward`` runs; nothing reads them afterwards."""

    forward: Call
    backward: Call
    names: tuple[Store, ...]
    last_uses: tuple[Value | Store, ...]
    """What reads them before the backward."""
    confidence: Confidence


class _Pass(NamedTuple):
    """A backward from ``root`` over ``graph``, as far as its own function shows; ``losses`` are ids of scalars."""

    backward: Call
    root: Value
    losses: frozenset[int]
    graph: tuple[Value, ...]


def stale_outputs(function: Function) -> Iterator[StaleOutput]:
    """The large outputs of ``function`` that are alive during a backward for nothing."""
    reported: set[int] = set()
    for backward in function.calls:
        roots = tuple(started_roots(backward)) if accumulates(backward) else ()
        for root in roots:
            losses = _losses(root)
            graph = tuple(local_ancestors(root))
            for forward in _forwards_of(graph, backward):
                for output in _outputs(forward) if id(forward) not in reported else ():
                    found = _held(output, forward, _Pass(backward, root, losses, graph))
                    if found is not None:
                        reported.add(id(forward))
                        yield found


def _losses(root: Value) -> frozenset[int]:
    """Ids of the values that are the loss itself: what it is scaled from, and the component that a model returned."""
    seen: set[int] = set()
    pending = [root]
    while pending:
        current = pending.pop()
        if isinstance(current, Call):
            pending.extend(_scaled(current))
            continue
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, (Binary, Unary, Phi)):
            pending.extend(differentiable_operands(current))
        elif not isinstance(current, (Part, Item, Attribute)):
            pending.extend(aliases(current) or ())
    return frozenset(seen)


def _scaled(call: Call) -> Iterator[Value]:
    """The loss that a call scales, or averages over devices."""
    if call.name == "scale" and call.arguments:
        yield call.arguments[0].value
    elif call.method in {"mean", "sum"} and isinstance(call.receiver, (Attribute, Item, Part)):
        yield call.receiver


def _forwards_of(graph: tuple[Value, ...], backward: Call) -> Iterator[Call]:
    """The calls in the same function and iteration as ``backward`` that it runs over."""
    loop = _loop(backward)
    for value in graph:
        if (
            isinstance(value, Call)
            and value.function is backward.function
            and value.order < backward.order
            and _loop(value) is loop
            and any(isinstance(use, (Store, Part, Attribute, Item, Call)) for use in value.uses)
        ):
            yield value


def _loop(value: Value) -> object:
    return next((loop for loop in value.region.loops() if not loop.is_comprehension), None)


def _outputs(forward: Call) -> Iterator[Value]:
    """What ``forward`` returns: all of it, or each component by itself where it is unpacked at once."""
    parts = [use for use in forward.uses if isinstance(use, Part)]
    yield from parts if len(parts) == len(forward.uses) else [forward]


def _held(output: Value, forward: Call, run: _Pass) -> StaleOutput | None:
    backward = run.backward
    if id(output) in run.losses or not any(call is forward for call in producers(forward)):
        return None
    found = holders(output, run.losses, frozenset(map(id, run.graph)))
    if found.saved or found.carried or not found.names:
        return None
    if any(use.order > backward.order for use in found.uses if use is not backward):
        return None
    alive = tuple(_alive_at(backward, found.names))
    sizes = [scores_vocabulary(store.value) for store in alive]
    if alive and any(value is output for value in run.graph):
        sizes.append(predicts_next_word(forward, run.root, found.uses))
        if gives_perplexity(value for value in run.graph if id(value) in run.losses):
            sizes.append(Confidence.LIKELY)
    confidence = max((size for size in sizes if size is not None), key=lambda size: size.rank, default=None)
    if confidence is None:
        return None
    if found.unknown or is_repeated(backward) is False or forward.function.module.is_test:
        confidence = Confidence.POSSIBLE
    uses = tuple(use for use in found.uses if isinstance(use, (Value, Store)))
    return StaleOutput(forward, backward, alive, uses, confidence)


def _alive_at(backward: Call, names: list[Store]) -> Iterator[Store]:
    """Those of ``names`` that are bound when the backward runs."""
    function = backward.function
    mine = {id(store) for store in names}
    for key in dict.fromkeys(store.key for store in names):
        bound = [store for store in function.stores if store.base is None and store.key == key]
        before = [store for store in bound if store.order < backward.order]
        if not before or id(before[-1]) not in mine:
            continue
        deleted = (each for each in function.deletions if each.key == key)
        if not any(before[-1].order < each.order < backward.order for each in deleted):
            yield before[-1]
