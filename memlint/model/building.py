"""Calls that build a module: of classes and factories that a function was given, whatever their annotation says."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import base_names, instance_class, qualified_names, sources
from memlint.model.calls import proven_call_sites
from memlint.model.containers import insertions_of, names_of
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Choice,
    Display,
    Exit,
    Item,
    Parameter,
    Phi,
    Store,
    Value,
)

_MAX_STEPS = 60
_MODULE_CONTAINERS = frozenset(
    {"torch.nn.Sequential", "torch.nn.ModuleList", "torch.nn.ModuleDict", "torch.nn.Module.add_module"}
)


def builds_module(call: Call) -> bool:
    """Whether what ``call`` returns becomes a part of a module, so that ``call`` builds one and does not run one.

    ``norm: nn.Module = nn.LayerNorm`` says module where it means class; ``norm(dim)`` in a constructor builds a layer.
    """
    return any(isinstance(source, Parameter) for source in sources(call.callee)) and _builds_part(call)


@query(on_cycle=False)
def _builds_part(call: Call) -> bool:
    if _has_class_as_default(call):
        return True
    seen: set[int] = set()
    pending: list[Value] = [call]
    while pending and len(seen) < _MAX_STEPS:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        for use in value.uses:
            if _becomes_part(value, use):
                return True
            pending.extend(_onward(value, use))
    return False


def _has_class_as_default(call: Call) -> bool:
    return any(
        name.startswith("torch.nn.") or name in torch.MODULE_CLASSES
        for source in sources(call.callee)
        if isinstance(source, Parameter) and source.name in source.function.defaults
        for name in qualified_names(source.function.defaults[source.name])
    )


def _becomes_part(value: Value, use: Value | Store | Exit) -> bool:
    match use:
        case Call():
            registers = use.method in {"add_module", "register_module"}
            return use.callee is not value and (registers or bool(qualified_names(use.callee) & _MODULE_CONTAINERS))
        case Store():
            # Modules are built, not run, in the constructors of modules.
            owner = instance_class(use.base) if use.base is not None and use.attribute is not None else None
            return (
                owner is not None
                and use.value is value
                and use.function.name == "__init__"
                and bool(base_names(owner) & torch.MODULE_CLASSES)
            )
    return False


def _onward(value: Value, use: Value | Store | Exit) -> Iterator[Value]:
    """Where a value goes: into literals, sums and containers, and to the callers of a function that returns it."""
    match use:
        case Phi() | Choice() | Display() | Binary(operator="+"):
            yield use
        case Item() | Attribute():
            return
        case Call():
            for insertion in insertions_of(use):
                if insertion.value is value:
                    yield from names_of(insertion.container)
        case Store(base=Value() as base) if use.index is not None and use.value is value:
            yield from names_of(base)
        case Exit(kind="return"):
            yield from proven_call_sites(use.function)
