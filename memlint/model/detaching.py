"""Which parts of a kept value carry a graph, and the edits that detach them."""

from __future__ import annotations

import libcst as cst

from memlint.findings import Applicability, Fix
from memlint.model.attachment import Attachment, attachment, keeps_graph
from memlint.model.containers import (
    names_of,
)
from memlint.model.differentiated import starts_backward
from memlint.model.kinds import Role, kinds, role
from memlint.model.source_text import code
from memlint.model.upstream import component_index
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Display,
    Item,
    Occurrence,
    Part,
    Unary,
    Value,
    operand_occurrences,
)


def attached_leaves(where: Occurrence) -> tuple[Occurrence, ...]:
    """The operands of an arithmetic expression that carry the graph into it; any other expression is its own.

    An expression that stands behind a name is not taken apart: the name is where it is used.
    """
    value = where.value
    if isinstance(value, (Binary, Unary)) and value.node is where.node:
        return tuple(leaf for operand in operand_occurrences(value) for leaf in attached_leaves(operand))
    return (where,) if keeps_graph(value) else ()


_TRANSFERS = frozenset(
    {"cpu", "to", "cuda", "numpy", "clone", "float", "half", "double", "bfloat16", "contiguous", "tolist"}
)


def detach_point(where: Occurrence) -> Occurrence:
    """Where ``.detach()`` belongs: before a transfer such as ``.cpu()``, whose result would keep the graph."""
    value = where.value
    while isinstance(value, Call) and value.node is where.node and value.method in _TRANSFERS:
        receiver = operand_occurrences(value)[0]
        if attachment(receiver.value) <= Attachment.UNKNOWN:
            break
        where, value = receiver, receiver.value
    return where


def written_members(where: Occurrence) -> tuple[Occurrence, ...]:
    """The values in a literal that is kept: each element of ``(a, b)`` or ``{"x": a}``; else the value itself."""
    if isinstance(where.value, Display) and where.value.node is where.node:
        return tuple(member for operand in operand_occurrences(where.value) for member in written_members(operand))
    return (where,)


def attached_members(where: Occurrence) -> tuple[Occurrence, ...]:
    """Those of :func:`written_members` that carry a graph."""
    return tuple(member for member in written_members(where) if keeps_graph(member.value))


def detach_fixes(kept: Occurrence, container: Value | None = None) -> tuple[Fix, ...]:
    """The safe fix for an attached value that is kept: same value, type and device, no graph, no synchronisation.

    For a dict under a name that is put into a ``container`` there is an unsafe one; none for what is no tensor
    otherwise (a tuple, an output with fields), and where the newest element is differentiated in the container.
    """
    if container is not None and _newest_is_differentiated(container):
        return ()
    if is_structure(kept.value):
        named = isinstance(kept.node, cst.Name) and container is not None and _is_dict(kept.value)
        return (_detach_tensors_of(kept.node),) if named else ()
    target = detach_point(kept).node
    return (
        Fix(
            "call_method",
            lambda: f"Detach `{code(target)}` before it is kept",
            Applicability.SAFE,
            {"expression": target},
            {"method": "detach"},
            reveals=frozenset({"MEM111", "MEM604"}),
        ),
    )


def _detach_tensors_of(name: cst.CSTNode) -> Fix:
    detached = "value.detach() if isinstance(value, torch.Tensor) else value"
    return Fix(
        "replace_expression",
        f"Keep `{code(name)}` with its tensors detached",
        Applicability.UNSAFE,
        {"expression": name},
        {"code": f"{{key: {detached} for key, value in {code(name)}.items()}}", "import": "torch"},
        reveals=frozenset({"MEM111", "MEM604"}),
    )


def _is_dict(value: Value) -> bool:
    """Whether ``value`` is made, or used, as a dict, and nowhere as an object with fields."""
    if any(isinstance(use, Attribute) and use.name in _FIELDS - _METHODS_OF_DICTS for use in value.uses):
        return False
    known = {kind.name.lower() for kind in kinds(value) if kind.role is Role.CONTAINER}
    if known:
        return known <= _DICTS
    return any(
        (isinstance(use, Attribute) and use.name in _METHODS_OF_DICTS)
        or (isinstance(use, Item) and isinstance(component_index(use), str))
        for use in value.uses
    )


_DICTS = frozenset({"dict", "defaultdict", "ordereddict", "mapping", "mutablemapping"})


_METHODS_OF_DICTS = frozenset({"keys", "items", "values", "get"})


def is_structure(value: Value) -> bool:
    """Whether ``value`` is known, or used, as a tuple, a dict or an object with fields rather than as a tensor."""
    if role(value, Role.CONTAINER):
        return True
    for use in value.uses:
        if isinstance(use, Part) or (isinstance(use, Item) and isinstance(component_index(use), str)):
            return True
        if isinstance(use, Attribute) and use.name in _FIELDS:
            return True
    return False


_FIELDS = frozenset({"loss", "logits", "last_hidden_state", "hidden_states"}) | _METHODS_OF_DICTS
"""Attributes of the outputs of transformers' models and of dicts, which tensors do not have."""


def _newest_is_differentiated(container: Value) -> bool:
    return any(
        isinstance(use, Item) and component_index(use) == -1 and starts_backward(use)
        for name in names_of(container)
        for use in name.uses
    )
