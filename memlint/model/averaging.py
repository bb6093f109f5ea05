"""Averages of a model's parameters (an EMA, SWA): where they are updated, and with which live parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from memlint.model.accumulations import accumulations, combined
from memlint.model.aliases import instance_class, zipped
from memlint.model.containers import elements
from memlint.model.memo import query
from memlint.model.optimized import walked_module
from memlint.model.scopes import Function, Module
from memlint.model.values import (
    Attribute,
    Call,
    Constant,
    Element,
    Item,
    Occurrence,
    Part,
    Phi,
    Region,
    Store,
    Value,
    operand_occurrences,
)


class AverageUpdate(NamedTuple):
    """One average takes in a parameter: ``average[name] = decay * average[name] + (1 - decay) * parameter``."""

    average: cst.CSTNode
    """The expression that names the average."""
    parameter: Occurrence
    """The parameter of the model that is trained."""
    module: Value
    """That model."""
    value: Value
    """The new value of the average."""
    region: Region
    in_place: bool
    """Whether the average is written in place, as by ``average.lerp_(parameter, weight)``."""


@query(on_cycle=())
def average_updates(function: Function) -> tuple[AverageUpdate, ...]:
    """The updates of averages in one function: assigned, made anew as a list, or in place."""
    return tuple(_updates(function))


def _updates(function: Function) -> Iterator[AverageUpdate]:
    for accumulation in accumulations(function):
        if not (isinstance(accumulation.holder, cst.Attribute) and accumulation.holder.attr.value == "data"):
            in_place = isinstance(accumulation.value, Call) and (accumulation.value.method or "").endswith("_")
            for addend in accumulation.addends:
                yield from _taken(accumulation.holder, addend, accumulation.value, accumulation.region, in_place)
    for store in function.stores:
        yield from _made_anew(store)
    for call in function.calls:
        yield from _written(call)


def _taken(
    average: cst.CSTNode, addend: Occurrence, value: Value, region: Region, in_place: bool
) -> Iterator[AverageUpdate]:
    for leaf in _leaves(addend):
        module = walked_module(leaf.value)
        if module is not None:
            yield AverageUpdate(average, leaf, module, value, region, in_place)


def _leaves(where: Occurrence) -> Iterator[Occurrence]:
    """What arithmetic combines in ``where`` without leaving the graph."""
    pending = [where]
    while pending:
        current = pending.pop()
        detached = isinstance(current.value, Call) and current.value.method == "detach"
        parts = () if detached or isinstance(current.value, Item) else combined(current.value)
        pending.extend(part for part in parts if not isinstance(part.value, Constant))
        if not parts and not detached:
            yield current


def _made_anew(store: Store) -> Iterator[AverageUpdate]:
    """``self.averages = [decay * a + (1 - decay) * p for a, p in zip(self.averages, model.parameters())]``."""
    # What is in a list is dear to find out, and few are gone through beside another one.
    if store.index is not None or _paired(store.function.module).isdisjoint({store.key, store.attribute}):
        return
    for element in elements(store.value):
        leaves = list(_leaves(Occurrence(element, element.node)))
        olds = [leaf for leaf in leaves if _is_old(zipped(leaf.value), store)]
        for leaf in leaves if olds and len(leaves) > 1 else ():
            module = walked_module(leaf.value)
            if module is not None:
                yield AverageUpdate(store.target, leaf, module, element, element.region, False)


@query(on_cycle=frozenset())
def _paired(module: Module) -> frozenset[str]:
    """The names, attributes and paths in a file that :func:`zipped` may lead to."""
    calls = (call for name in ("zip", "enumerate") for call in module.calls_by_name.get(name, ()))
    given = (value for call in calls for value in call.positional())
    return frozenset(
        value.key if isinstance(value, Phi) else value.name for value in given if isinstance(value, (Phi, Attribute))
    )


def _is_old(averages: Value | None, store: Store) -> bool:
    """Whether ``averages`` is what the store replaces."""
    if isinstance(averages, Phi):
        return bool(store.key) and averages.key == store.key
    if not isinstance(averages, Attribute) or store.base is None or averages.name != store.attribute:
        return False
    owner = instance_class(store.base)
    return owner is not None and instance_class(averages.base) is owner


_IN_PLACE = frozenset({"add_", "sub_", "lerp_", "copy_", "mul_"})


def _written(call: Call) -> Iterator[AverageUpdate]:
    """``average.mul_(decay).add_(parameter, alpha=1 - decay)``, for each average that a loop picks."""
    if call.method not in _IN_PLACE or not call.arguments:
        return
    holder, *rest = operand_occurrences(call)
    while isinstance(holder.value, Call) and holder.value.method in _IN_PLACE and holder.value.receiver is not None:
        holder = operand_occurrences(holder.value)[0]
    if isinstance(holder.value, Attribute) and holder.value.name == "data":
        holder = operand_occurrences(holder.value)[0]
    if isinstance(holder.value, (Part, Element, Item)):
        for addend in rest:
            for update in _taken(holder.node, addend, call, call.region, True):
                copied = call.method == "copy_" and update.parameter.value is addend.value
                if update.parameter.value is not holder.value and not copied:
                    yield update
