"""How much device memory a kept value holds by itself, graph aside: none, a few elements, or a whole output."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import callees
from memlint.model.containers import elements
from memlint.model.forwards import called_module
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.upstream import component_index, exit_values, is_index_component
from memlint.model.values import (
    Attribute,
    Awaited,
    Binary,
    Call,
    Choice,
    Comparison,
    Comprehension,
    Constant,
    Display,
    Element,
    External,
    Formatted,
    Item,
    Narrowed,
    Part,
    Phi,
    Unary,
    Value,
)


class Footprint(IntEnum):
    """What a value holds on the device; ordered, so that the greatest of several decides."""

    NONE = 0
    """Nothing: it is no tensor, or one in host memory."""
    UNKNOWN = 1
    SCALAR = 2
    """One element: a loss, a mean."""
    REDUCED = 3
    """A few elements for each sample: the index of the greatest, a sum over the rest."""
    FULL = 4
    """A whole output of a module."""


@query(on_cycle=Footprint.NONE)
def footprint(value: Value) -> Footprint:
    """What keeping ``value`` keeps on the device, as far as the operations that it comes from tell."""
    match value:
        case Constant() | Formatted() | Narrowed():
            return Footprint.NONE
        case Phi() | Choice() | Awaited():
            return _greatest(value.operands())
        case Binary() | Unary():
            return _greatest(value.operands())
        case Comparison():
            return min(_greatest(value.values), Footprint.REDUCED)
        case Display() | Comprehension():
            return _greatest(elements(value))
        case Call():
            return _called(value)
        case Attribute():
            return _attribute(value)
        case Item() | Part() | Element():
            return _component(value)
    nearer = [source for source in sources(value) if source is not value]
    return _greatest(nearer) if nearer else _by_role(value)


def _greatest(values: Iterable[Value]) -> Footprint:
    return max(map(footprint, values), default=Footprint.NONE)


def _by_role(value: Value) -> Footprint:
    return Footprint.NONE if role(value, Role.NUMBER, Role.TEXT, Role.NONE) else Footprint.UNKNOWN


def _attribute(value: Attribute) -> Footprint:
    if value.name in torch.INDEX_PARTS:
        return Footprint.REDUCED
    if value.name in torch.DETACHING_ATTRIBUTES and value.name not in {"data", "grad"}:
        return Footprint.NONE
    if value.name == "loss":
        return Footprint.SCALAR
    nearer = [source for source in sources(value) if source is not value]
    return _greatest(nearer) if nearer else footprint(value.base)


def _component(value: Item | Part | Element) -> Footprint:
    if role(value, Role.BATCH):
        return Footprint.UNKNOWN
    if is_index_component(value):
        return Footprint.REDUCED
    nearer = [source for source in sources(value) if source is not value]
    if nearer:
        return _greatest(nearer)
    base = value.iterable if isinstance(value, Element) else value.base
    index = component_index(value)
    if index == "loss":
        return Footprint.SCALAR
    return max((_picked(source, index) for source in sources(base)), default=Footprint.UNKNOWN)


def _picked(source: Value, index: object) -> Footprint:
    """The component ``index`` of what ``source`` returns or holds."""
    if isinstance(source, Call):
        gathered = _gathered(source)
        if gathered is not None:
            return max((_picked(given, index) for given in sources(gathered)), default=Footprint.UNKNOWN)
        functions = callees(source)
        if functions and called_module(source) is None:
            return _greatest(returned for function in functions for returned in exit_values(function, index))
    if isinstance(source, Display) and isinstance(index, int) and not source.starred and index < len(source.elements):
        return footprint(source.elements[index])
    return footprint(source)


def _gathered(call: Call) -> Value | None:
    """What a call of Accelerate or Fabric gathers from all processes."""
    if call.method in {"gather", "gather_for_metrics", "pad_across_processes", "all_gather", "reduce"} and call.arguments:
        return call.arguments[0].value
    return None


_TO_HOST = frozenset({"cpu", "numpy", "tolist", "item"})
_REDUCTIONS = frozenset({"sum", "mean", "norm", "prod", "std", "var", "median", "min", "max", "amax", "amin", "logsumexp"})
_INDICES = frozenset({"argmax", "argmin", "argsort", "multinomial", "nonzero", "topk", "bincount", "any", "all"})


def _called(call: Call) -> Footprint:
    names = qualified_names(call.callee)
    if call.method in _TO_HOST or _moves_to_cpu(call):
        return Footprint.NONE
    if any(name.startswith(torch.DETACHING_ROOTS) or name.startswith("builtins.") for name in names):
        return Footprint.NONE if not names & torch.PASSING_BUILTINS else _greatest(_given(call))
    if called_module(call) is not None or _is_forward(call):
        return Footprint.FULL
    if role(call.callee, Role.LOSS_FUNCTION) or any(name.rsplit(".", 1)[-1].endswith("_loss") for name in names):
        return _loss(call)
    if "torch.nn.functional.cross_entropy" in names:
        return _loss(call)
    if call.name in _INDICES:
        return Footprint.REDUCED
    if call.name in _REDUCTIONS and (call.receiver is not None or any(name.startswith("torch.") for name in names)):
        return _reduced(call, own=call.receiver is None)
    gathered = _gathered(call)
    if gathered is not None:
        return footprint(gathered)
    functions = callees(call)
    if functions:
        return _greatest(exit.value for function in functions for exit in function.exits)
    if any(name.startswith(torch.FUNCTION_MODULES) for name in names):
        return _greatest(_given(call))
    if call.receiver is not None and (call.method in torch.TENSOR_EVIDENCE or role(call.receiver, Role.TENSOR, Role.OUTPUT)):
        return footprint(call.receiver)
    return _by_role(call)


def _given(call: Call) -> Iterable[Value]:
    return (argument.value for argument in call.arguments)


def _is_forward(call: Call) -> bool:
    """``x.forward(...)`` of an object whose class is not in sight, by PyTorch's protocol."""
    return call.method == "forward" and not callees(call)


def _moves_to_cpu(call: Call) -> bool:
    """Whether ``call`` is ``.to("cpu")`` or ``.to(device="cpu")``."""
    device = call.argument("device", 0) if call.method == "to" else None
    return device is not None and any(
        (isinstance(source, Constant) and source.constant == "cpu") or _is_cpu_device(source) for source in sources(device)
    )


def _is_cpu_device(value: Value) -> bool:
    if not isinstance(value, Call) or not isinstance(value.callee, External) or not value.arguments:
        return False
    first = value.arguments[0].value
    return value.callee.qualified_name == "torch.device" and isinstance(first, Constant) and first.constant == "cpu"


def _loss(call: Call) -> Footprint:
    reduction = call.argument("reduction")
    kept = isinstance(reduction, Constant) and reduction.constant == "none"
    return Footprint.REDUCED if kept else Footprint.SCALAR


def _reduced(call: Call, *, own: bool) -> Footprint:
    """What a reduction leaves: one element, or some for each sample if it goes over a dimension."""
    positions = call.positional()[1 if own else 0 :]
    over_dimension = bool(positions) or any(argument.keyword in {"dim", "axis"} for argument in call.arguments)
    return Footprint.REDUCED if over_dimension else Footprint.SCALAR
