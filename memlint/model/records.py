"""Records: dicts of values for logging, most of which the author has detached by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import libcst as cst

from memlint.model.aliases import qualified_names, sources
from memlint.model.attachment import Attachment, attachment
from memlint.model.effects import backward_roots
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.stashes import item_insertion
from memlint.model.upstream import local_ancestors
from memlint.model.values import (
    Attribute,
    Call,
    Constant,
    Display,
    Formatted,
    Occurrence,
    Parameter,
    Value,
    operand_occurrences,
)

_DETACHED_BY_HAND = frozenset({"detach", "item", "tolist", "numpy"})
_MIN_DETACHED = 2
"""Entries that must be detached by hand before the others count as forgotten."""


@dataclass(frozen=True)
class Entry:
    """``record[key] = value``."""

    record: Value
    written: Occurrence
    holder: cst.CSTNode
    """What the record is called where the entry is written; a literal has no name there."""

    @cached_property
    def detached(self) -> bool:
        """Whether the expression ends in ``.detach()``, ``.item()`` or their like."""
        return _is_detached_by_hand(self.written.value)


@query(on_cycle=())
def forgotten_entries(function: Function) -> tuple[Entry, ...]:
    """Entries that carry their graph into a record whose other entries are detached by hand."""
    found: list[Entry] = []
    for entries in _records(function).values():
        detached = [entry for entry in entries if entry.detached]
        if _is_detached_later(function, entries[0].record):
            continue
        if len(detached) >= _MIN_DETACHED and _has_another_way_out(function, entries[0].record):
            others = (entry for entry in entries if not entry.detached)
            found.extend(entry for entry in others if _carries_graph(entry, detached))
    return tuple(found)


def _is_detached_later(function: Function, record: Value) -> bool:
    """Whether a loop over the record replaces its values: ``for k, v in record.items(): record[k] = v.item()``."""
    return any(
        store.index is not None
        and store.base is not None
        and not _names_entry(store.index)
        and any(source is record for source in sources(store.base))
        and attachment(store.value) is Attachment.DETACHED
        for store in function.stores
    )


def _has_another_way_out(function: Function, record: Value) -> bool:
    """Whether the loss leaves the function, or is differentiated in it, beside the record; else it may be an entry."""
    if any(backward_roots(function)):
        return True
    returned = [element for exit in function.returns for element in _parts(exit.value)]
    return any(not any(source is record for source in sources(element)) for element in returned)


def _parts(value: Value) -> tuple[Value, ...]:
    return value.elements if isinstance(value, Display) and value.kind == "tuple" else ()


def _records(function: Function) -> dict[int, list[Entry]]:
    records: dict[int, list[Entry]] = {}
    # A literal stands in more than one place when its name is passed on.
    for entry in dict.fromkeys(_entries(function)):
        records.setdefault(id(entry.record), []).append(entry)
    return records


def _entries(function: Function) -> Iterator[Entry]:
    for call in function.calls:
        named = [argument for argument in call.arguments if argument.keyword is not None]
        if named and "builtins.dict" in qualified_names(call.callee):
            yield from (Entry(call, Occurrence(a.value, a.node.value), call.node) for a in named)
        for argument in call.arguments:
            yield from _literal_entries(argument.value)
    for store in function.stores:
        yield from _literal_entries(store.value)
        if store.index is not None and store.base is not None and _names_entry(store.index):
            for origin in sources(store.base):
                if isinstance(origin, (Call, Display)):
                    written = item_insertion(store, origin)
                    yield Entry(origin, Occurrence(written.value, written.node), written.holder)
    for exit in function.exits:
        yield from _literal_entries(exit.value)


def _names_entry(index: Value) -> bool:
    return isinstance(index, Formatted) or (isinstance(index, Constant) and isinstance(index.constant, str))


def _literal_entries(value: Value) -> Iterator[Entry]:
    if isinstance(value, Display) and value.kind == "dict":
        yield from (Entry(value, occurrence, value.node) for occurrence in operand_occurrences(value))


def _is_detached_by_hand(value: Value) -> bool:
    """Whether the expression has a ``.detach()`` or its like, followed by no more than methods of the result."""
    while True:
        if isinstance(value, Call):
            if value.method in _DETACHED_BY_HAND:
                return True
            if value.receiver is None:
                return False
            value = value.receiver
        else:
            return isinstance(value, Attribute) and value.name == "data"


def _carries_graph(entry: Entry, detached: list[Entry]) -> bool:
    """Whether the entry is attached, or computed from what had to be detached in the others."""
    level = attachment(entry.written.value)
    if level is not Attachment.UNKNOWN:
        return level > Attachment.UNKNOWN
    if not isinstance(entry.written.value, Call):
        return False
    mine = _inputs(entry.written.value)
    return any(
        mine & _inputs(other.written.value.operands()[0]) for other in detached if other.written.value.operands()
    )


def _inputs(value: Value) -> frozenset[int]:
    """Ids of the parameters and results of calls (not of torch's functions) that ``value`` is computed from."""
    return frozenset(
        id(ancestor)
        for ancestor in local_ancestors(value)
        if isinstance(ancestor, Parameter)
        or (
            isinstance(ancestor, Call)
            and not any(n.startswith(torch.FUNCTION_MODULES) for n in qualified_names(ancestor.callee))
        )
    )
