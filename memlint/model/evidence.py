"""What is done with a value shows what it is, where its origin is out of sight."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from memlint.findings import Confidence
from memlint.model.aliases import attribute_values, instance_class, instance_loads, sources
from memlint.model.calls import argument_parameters, passed_arguments
from memlint.model.identifiers import is_of_another_library
from memlint.model.kinds import Kind, Role
from memlint.model.knowledge import frameworks, torch
from memlint.model.values import (
    Attribute,
    Awaited,
    Call,
    Choice,
    Element,
    External,
    FunctionValue,
    Item,
    Parameter,
    Part,
    Phi,
    Store,
    Value,
)


@dataclass
class _Uses:
    """What is done with an object: methods called, attributes read, whether it is itself called or iterated over."""

    methods: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    called: bool = False
    read_out: bool = False
    """Whether what it returns when called is detached and goes to host memory."""
    iterated: bool = False

    def add(self, alias: Value) -> None:
        """What is done with the object under one of its names."""
        for use in alias.uses:
            if isinstance(use, Attribute):
                self.attributes.add(use.name)
                if any(isinstance(user, Call) and user.callee is use for user in use.uses):
                    self.methods.add(use.name)
                elif use.name == "module":
                    # What DistributedDataParallel and its kin wrap: ``model.module.eval()``.
                    inner = {user.name for user in use.uses if isinstance(user, Attribute)}
                    self.methods.update(inner & torch.MODULE_EVIDENCE)
            elif isinstance(use, Call) and use.callee is alias:
                self.called = True
                self.read_out = self.read_out or _is_output_read_out(use)
            elif isinstance(use, Element):
                self.iterated = True


def evidence(value: Value) -> Iterator[Kind]:
    """What the uses of a value say about it when its origin says nothing."""
    if isinstance(value, External) and value.qualified_name.partition(".")[0] in _KNOWN_LIBRARIES:
        return
    if is_of_another_library(value.module):
        return
    uses = _Uses()
    for alias in known_names(value):
        uses.add(alias)
    proven = _proven_role(uses)
    likely = _likely_role(uses) if proven is None else None
    if proven is not None:
        yield Kind(proven, Confidence.CERTAIN)
    elif likely is not None:
        yield Kind(likely, Confidence.LIKELY)


def _is_output_read_out(output: Call) -> bool:
    """Whether the tensor that a call returns, or one of several, is detached and read: it had a graph then."""
    callee = output.callee
    if not output.arguments:
        return False  # A closure that computes a loss.
    if any(isinstance(each, (External, FunctionValue)) for each in sources(callee)) or not _is_held(callee):
        return False  # A function or a method may compute anything from tensors that had a graph before.
    for use in (output, *(use for use in output.uses if isinstance(use, (Item, Part)))):
        for read in use.uses:
            if isinstance(read, Attribute) and _is_read_out(read):
                return True
    return False


def _is_held(callee: Value) -> bool:
    """Whether an object is called that has a name, or that a method keeps: it is no method of a class out of sight."""
    if not isinstance(callee, Attribute):
        return True
    owner = instance_class(callee.base)
    return owner is not None and bool(attribute_values(owner, callee.name))


def _is_read_out(read: Attribute) -> bool:
    """Whether ``read`` detaches a tensor that then goes to host memory: ``.detach().cpu()``, ``.data.numpy()``."""
    if read.name == "data":
        detached: list[Value] = [read]
    elif read.name == "detach":
        detached = [use for use in read.uses if isinstance(use, Call) and use.callee is read]
    else:
        return False
    return any(isinstance(use, Attribute) and use.name in _READING for each in detached for use in each.uses)


_READING = frozenset({"cpu", "numpy", "tolist"})


def may_be_module(parameter: Parameter) -> bool:
    """Whether the function calls ``parameter``, or keeps it in an attribute and reads no settings from it."""
    uses = _Uses()
    for alias in _names_forward(parameter):
        uses.add(alias)
    if uses.called:
        return True
    is_kept = any(isinstance(use, Store) and use.attribute is not None for use in parameter.uses)
    return uses.attributes <= torch.MODULE_EVIDENCE and (is_kept or bool(uses.attributes))


_KNOWN_LIBRARIES = sys.stdlib_module_names | {"builtins", "numpy", "torch"}
"""Where names stand for functions, classes and modules only."""


def _proven_role(uses: _Uses) -> Role | None:
    methods = uses.methods
    if methods & torch.STRONG_MODULE_EVIDENCE:
        return Role.MODULE
    if uses.called and methods & {"load_state_dict", "zero_grad", "state_dict"}:
        return Role.MODULE
    if "backward" in methods:
        return Role.TENSOR
    if "step" in methods and (methods | uses.attributes) & torch.OPTIMIZER_EVIDENCE:
        return Role.OPTIMIZER
    if {"scale", "step", "update"} <= methods or {"scale", "unscale_"} <= methods:
        return Role.SCALER
    if methods & {"eval", "train"} and (uses.called or methods & {"to", "cuda", "forward", "state_dict"}):
        return Role.MODULE
    return None


_LIKELY_MODULE = {"eval", "gradient_checkpointing_enable", "save_pretrained"} | frameworks.FORWARD_METHODS


_MOVING = {"to", "cuda", "half", "bfloat16"}


def _likely_role(uses: _Uses) -> Role | None:
    methods, attributes = uses.methods, uses.attributes
    if methods & _LIKELY_MODULE:
        return Role.MODULE
    if uses.called and "reduction" in attributes:
        return Role.LOSS_FUNCTION
    if uses.read_out or (uses.called and (attributes & {"eval", "training"} or methods & _MOVING)):
        return Role.MODULE  # A tensor is moved as well, and never called.
    if "zero_grad" in methods:
        return Role.OPTIMIZER
    if "step" in methods and methods & {"get_last_lr", "get_lr"}:
        return Role.SCHEDULER
    if methods & {"detach", "item", "argmax", "unsqueeze", "requires_grad_"} and not uses.called:
        return Role.TENSOR
    if uses.iterated and attributes & {"dataset", "batch_size", "sampler", "batch_sampler"}:
        return Role.LOADER
    return None


def _names_forward(value: Value) -> Iterator[Value]:
    """``value`` and the names that it is known by later on in the same function."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending.extend(use for use in current.uses if isinstance(use, (Phi, Choice, Awaited)))


def known_names(value: Value) -> Iterator[Value]:
    """The names of the object ``value`` in all functions that are seen to have it, ``value`` itself included."""
    names = list(_names_forward(value))
    for source in sources(value):
        if source is value or (isinstance(source, Parameter) and source is source.function.instance):
            continue
        if isinstance(source, (Parameter, Call)):
            names.extend(_names_forward(source))
        for passed in (passed_arguments(source) or ()) if isinstance(source, Parameter) else ():
            names.extend(_names_forward(passed))
    names.extend(read for name in tuple(names) for read in _captured(name))
    yield from names
    for name in names:
        yield from _parameters_for(name)
    if isinstance(value, Attribute):
        yield from _reads(value)


def _reads(value: Attribute) -> Iterator[Value]:
    """The other reads of an attribute: of ``self`` in all methods of its class, of another object in its function."""
    for load in _same_reads(value):
        if load is not value:
            yield load
            yield from (use for use in load.uses if isinstance(use, Phi))


def _same_reads(value: Attribute) -> Iterator[Attribute]:
    owner = instance_class(value.base)
    if owner is not None:
        return iter(instance_loads(owner, value.name))
    origins = sources(value.base)
    loads = value.function.attributes
    named = (load for load in loads if load.name == value.name)
    return (load for load in named if load.base is value.base or sources(load.base) == origins)


def _captured(value: Value) -> Iterator[Value]:
    """The names of ``value`` in the functions within the one that binds it, or within its module."""
    for use in value.uses:
        if isinstance(use, Store) and use.base is None and use.value is value:
            for function in use.function.functions:
                function.lower()
            for read in use.function.captures.get(use.key or "", ()):
                yield from _names_forward(read)


def _parameters_for(value: Value) -> Iterator[Value]:
    """The names that ``value`` has in the project's functions that it is passed to."""
    for use in value.uses:
        if isinstance(use, Call) and use.callee is not value:
            for argument in use.arguments:
                if argument.value is value:
                    for parameter in argument_parameters(use, argument):
                        yield from _names_forward(parameter)
