"""How much device memory a kept value holds by itself, graph aside: none, a few elements, or a whole output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum

from memlint.model.aliases import display_element, qualified_names, sources
from memlint.model.calls import callees, passed_arguments
from memlint.model.containers import elements, names_of
from memlint.model.forwards import called_module
from memlint.model.gradmode import evaluates_a_batch
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Function
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
    Formatted,
    Item,
    Narrowed,
    Parameter,
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
    INDEX = 3
    """Integers or flags: the class with the greatest score, a mask."""
    REDUCED = 4
    """An element for each sample, or some: a sum over the other dimensions."""
    FULL = 5
    """A whole output of a module."""


@query(on_cycle=Footprint.NONE)
def footprint(value: Value) -> Footprint:
    """What keeping ``value`` keeps on the device, as far as the operations that it comes from tell."""
    match value:
        case Constant() | Formatted() | Narrowed():
            return Footprint.NONE
        case Phi() | Choice() | Awaited() | Binary() | Unary():
            return _greatest(value.operands())
        case Comparison():
            return min(_greatest(value.values), Footprint.INDEX)
        case Display() | Comprehension():
            return _greatest(elements(value))
        case Call():
            return _called(value)
        case Attribute():
            return _attribute(value)
        case Item() | Part() | Element():
            return _component(value)
    return _by_origin(value)


def _by_origin(value: Value) -> Footprint:
    if isinstance(value, Parameter) and hands_outputs(value):
        return Footprint.FULL
    nearer = [source for source in sources(value) if source is not value]
    if isinstance(value, Parameter) and not nearer:
        nearer = list(passed_arguments(value) or ())
    return _greatest(nearer) if nearer else _by_role(value)


def hands_outputs(parameter: Parameter) -> bool:
    """Whether a callback of Lightning gets in ``parameter`` what a validation, test or prediction step returns."""
    function = parameter.function
    return parameter.index == 3 and function.name.endswith("_batch_end") and evaluates_a_batch(function)


def _greatest(values: Iterable[Value]) -> Footprint:
    return max(map(footprint, values), default=Footprint.NONE)


def _by_role(value: Value) -> Footprint:
    return Footprint.NONE if role(value, Role.NUMBER, Role.TEXT, Role.NONE) else Footprint.UNKNOWN


def _attribute(value: Attribute) -> Footprint:
    if value.name in torch.INDEX_PARTS:
        return Footprint.INDEX
    if value.name in torch.DETACHING_ATTRIBUTES and value.name not in {"data", "grad"}:
        return Footprint.NONE
    if value.name == "loss":
        return Footprint.SCALAR
    nearer = [source for source in sources(value) if source is not value]
    if nearer:
        return _greatest(nearer)
    inside = footprint(value.base)
    return Footprint.FULL if inside is Footprint.UNKNOWN and is_output_field(value) else inside


def _component(value: Item | Part | Element) -> Footprint:
    if role(value, Role.BATCH):
        return Footprint.UNKNOWN
    if is_index_component(value):
        return Footprint.INDEX
    nearer = [source for source in sources(value) if source is not value]
    if nearer:
        return _greatest(nearer)
    base = value.iterable if isinstance(value, Element) else value.base
    index = component_index(value)
    if index == "loss":
        return Footprint.SCALAR
    return max((_picked(source, index) for source in sources(base)), default=Footprint.UNKNOWN)


@query(on_cycle=Footprint.NONE)
def _picked(source: Value, index: object) -> Footprint:
    """The component ``index`` of what ``source`` returns or holds."""
    if isinstance(source, Call):
        if moves_to_host(source):
            return Footprint.NONE
        gathered = _gathered(source)
        if gathered is not None:
            return max((_picked(given, index) for given in sources(gathered)), default=Footprint.UNKNOWN)
        functions = callees(source)
        if functions and called_module(source) is None:
            picked = _greatest(returned for function in functions for returned in exit_values(function, index))
            return min(picked, _given(source)) if all(map(_only_reshapes, functions)) else picked
    element = display_element(source, index)
    return footprint(source if element is None else element)


def _gathered(call: Call) -> Value | None:
    """What a call of Accelerate or Fabric gathers from all processes."""
    if (
        call.method in {"gather", "gather_for_metrics", "pad_across_processes", "all_gather", "reduce"}
        and call.arguments
    ):
        return call.arguments[0].value
    return None


_TO_HOST = frozenset({"cpu", "numpy", "tolist", "item"})
_REDUCTIONS = frozenset(
    {"sum", "mean", "norm", "prod", "std", "var", "median", "min", "max", "amax", "amin", "logsumexp", "topk"}
)
_INDICES = frozenset({"argmax", "argmin", "argsort", "multinomial", "nonzero", "bincount", "any", "all"})


def _called(call: Call) -> Footprint:
    names = qualified_names(call.callee)
    if moves_to_host(call):
        return Footprint.NONE
    if called_module(call) is not None:
        return Footprint.FULL
    if call.method == "forward":
        # Whatever object has it: what the model inside returns, unless it is seen to return something smaller.
        inside = _handed_on(call, names) if callees(call) else Footprint.UNKNOWN
        return Footprint.FULL if inside is Footprint.UNKNOWN else inside
    if _is_loss(call, names):
        return _loss(call)
    if call.name in _INDICES:
        return Footprint.INDEX
    if call.name in _REDUCTIONS and _is_tensor_operation(call, names):
        return _reduced(call)
    return _handed_on(call, names)


def _handed_on(call: Call, names: frozenset[str]) -> Footprint:
    """The footprint of what ``call`` gets, if it returns that or something of its size."""
    if names & torch.PASSING_BUILTINS or any(name.startswith(torch.FUNCTION_MODULES) for name in names):
        return _greatest(argument.value for argument in call.arguments)
    if any(name.startswith((*torch.DETACHING_ROOTS, "builtins.")) for name in names):
        return Footprint.NONE
    gathered = _gathered(call)
    if gathered is not None:
        return footprint(gathered)
    functions = callees(call)
    if functions:
        returned = _greatest(exit.value for function in functions for exit in function.exits)
        return min(returned, _given(call)) if all(map(_only_reshapes, functions)) else returned
    if call.receiver is not None and _is_tensor_operation(call, names):
        return footprint(call.receiver)
    return _by_role(call)


def _given(call: Call) -> Footprint:
    return _greatest(argument.value for argument in call.arguments)


def _only_reshapes(function: Function) -> bool:
    """Whether what ``function`` returns holds no more than its arguments: other callers may pass larger ones."""
    is_plain = function.owner is None and function.parent is function.module.body
    return is_plain and not function.is_generator and not _runs_module(function)


@query(on_cycle=False)
def _runs_module(function: Function) -> bool:
    """Whether ``function`` runs a module, with gradients or without."""
    calls = function.lower().calls
    return any(called_module(call) is not None or any(map(_runs_module, callees(call))) for call in calls)


def _is_tensor_operation(call: Call, names: frozenset[str]) -> bool:
    if call.receiver is None:
        return any(name.startswith("torch.") for name in names)
    return call.method in torch.TENSOR_EVIDENCE or bool(role(call.receiver, Role.TENSOR, Role.OUTPUT))


def moves_to_host(call: Call) -> bool:
    """Whether ``call`` returns a copy in host memory: ``.cpu()``, ``.numpy()``, ``.to("cpu")``, ``move(x, "cpu")``."""
    if call.method in _TO_HOST:
        return True
    if callees(call) or not call.method:
        return any(_is_cpu(source) for given in call.arguments[1:] for source in sources(given.value))
    device = call.argument("device", 0) if call.method == "to" else None
    return device is not None and is_host_device(device)


def is_host_device(device: Value) -> bool:
    """Whether ``device`` may be the CPU, by name."""
    return any(_is_cpu(source) for source in sources(device))


def host_footprint(value: Value) -> Footprint:
    """What keeping ``value`` keeps in host memory, if it is a tensor or an array that was moved there."""
    return max((_moved(source) for source in sources(value)), default=Footprint.NONE)


def _moved(source: Value) -> Footprint:
    if not isinstance(source, Call) or source.receiver is None or source.method == "item":
        return Footprint.NONE
    before = host_footprint(source.receiver)
    return max(before, footprint(source.receiver)) if moves_to_host(source) else before


def _is_cpu(device: Value) -> bool:
    if isinstance(device, Call) and "torch.device" in qualified_names(device.callee) and device.arguments:
        device = device.arguments[0].value
    return isinstance(device, Constant) and device.constant == "cpu"


def _is_loss(call: Call, names: frozenset[str]) -> bool:
    if role(call.callee, Role.LOSS_FUNCTION):
        return True
    return any(
        name.startswith("torch.nn.functional.") and name.endswith(("_loss", "cross_entropy", "kl_div"))
        for name in names
    )


def _loss(call: Call) -> Footprint:
    reduction = call.argument("reduction")
    kept = isinstance(reduction, Constant) and reduction.constant == "none"
    return Footprint.REDUCED if kept else Footprint.SCALAR


def _reduced(call: Call) -> Footprint:
    """What a reduction leaves: one element, or some for each sample if it goes over a dimension."""
    positions = call.positional()[1 if call.receiver is None else 0 :]
    over_dimension = bool(positions) or any(argument.keyword in {"dim", "axis", "k"} for argument in call.arguments)
    return Footprint.REDUCED if over_dimension else Footprint.SCALAR


# ------------------------------------------------------------------- what becomes of it

_MAX_NAMES = 200
_JOINS = frozenset({"cat", "concat", "concatenate", "stack", "vstack", "hstack"})
_PRODUCTS = frozenset({"matmul", "mm", "bmm", "cdist", "einsum"})


def is_moved_to_host(container: Value) -> bool:
    """Whether what ``container`` collects is moved to host memory in the end: ``torch.cat(preds).cpu()``."""
    return any(
        isinstance(user, Call) and (moves_to_host(user) or _is_of_host_library(user))
        for value in _collected(container)
        for user in _users(value)
    )


def is_joined_from_outputs(value: Value, container: Value) -> bool:
    """Whether ``value``, made out of sight of a model's output or by a method of a model, is joined by ``torch.cat``.

    ``torch.cat`` takes no numbers and no tensors without a dimension: there is an element for each sample at least.
    """
    makers = [source for source in sources(value) if isinstance(source, Call) and not callees(source)]
    if not makers or not is_joined(container):
        return False
    by_model = any(call.receiver is not None and role(call.receiver, Role.MODULE) for call in makers)
    return by_model or any(_is_output(argument.value) for call in makers for argument in call.arguments)


_OUTPUT_FIELDS = frozenset({"last_hidden_state", "pooler_output", "logits", "image_embeds", "text_embeds"})
"""What outputs of models of transformers are called, in records that nothing else has."""


def is_output_field(value: Attribute) -> bool:
    """Whether ``value`` reads a field that only outputs of models of transformers have, of what a call returned."""
    return value.name in _OUTPUT_FIELDS and any(isinstance(source, Call) for source in sources(value.base))


def _is_output(value: Value) -> bool:
    """Whether ``value`` is a whole output, or reads one of a record that a model out of sight returns."""
    if footprint(value) is Footprint.FULL:
        return True
    found = set(sources(value))
    calls = (source.receiver for source in found if isinstance(source, Call) and source.method in {"detach", "float"})
    read = {source for receiver in calls if receiver is not None for source in sources(receiver)}
    return any(isinstance(source, Attribute) and source.name in _OUTPUT_FIELDS for source in found | read)


def is_joined(container: Value) -> bool:
    """Whether ``torch.cat`` makes one tensor of what ``container`` collects."""
    users = (user for name in names_of(container) for user in _users(name) if isinstance(user, Call))
    return any(qualified_names(user.callee) & {"torch.cat", "torch.concat", "torch.concatenate"} for user in users)


def is_partly_on_host(container: Value) -> bool:
    """Whether some of what ``container`` collects is moved to host memory before it is put in."""
    return any(_is_on_host(element) for element in elements(container))


def _is_on_host(value: Value) -> bool:
    match value:
        case Call():
            return moves_to_host(value)
        case Comprehension():
            return _is_on_host(value.element)
        case Display():
            return any(map(_is_on_host, value.elements))
    return False


def is_compared_on_device(container: Value) -> bool:
    """Whether all that ``container`` collects is multiplied or compared with each other, as in retrieval."""
    return any(
        (isinstance(user, Binary) and user.operator == "@") or (isinstance(user, Call) and user.name in _PRODUCTS)
        for value in _collected(container)
        for user in _users(value)
    )


def _collected(container: Value) -> Iterator[Value]:
    """``container``, what is made of all its elements, and its elements, under all names in the function."""
    seen: set[int] = set()
    pending = list(names_of(container))
    while pending and len(seen) < _MAX_NAMES:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        pending.extend(user for user in _users(value) if _keeps_collected(user))


def _users(value: Value) -> Iterator[Value]:
    for use in value.uses:
        if isinstance(use, Attribute):
            yield from (user for user in use.uses if isinstance(user, Call) and user.callee is use)
        elif isinstance(use, Value):
            yield use


def _keeps_collected(user: Value) -> bool:
    if isinstance(user, Call):
        return user.name in _JOINS or user.method in {"detach", "view", "reshape", "float", "squeeze", "flatten", "t"}
    return isinstance(user, (Phi, Item, Element, Choice))


def _is_of_host_library(call: Call) -> bool:
    return any(name.startswith(("numpy.", "sklearn.", "scipy.", "pandas.")) for name in qualified_names(call.callee))
