"""Data sets that are put onto an accelerator as a whole, before the first batch is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from memlint.findings import Confidence
from memlint.model.aliases import instance_class, sources
from memlint.model.devices import certainly_moves_to_accelerator, moves_to_accelerator
from memlint.model.hoarding import hoards
from memlint.model.instances import instance_kind
from memlint.model.kinds import Role, role
from memlint.model.scopes import Function, Module
from memlint.model.values import Call, Display, Parameter, Part, Value

_SMALL_DATA = re.compile(
    r"MNIST|CIFAR|USPS|SVHN|make_(moons|blobs|circles)|load_(iris|digits)|torch_geometric|\bdgl\b|synthetic"
)
"""Data sets of some MiB, and graphs, that are trained on as a whole."""
_MAX_STEPS = 40


class Resident(NamedTuple):
    """A call that moves data of a data set onto an accelerator, to stay there."""

    call: Call
    holder: cst.CSTNode | None
    confidence: Confidence


def has_small_data(module: Module) -> bool:
    """Whether a file names a data set that is known to be small, or a graph."""
    return bool(_SMALL_DATA.search(module.text))


def resident_data(function: Function) -> Iterator[Resident]:
    """The moves onto an accelerator in ``function`` of what is kept for each batch, or by a data set."""
    for hoard in hoards(function):
        for call in _moves(hoard.kept.value):
            if call.receiver is not None and role(call.receiver, Role.BATCH):
                yield Resident(call, hoard.holder, Confidence.weakest(hoard.over_data, _confidence(call)))
    owner = function.owner
    if owner is None or function.name != "__init__" or instance_kind(owner).role is not Role.DATASET:
        return
    for store in function.stores:
        if store.attribute is not None and store.base is not None and instance_class(store.base) is not None:
            for call in _moves(store.value):
                if call.receiver is not None and not role(call.receiver, Role.MODULE):
                    yield Resident(call, store.target, _confidence(call))


def _moves(value: Value) -> Iterator[Call]:
    """The calls that move ``value`` or parts of it onto an accelerator, also in a tuple or list, or before a cast."""
    seen: set[int] = set()
    pending = [value]
    while pending and len(seen) < _MAX_STEPS:
        for source in sources(pending.pop()):
            if id(source) in seen:
                continue
            seen.add(id(source))
            if isinstance(source, Call) and moves_to_accelerator(source):
                yield source
            elif isinstance(source, Call) and source.receiver is not None and source.method in _SAME_DATA:
                pending.append(source.receiver)
            elif isinstance(source, Display):
                pending.extend(source.elements)


_SAME_DATA = frozenset({"float", "half", "long", "contiguous", "detach", "unsqueeze", "view", "reshape", "permute"})


def _confidence(call: Call) -> Confidence:
    """Possible where the device is a parameter of which nothing is known."""
    if certainly_moves_to_accelerator(call):
        return Confidence.LIKELY
    devices = [source for argument in call.arguments for source in sources(argument.value)]
    return Confidence.POSSIBLE if all(isinstance(each, (Parameter, Part)) for each in devices) else Confidence.LIKELY
