"""Samplers: what they yield for each sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import base_names, qualified_names, sources
from memlint.model.program import Program
from memlint.model.scopes import Class, Function
from memlint.model.values import Call, Item, Value

_SAMPLERS = ("torch.utils.data.Sampler", "torch.utils.data.sampler.", "torch.utils.data.distributed.DistributedSampler")
_INDICES = frozenset(
    f"torch.{name}"
    for name in "randperm arange randint multinomial argsort cat concat repeat_interleave range nonzero".split()
)
"""What makes a tensor of indices."""


class TensorIndices(NamedTuple):
    """``made`` is a tensor of indices that ``yielded`` goes through, so that each index is a tensor as well."""

    made: Call
    yielded: Value


def tensor_indices(program: Program) -> Iterator[TensorIndices]:
    """The samplers of a file that yield tensors in place of numbers."""
    for owner in program.classes:
        method = owner.methods.get("__iter__")
        if method is not None and _is_sampler(owner):
            found = next(_tensors(method.lower()), None)
            if found is not None:
                yield found


def _is_sampler(owner: Class) -> bool:
    return any(name.startswith(_SAMPLERS) and not name.endswith("BatchSampler") for name in base_names(owner))


def _tensors(method: Function) -> Iterator[TensorIndices]:
    for leaving in method.exits:
        for iterated in _iterated(leaving.value) if leaving.kind != "yield" else ():
            made = _made_by(iterated)
            if made is not None:
                yield TensorIndices(made, iterated)


def _iterated(value: Value) -> Iterator[Value]:
    """What is gone through: ``x`` of ``iter(x)``, or of ``yield from x``."""
    for source in sources(value):
        if isinstance(source, Call) and "builtins.iter" in qualified_names(source.callee) and source.arguments:
            yield source.arguments[0].value
        else:
            yield source


def _made_by(value: Value) -> Call | None:
    """The first call that makes the tensor, if it is one whichever way it was made."""
    found: list[Call] = []
    pending, seen = [value], set[int]()
    while pending:
        for source in sources(pending.pop()):
            if id(source) in seen:
                continue
            seen.add(id(source))
            if isinstance(source, Item):
                pending.append(source.base)
            elif isinstance(source, Call) and qualified_names(source.callee) & _INDICES:
                found.append(source)
            else:
                return None
    return min(found, key=lambda call: call.order, default=None)
