"""Custom autograd functions: what their forward keeps on the context, and what their backward takes from there.

A backward drops what ``save_for_backward`` has saved; an attribute of the context lives as long as the node of the
graph, that is until nothing refers to the result any more. An output on the context refers to its own node: a cycle,
which only Python's garbage collector frees (measured on torch 2.13).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

import libcst as cst

from memlint.findings import Confidence
from memlint.model.aliases import base_names, instance_class, mro, qualified_names, sources
from memlint.model.calls import callees
from memlint.model.detaching import written_members
from memlint.model.footprint import Footprint, footprint
from memlint.model.forwards import called_module
from memlint.model.kinds import Role, is_known_other, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Class, Function
from memlint.model.upstream import component_index, exit_values
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Choice,
    ClassValue,
    Comparison,
    Constant,
    Display,
    Element,
    Item,
    Occurrence,
    Parameter,
    Part,
    Phi,
    Store,
    Unary,
    Value,
)


class Origin(str, Enum):
    """What the kept tensor is to the function."""

    INPUT = "input"
    OUTPUT = "output"
    COMPUTED = "computed"


class Stashed(NamedTuple):
    """``ctx.name = tensor`` in the forward of a custom function."""

    store: Store
    member: Occurrence
    """The tensor, where it is written."""
    origin: Origin
    confidence: Confidence
    """How sure it is that it is a tensor of some size."""
    cleared: bool
    """Whether the backward drops the attribute."""


def is_autograd_function(owner: Class) -> bool:
    """Whether the class derives from ``torch.autograd.Function``."""
    return bool(base_names(owner) & torch.AUTOGRAD_FUNCTIONS)


def stashed(owner: Class) -> Iterator[Stashed]:
    """The tensors that an autograd function keeps in attributes of its context."""
    for function in _recording(owner):
        for store in function.stores:
            if store.attribute is not None and _is_context(store.base, function):
                for member in written_members(Occurrence(store.value, _written(store))):
                    found = _classified(owner, function, store, member)
                    if found is not None:
                        yield found


def _written(store: Store) -> cst.CSTNode:
    """The expression that is assigned; in ``a, ctx.x = b, x`` the one at the same place."""
    if not isinstance(store.node, cst.Assign):
        return store.value.node
    value = store.node.value
    for target in store.node.targets:
        if isinstance(target.target, cst.Tuple) and isinstance(value, cst.Tuple):
            for left, right in zip(target.target.elements, value.elements, strict=False):
                if left.value is store.target:
                    return right.value
    return value


def _recording(owner: Class) -> Iterator[Function]:
    """The methods that get the context of a call that is run forward."""
    own = owner.methods
    if "setup_context" in own:
        yield own["setup_context"].lower()
    elif "forward" in own:
        yield own["forward"].lower()


def _is_context(base: Value | None, function: Function) -> bool:
    return bool(function.parameters) and base is not None and function.parameters[0] in sources(base)


def _classified(owner: Class, function: Function, store: Store, member: Occurrence) -> Stashed | None:
    value = member.value
    origin = _origin(value, function)
    confidence = _tensor_confidence(owner, value, origin)
    if confidence is None or (origin is Origin.COMPUTED and _is_scalar(value)):
        return None
    cleared = any(
        _clears(method.lower(), store.attribute or "") for cls in mro(owner) for method in cls.methods.values()
    )
    return Stashed(store, member, origin, confidence, cleared)


def _is_scalar(value: Value) -> bool:
    """Whether ``value`` is one element, such as a mean over everything."""
    reduces = isinstance(value, Call) and value.method in _REDUCTIONS and not value.arguments
    return reduces or footprint(value) is Footprint.SCALAR


_REDUCTIONS = frozenset({"sum", "mean", "max", "min", "norm", "prod", "std", "var", "amax", "amin", "any", "all"})


def _origin(value: Value, function: Function) -> Origin:
    if function.name == "setup_context":
        whole = _unpacked(value)
        place = whole.index if isinstance(whole, Parameter) else 0
        return {1: Origin.INPUT, 2: Origin.OUTPUT}.get(place, Origin.COMPUTED)
    if any(_is_same(value, returned) for returned in _returned(function)):
        return Origin.OUTPUT
    return Origin.INPUT if isinstance(_unpacked(value), Parameter) else Origin.COMPUTED


def _unpacked(value: Value) -> Value:
    """The tuple of which ``value`` is a component, such as ``*args`` or ``inputs``."""
    while isinstance(value, (Part, Item)):
        value = value.base
    return value


def _returned(function: Function) -> Iterator[Value]:
    for leaving in function.returns:
        for source in (leaving.value, *sources(leaving.value)):
            yield from source.elements if isinstance(source, Display) and source.kind == "tuple" else (source,)


def _is_same(one: Value, other: Value) -> bool:
    """Whether both are the same object on each path."""
    if one is other:
        return True
    mine = {id(source) for source in sources(one)}
    return not isinstance(one, Constant) and mine == {id(source) for source in sources(other)}


def _clears(method: Function, name: str) -> bool:
    """Whether the method drops ``name`` from its first parameter: ``del ctx.x``, ``ctx.x = None``."""
    if not method.parameters or method.name in {"forward", "setup_context"}:
        return False
    context = method.parameters[0].name
    if any(deletion.key == f"{context}.{name}" for deletion in method.deletions):
        return True
    if any(call.name == "delattr" and _names(call, name) for call in method.calls):
        return True
    return any(
        store.attribute == name
        and _is_context(store.base, method)
        and isinstance(store.value, Constant)
        and store.value.constant is None
        for store in method.stores
    )


def _names(call: Call, name: str) -> bool:
    given = call.argument("name", 1)
    return isinstance(given, Constant) and given.constant == name


# ------------------------------------------------------------------- is it a tensor?


def _tensor_confidence(owner: Class, value: Value, origin: Origin) -> Confidence | None:
    if _is_no_tensor(value) or any(map(_is_kept_anyway, _passed_to(owner, value))):
        return None
    if origin is Origin.OUTPUT:
        return Confidence.CERTAIN
    known = role(value, Role.TENSOR, Role.OUTPUT)
    if known is not None:
        return known
    if is_known_other(value, Role.TENSOR, Role.OUTPUT):
        return None
    if _is_computed_tensor(value) or _is_used_as_tensor(value):
        return Confidence.LIKELY
    return _passed_confidence(owner, value) if origin is Origin.INPUT else None


def _is_no_tensor(value: Value) -> bool:
    """Whether it is a number, a flag, a shape, a module...: nothing that ``save_for_backward`` would take."""
    return any(_shows_no_tensor(each) for source in sources(value) for each in (source, *_returned_by(source)))


def _returned_by(value: Value) -> Iterator[Value]:
    """What the functions of the project return for ``value``, a call of one or a component of its result."""
    call = value.base if isinstance(value, Part) else value
    component = value.index if isinstance(value, Part) else None
    if isinstance(call, Call):
        for function in callees(call):
            yield from (source for each in exit_values(function, component) for source in sources(each))


def _shows_no_tensor(value: Value) -> bool:
    if isinstance(value, (Constant, Comparison)):
        # ``x is None`` is a flag; ``x > 0`` is a mask.
        return isinstance(value, Constant) or bool({"is", "is not", "in", "not in"} & set(value.operators))
    if isinstance(value, Attribute):
        return value.name in torch.DETACHING_ATTRIBUTES - {"data", "grad"}
    if isinstance(value, Unary) and value.operator == "not":
        return True
    if not isinstance(value, Call):
        return False
    names = qualified_names(value.callee)
    if value.method in _PLAIN_METHODS or (value.method == "type" and not value.arguments):
        return True
    return bool(_PLAIN & names) or any(n.startswith(_TENSOR_FREE) for n in names)


_PLAIN_METHODS = frozenset(
    """
    size dim numel nelement element_size item tolist numpy stride get_device is_contiguous data_ptr ndimension
    storage_offset storage untyped_storage stream wait
    """.split()
)
_PLAIN = frozenset({"builtins.len", "builtins.int", "builtins.float", "builtins.bool", "builtins.getattr"})
_TENSOR_FREE = (
    "torch.is_",
    "torch.get_",
    "torch.cuda.",
    "torch.distributed.",
    "torch.utils.",
    "torch.backends.",
    "torch.random.",
    "torch.device",
    "torch.Size",
    "torch.finfo",
    "torch.iinfo",
    "torch.Generator",
    "torch.autocast",
    "torch.amp.",
)
_MAKERS = frozenset({"torch.Tensor", "torch.FloatTensor", "torch.LongTensor", "torch.cuda.FloatTensor"})


@query(on_cycle=False)
def _is_computed_tensor(value: Value) -> bool:
    """Whether the operation that computes ``value`` returns a tensor."""
    match value:
        case Call():
            return _returns_tensor(value)
        case Binary() | Unary() | Choice() | Phi() | Comparison():
            return any(_is_computed_tensor(part) or _is_used_as_tensor(part) for part in value.operands())
        case Item() | Part() | Element():
            base = value.iterable if isinstance(value, Element) else value.base
            return not isinstance(base, Parameter) and _is_computed_tensor(base)
    return False


def _returns_tensor(call: Call) -> bool:
    if _is_no_tensor(call):
        return False
    if called_module(call) is not None:
        return True
    names = qualified_names(call.callee)
    if names:
        return any(_is_operation(name) for name in names)
    receiver = call.receiver
    if receiver is None:
        return False
    return call.method in torch.TENSOR_EVIDENCE or _is_computed_tensor(receiver) or _is_used_as_tensor(receiver)


def _is_operation(name: str) -> bool:
    """Whether ``name`` is a function of torch that returns tensors."""
    if name in _MAKERS:
        return True
    last = name.rpartition(".")[2]
    return name.startswith("torch.") and not name.startswith(_TENSOR_FREE) and last[:1].islower()


def _is_used_as_tensor(value: Value) -> bool:
    """Whether tensor methods are called on ``value``, torch's functions take it, or the function saves it elsewhere."""
    if role(value, Role.TENSOR, Role.OUTPUT):
        return True
    if not isinstance(value, (Parameter, Phi, Part, Item)):
        return False
    taken = _forward_parameter(value)
    if taken is not None and taken is not value and _is_used_as_tensor(taken):
        return True
    return any(_shows_tensor(value, use) for use in value.uses)


def _forward_parameter(value: Value) -> Parameter | None:
    """The parameter of ``forward`` that ``value`` is, by its place in ``inputs`` where ``setup_context`` gets them."""
    if isinstance(value, Parameter):
        return value if value.function.name == "forward" else None
    owner = value.function.owner
    if not isinstance(value, (Part, Item)) or not isinstance(value.base, Parameter) or owner is None:
        return None
    index, forward = component_index(value), owner.methods.get("forward")
    if value.base.index != 1 or forward is None or not isinstance(index, int):
        return None
    parameters = forward.lower().parameters
    return parameters[index] if index < len(parameters) else None


def _shows_tensor(value: Value, use: object) -> bool:
    match use:
        case Attribute():
            called = any(isinstance(user, Call) and user.callee is use for user in use.uses)
            shown = torch.TENSOR_EVIDENCE | {"new", "new_zeros", "new_empty", "element_size"}
            return use.name in shown if called else use.name in _TENSOR_ATTRIBUTES
        case Call() if use.name == "save_for_backward":
            return True
        case Call():
            first = use.arguments[0].value if use.arguments else None
            return first is value and any(_is_operation(name) for name in qualified_names(use.callee))
    return False


_TENSOR_ATTRIBUTES = frozenset({"shape", "requires_grad", "is_cuda", "ndim", "grad_fn", "dtype", "device"})


def _passed_confidence(owner: Class, value: Value) -> Confidence | None:
    """What the calls ``Function.apply(...)`` of the file pass for an input."""
    passed = _passed_to(owner, value)
    if any(role(each, Role.TENSOR, Role.OUTPUT) or _is_computed_tensor(each) for each in passed):
        return Confidence.LIKELY
    known = [each for each in passed if is_known_other(each, Role.TENSOR, Role.OUTPUT)]
    return None if known else Confidence.POSSIBLE


def _passed_to(owner: Class, value: Value) -> list[Value]:
    """What is passed for an input; ``apply`` takes what ``forward`` takes, the context left out."""
    parameter = _forward_parameter(value)
    if parameter is None:
        return []
    place = parameter.index - 1 if _takes_context(parameter.function) else parameter.index
    given = (call.argument(parameter.name, place) for call in _applications(owner))
    return [passed for passed in given if passed is not None]


def _takes_context(function: Function) -> bool:
    owner = function.owner
    return owner is not None and "setup_context" not in owner.methods


def _is_kept_anyway(value: Value) -> bool:
    """Whether ``value`` is a parameter or another attribute of the object that passes it, and lives as long as that."""
    return any(
        isinstance(each, Attribute) and instance_class(each.base) is not None for each in (value, *sources(value))
    ) or any(
        isinstance(source, Call) and bool(qualified_names(source.callee) & torch.CREATORS_WITH_GRAD)
        for source in sources(value)
    )


def _applications(owner: Class) -> Iterator[Call]:
    for call in owner.module.calls_by_name.get("apply", ()):
        receiver = call.receiver
        if receiver is not None and any(
            isinstance(source, ClassValue) and source.target is owner for source in sources(receiver)
        ):
            yield call


# ------------------------------------------------------------ moving it to the saved tensors


class Saving(NamedTuple):
    """How ``ctx.x = x`` becomes a part of ``save_for_backward``."""

    reads: tuple[Attribute, ...]
    """Where the backward reads ``ctx.x``."""
    backward: Function
    call: Call | None
    """The call of ``save_for_backward`` that is there already."""
    unpacking: Store | None
    """The assignment that unpacks what it saves."""


def saving(found: Stashed, owner: Class) -> Saving | None:
    """The way to let the backward drop a stashed tensor; None if that is not a matter of a few names.

    Everything that reads the attribute must lie in the backward, and what is saved there already must be unpacked by
    one assignment.
    """
    store = found.store
    forward = store.function
    backward = owner.methods.get("backward")
    if backward is None or found.member.value is not store.value or store.region is not forward.body:
        return None
    backward = backward.lower()
    reads = tuple(load for load in owner.module.loads.get(store.attribute or "", ()) if load.function is backward)
    others = [
        load for load in owner.module.loads.get(store.attribute or "", ()) if _is_elsewhere(load, owner, backward)
    ]
    stores = [each for method in owner.methods.values() for each in method.stores if each.attribute == store.attribute]
    calls = [call for call in forward.calls if call.name == "save_for_backward"]
    if not reads or others or len(stores) != 1 or len(calls) > 1:
        return None
    if not calls:
        return Saving(reads, backward, None, None) if not _saved_loads(backward) else None
    unpacking = _unpacking(backward)
    is_known_before = found.member.value.order < calls[0].order or store.order < calls[0].order
    if unpacking is None or calls[0].is_open or not is_known_before or calls[0].region is not forward.body:
        return None
    return Saving(reads, backward, calls[0], unpacking)


def _is_elsewhere(load: Attribute, owner: Class, backward: Function) -> bool:
    return load.function is not backward and load.function.owner is owner


def _saved_loads(backward: Function) -> list[Attribute]:
    names = {"saved_tensors", "saved_variables"}
    return [load for load in backward.attributes if load.name in names]


def _unpacking(backward: Function) -> Store | None:
    """``x, y = ctx.saved_tensors``, if nothing else reads what is saved."""
    loads = _saved_loads(backward)
    if len(loads) != 1:
        return None
    parts = [use for use in loads[0].uses if isinstance(use, Part)]
    stores = [each for part in parts for each in part.uses if isinstance(each, Store) and each.value is part]
    if not stores or len(parts) != len(loads[0].uses) or any(part.index is None for part in parts):
        return None
    return stores[0] if all(each.node is stores[0].node for each in stores) else None
