"""The autograd graph, read from the source: which values carry one, whether a backward has freed what it saves.

``attachment`` answers the first question with a degree of certainty. ``is_drained`` answers the second: a backward
without ``retain_graph`` frees the saved tensors of every node that it runs over, and only those, so a value is *drained*
when everything that it was computed from lies upstream of such a backward; what is kept alive by it is then graph nodes
(host memory), not activations. ``reaches_gradient`` says whether a value is later differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from memlint.findings import Confidence
from memlint.model.aliases import (
    aliases,
    argument_parameters,
    bound_arguments,
    call_sites,
    callees,
    display_element,
    find_method,
    instance_class,
    module_of,
    origins,
    passed_arguments,
    proven_call_sites,
    qualified_names,
    sources,
)
from memlint.model.containers import GROWING_METHODS, elements, insertions_of, names_of
from memlint.model.effects import backward_of, backward_roots, freeing_roots, returns_loss_to_framework
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.kinds import Role, class_of, kinds, role
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.values import (
    Attribute,
    Awaited,
    Binary,
    Branch,
    Call,
    Choice,
    ClassValue,
    Comparison,
    Comprehension,
    Constant,
    Display,
    Element,
    Entered,
    Exit,
    External,
    Formatted,
    Free,
    FunctionValue,
    Item,
    Narrowed,
    Opaque,
    Parameter,
    Part,
    Phi,
    Region,
    Store,
    Unary,
    Unbound,
    Value,
)


class Attachment(IntEnum):
    """How sure it is that a value carries a graph."""

    DETACHED = 0
    UNKNOWN = 1
    LIKELY = 2
    CERTAIN = 3


# -------------------------------------------------------------------- attachment


@query(on_cycle=Attachment.DETACHED)
def attachment(value: Value) -> Attachment:
    """How sure it is that ``value`` carries a graph where it is computed."""
    level = _level(value, None)
    return Attachment.CERTAIN if level is Attachment.UNKNOWN and _holds_differentiated(value) else level


def is_attached(value: Value) -> bool:
    """Whether ``value`` carries a graph, certainly or likely."""
    return attachment(value) >= Attachment.LIKELY


@query(on_cycle=True)
def is_leaf(value: Value) -> bool:
    """Whether ``value`` holds nothing attached but parameters: leaves of the graph, which keep no activations alive."""
    return attachment(value) <= Attachment.UNKNOWN or not any(_records(ancestor) for ancestor in ancestors(value))


def _records(value: Value) -> bool:
    """Whether autograd records the operation that computes ``value``."""
    if attachment(value) <= Attachment.UNKNOWN:
        return False
    if isinstance(value, Binary):
        return not role(value, Role.CONTAINER)
    if not isinstance(value, Call):
        return isinstance(value, Unary)
    names = qualified_names(value.callee)
    hands_on = value.method in _HANDING_METHODS or bool(names & (torch.PASSING_BUILTINS | torch.CREATORS_WITH_GRAD))
    return not hands_on and not callees(value)


_HANDING_METHODS = frozenset(
    {"requires_grad_", "values", "items", "keys", "copy", "pop", "popleft", "get"} | torch.PARAMETER_METHODS
)


def keeps_graph(value: Value) -> bool:
    """Whether keeping ``value`` keeps a graph alive, certainly or likely."""
    return attachment(value) > Attachment.UNKNOWN and not is_leaf(value)


def certainty(value: Value) -> Confidence:
    """The attachment of ``value`` as the confidence of a finding that rests on it."""
    level = attachment(value)
    if level is Attachment.CERTAIN:
        return Confidence.CERTAIN
    return Confidence.LIKELY if level is Attachment.LIKELY else Confidence.POSSIBLE


@query(on_cycle=Attachment.DETACHED)
def _level(value: Value, bare: Function | None) -> Attachment:
    """What the origin of ``value`` says of its graph, the parameters of the function ``bare`` left out of account."""
    return _evaluate(value, bare if bare is value.function else None)


def _most(values: object, bare: Function | None) -> Attachment:
    best = Attachment.DETACHED
    for value in values:  # type: ignore[attr-defined]
        best = max(best, _level(value, bare))
        if best is Attachment.CERTAIN:
            break
    return best


def _evaluate(value: Value, bare: Function | None) -> Attachment:
    match value:
        case Constant() | Formatted() | Comparison() | FunctionValue() | ClassValue() | Narrowed():
            return Attachment.DETACHED
        case Parameter():
            return _parameter(value, bare)
        case Phi() | Choice() | Awaited() | Free() | External():
            return _renamed(value, bare)
        case Binary():
            return _arithmetic(value, bare)
        case Unary():
            return Attachment.DETACHED if value.operator == "not" else _level(value.operand, bare)
        case Display(kind="tuple"):
            return _most(value.elements, bare)
        case Display():
            return _most(elements(value), bare)
        case Comprehension():
            return _level(value.element, bare)
        case Entered():
            return _level(value.context, bare)
        case Call():
            return _call(value, bare)
        case Attribute():
            return _attribute(value, bare)
        case Item() | Part() | Element():
            return _component(value, bare)
    return Attachment.UNKNOWN


def _renamed(value: Value, bare: Function | None) -> Attachment:
    nearer = aliases(value)
    if nearer is None:
        return Attachment.DETACHED if isinstance(value, External) else Attachment.UNKNOWN
    best = _most(nearer, bare)
    if best is Attachment.UNKNOWN and _runs_backward(value):
        return Attachment.CERTAIN
    return best


def _parameter(value: Parameter, bare: Function | None) -> Attachment:
    if _runs_backward(value):
        return Attachment.CERTAIN
    if bare is value.function or _known_plain(value):
        return Attachment.DETACHED
    passed = passed_arguments(value)
    return _most(passed, None) if passed else Attachment.UNKNOWN


def _arithmetic(value: Binary, bare: Function | None) -> Attachment:
    if role(value.left, Role.TEXT) or grad_mode(value.region) is GradMode.DISABLED:
        return Attachment.DETACHED
    best = _most(value.operands(), bare)
    if best is Attachment.UNKNOWN and _runs_backward(value):
        return Attachment.CERTAIN
    return best


def _attribute(value: Attribute, bare: Function | None) -> Attachment:
    if value.name in torch.DETACHING_ATTRIBUTES or value.name in torch.INDEX_PARTS:
        return Attachment.DETACHED
    nearer = aliases(value)
    if nearer is not None:
        return _most(nearer, bare)
    if _runs_backward(value):
        return Attachment.CERTAIN
    if role(value.base, Role.OUTPUT, Role.TENSOR):
        return _level(value.base, bare)
    if role(value.base, Role.MODULE):
        return Attachment.UNKNOWN
    return min(_level(value.base, bare), Attachment.LIKELY)


def _component(value: Item | Part | Element, bare: Function | None) -> Attachment:
    if _runs_backward(value):
        return Attachment.CERTAIN
    if role(value, Role.BATCH) or _known_plain(value):
        return Attachment.DETACHED
    nearer = aliases(value)
    if nearer is not None:
        return _most(nearer, bare)
    base = value.iterable if isinstance(value, Element) else value.base
    if is_index_component(value):
        return Attachment.DETACHED
    picked = picked_elements(value)
    if picked:
        return _most(picked, bare)
    found = [_returned_component(source, value, bare) for source in sources(base)]
    if found and all(level is not None for level in found):
        return max(level for level in found if level is not None)
    if role(base, Role.CONTAINER):
        inside = elements(base)
        if inside:
            return _most(inside, bare)
    return _level(base, bare)


def _returned_component(source: Value, value: Item | Part | Element, bare: Function | None) -> Attachment | None:
    """The component of the tuple or dict that a function of the project returns."""
    if not isinstance(source, Call) or isinstance(value, Element):
        return None
    functions = callees(source)
    index = component_index(value)
    if not functions or index is None or grad_mode(source.region) is GradMode.DISABLED:
        return None
    return max(_returned(source, function, index, bare) for function in functions)


def _returned(call: Call, function: Function, component: object, bare: Function | None) -> Attachment:
    """What ``call`` gets from ``function``: what it returns by itself, or of what is passed for its parameters."""
    own = max((_level(value, function) for value in _exit_values(function, component)), default=Attachment.DETACHED)
    bound = bound_arguments(call, function)
    passing = gradient_parameters(function, component)
    return max(own, _most([bound[name] for name in passing if name in bound], bare))


def _exit_values(function: Function, component: object) -> Iterator[Value]:
    """What ``function`` returns or yields, or the component of it."""
    for exit in function.exits:
        if component is None:
            yield exit.value
            continue
        for source in sources(exit.value):
            element = display_element(source, component)
            yield source if element is None else element


# ------------------------------------------------------------------- calls


def _call(call: Call, bare: Function | None) -> Attachment:
    if _runs_backward(call):
        return Attachment.CERTAIN
    names = qualified_names(call.callee)
    if any(name in torch.DETACHING_FUNCTIONS or name.startswith(torch.DETACHING_ROOTS) for name in names):
        return Attachment.CERTAIN if _requests_grad(call) else Attachment.DETACHED
    if names & torch.CREATORS_WITH_GRAD:
        return Attachment.CERTAIN
    mode = grad_mode(call.region)
    level = _call_under_grad(call, names, bare) if mode is not GradMode.DISABLED else _lookup(call, names, bare)
    return min(level, Attachment.LIKELY) if mode is GradMode.UNKNOWN else level


def _lookup(call: Call, names: frozenset[str], bare: Function | None) -> Attachment:
    """Without gradients a call can only hand back what was attached before."""
    if names & torch.PASSING_BUILTINS:
        return _arguments(call, bare)
    if call.method in {"pop", "popleft", "get"} and call.receiver is not None:
        return _most(elements(call.receiver), bare)
    return Attachment.DETACHED


def _call_under_grad(call: Call, names: frozenset[str], bare: Function | None) -> Attachment:
    module = role(call.callee, Role.MODULE, Role.ENGINE)
    if module is not None and not any(isinstance(s, ClassValue) for s in sources(call.callee)):
        return _module_call(call, module.value == "certain", bare)
    if role(call.callee, Role.LOSS_FUNCTION):
        return _loss_call(call, bare)
    if names & torch.PASSING_BUILTINS or any(_is_differentiable(name) for name in names):
        return _arguments(call, bare)
    functions = callees(call)
    if functions:
        return _project_call(call, functions, bare)
    if call.receiver is not None:
        return _method_call(call, call.receiver, bare)
    if any(isinstance(source, ClassValue) for source in sources(call.callee)):
        return min(_arguments(call, bare), Attachment.LIKELY)
    return _unknown_call(call, bare)


def _arguments(call: Call, bare: Function | None) -> Attachment:
    return _most((argument.value for argument in call.arguments), bare)


def _unknown_call(call: Call, bare: Function | None) -> Attachment:
    level = _arguments(call, bare)
    if level <= Attachment.UNKNOWN:
        return Attachment.LIKELY if _is_handed_in(call.callee) and feeds_backward(call) else Attachment.UNKNOWN
    return min(level, Attachment.LIKELY)


def _module_call(call: Call, certain: bool, bare: Function | None) -> Attachment:
    if is_frozen(call.callee):
        return _arguments(call, bare)
    functions = callees(call)
    if functions:
        inside = _project_call(call, functions, bare)
        if inside is Attachment.DETACHED or inside is Attachment.CERTAIN:
            return inside
        return Attachment.LIKELY
    return Attachment.CERTAIN if certain else Attachment.LIKELY


def _loss_call(call: Call, bare: Function | None) -> Attachment:
    functions = callees(call)
    level = _arguments(call, bare)
    if functions and level is not Attachment.CERTAIN:
        return max(level, _project_call(call, functions, bare))
    return level


def _project_call(call: Call, functions: tuple[Function, ...], bare: Function | None) -> Attachment:
    recording = [function for function in functions if not declared_without_grad(function)]
    return max((_returned(call, function, None, bare) for function in recording), default=Attachment.DETACHED)


def _method_call(call: Call, receiver: Value, bare: Function | None) -> Attachment:
    method = call.method or ""
    owner = class_of(receiver)
    if owner is None or find_method(owner, method) is None:
        if method in torch.DETACHING_METHODS or method in torch.IN_PLACE_DETACH:
            return Attachment.DETACHED
        if method in {"requires_grad_"}:
            return Attachment.CERTAIN if not _turns_off(call) else Attachment.DETACHED
    if method in torch.STRUCTURE_METHODS or (method in {"index", "count", "keys"} and role(receiver, Role.CONTAINER)):
        return Attachment.DETACHED
    if method == "scale" and call.arguments and role(receiver, Role.SCALER):
        return _arguments(call, bare)
    if role(receiver, Role.MODULE, Role.ENGINE):
        return _module_method(call, receiver, method, bare)
    if role(receiver, Role.ACCELERATOR):
        return _arguments(call, bare)
    if role(receiver, Role.TENSOR, Role.OUTPUT, Role.BATCH) or method in torch.TENSOR_EVIDENCE:
        return max(_level(receiver, bare), _arguments(call, bare))
    if method in {"pop", "popleft", "get", "values", "items", "copy"}:
        inside = elements(receiver)
        if inside:
            return _most(inside, bare)
    level = max(_level(receiver, bare), _arguments(call, bare))
    if level is Attachment.DETACHED and not kinds(receiver):
        return Attachment.UNKNOWN
    return min(level, Attachment.LIKELY)


def _module_method(call: Call, receiver: Value, method: str, bare: Function | None) -> Attachment:
    if method in torch.GENERATED_WITHOUT_GRAD or method in torch.STRUCTURE_METHODS:
        return Attachment.DETACHED
    if method in torch.PARAMETER_METHODS:
        return Attachment.DETACHED if is_frozen(receiver) else Attachment.CERTAIN
    if method in {"log", "log_dict", "print"}:
        return Attachment.DETACHED
    if method in {"forward", "forward_features", "forward_head", "__call__"}:
        return Attachment.LIKELY if not is_frozen(receiver) else _arguments(call, bare)
    held = role(call.callee, Role.MODULE, Role.LOSS_FUNCTION)
    return _unknown_call(call, bare) if held is None else Attachment.LIKELY


def _is_handed_in(callee: Value) -> bool:
    """Whether what is called is an object that the function or its instance was given, as models and criteria are."""
    if isinstance(callee, Attribute):
        return instance_class(callee.base) is not None
    return any(isinstance(source, Parameter) for source in sources(callee))


def _is_differentiable(name: str) -> bool:
    last = name.rsplit(".", 1)[-1]
    return name.startswith(torch.FUNCTION_MODULES) and (not last[:1].isupper() or ".distributions." in name or last == "Variable")


def _requests_grad(call: Call) -> bool:
    value = call.argument("requires_grad")
    return isinstance(value, Constant) and value.constant is True


def _turns_off(call: Call) -> bool:
    value = call.argument("requires_grad", 0)
    return isinstance(value, Constant) and value.constant is False


def declared_without_grad(function: Function) -> bool:
    """Whether decorators or a framework disable gradients for the function."""
    from memlint.model.gradmode import declared_mode  # noqa: PLC0415

    return declared_mode(function) is GradMode.DISABLED


def _known_plain(value: Value) -> bool:
    """Whether ``value`` is known to be something that carries no graph."""
    known = kinds(value)
    plain = {Role.NUMBER, Role.TEXT, Role.NONE, Role.LOADER, Role.BATCH, Role.DATASET, Role.OPTIMIZER, Role.SCHEDULER, Role.MODULE}
    return bool(known) and all(kind.role in plain for kind in known) and any(kind.role is not Role.NONE for kind in known)


def _runs_backward(value: Value) -> bool:
    """Whether a backward starts from this very value under one of its later names, here or in a framework."""
    return any(_starts_backward(alias, use) for alias in _direct_names(value) for use in alias.uses)


def _starts_backward(value: Value, use: Value | Store | Exit) -> bool:
    match use:
        case Attribute(name="backward"):
            return any(isinstance(user, Call) and user.callee is use and not user.positional() for user in use.uses)
        case Call(name="scale") if use.receiver is not value:
            return _runs_backward(use)
        case Call() if use.callee is not value:
            backward = backward_of(use)
            return backward is not None and any(root is value for root in backward.roots)
        case Exit(kind="return"):
            return returns_loss_to_framework(use.function)
        case Choice():
            return any(_starts_backward(use, user) for user in use.uses)
        case Display():
            leads = display_element(use, "loss" if use.kind == "dict" else 0) is value
            return leads and any(isinstance(user, (Choice, Exit)) and _starts_backward(use, user) for user in use.uses)
    return False


def _holds_differentiated(value: Value) -> bool:
    """Whether a backward starts from a component of the value: ``output["loss"].backward()``."""
    return any(
        isinstance(use, (Item, Attribute, Part)) and _runs_backward(use)
        for alias in _direct_names(value)
        for use in alias.uses
    )


@query(on_cycle=False)
def feeds_backward(call: Call) -> bool:
    """Whether a backward in the same function starts from something computed from ``call``."""
    return id(call) in _fed(call.function)


@query(on_cycle=frozenset())
def _fed(function: Function) -> frozenset[int]:
    return frozenset(id(ancestor) for root in backward_roots(function) for ancestor in ancestors(root))


def _direct_names(value: Value) -> Iterator[Value]:
    yield value
    for use in value.uses:
        if isinstance(use, Phi) and use.loop is not None and use.inputs and use.inputs[0] is value and len(use.inputs) == 1:
            yield use


@query(on_cycle=False)
def is_frozen(module: Value) -> bool:
    """Whether all parameters of a module are set to require no gradient, and never to require one again."""
    found = [_freezing(name) for name in _module_names(module)]
    return True in found and False not in found


def _module_names(module: Value) -> Iterator[Value]:
    yield from names_of(module)
    for source in sources(module):
        if isinstance(source, Parameter):
            for passed in passed_arguments(source) or ():
                yield from names_of(passed)


def _freezing(name: Value) -> bool | None:
    """True if gradients are switched off for all parameters of the module ``name``, False if on, None if neither."""
    result: bool | None = None
    for use in name.uses:
        if not isinstance(use, Attribute):
            continue
        for user in use.uses:
            if not isinstance(user, Call) or user.callee is not use:
                continue
            switched = _switches(user)
            if switched is False:
                return False
            result = result or switched
    return result


def _switches(call: Call) -> bool | None:
    if call.method == "requires_grad_":
        return _turns_off(call)
    if call.method != "parameters":
        return None
    for use in call.uses:
        if isinstance(use, Element):
            for user in use.uses:
                if isinstance(user, Store) and user.attribute == "requires_grad" and isinstance(user.value, Constant):
                    return not user.value.constant
                if isinstance(user, Attribute) and user.name == "requires_grad_":
                    for inner in user.uses:
                        if isinstance(inner, Call):
                            return _turns_off(inner)
    return None


def is_index_component(value: Item | Part | Element) -> bool:
    """Whether the component is the index half of ``max(dim)``, ``topk``, ``sort`` and their like."""
    if component_index(value) != 1 or isinstance(value, Element):
        return False
    with_indices = {"max", "min", "topk", "sort", "kthvalue", "mode", "median", "cummax", "cummin"}
    for source in sources(value.base):
        if isinstance(source, Call) and source.name in with_indices:
            names = qualified_names(source.callee)
            if source.receiver is not None or any(name.startswith("torch.") for name in names):
                return True
    return False


def component_index(value: Item | Part | Element) -> object:
    """The constant index or key of a component; None if there is none."""
    if isinstance(value, Part):
        return value.index
    if isinstance(value, Item) and len(value.index) == 1 and isinstance(value.index[0], Constant):
        return value.index[0].constant
    return None


# ------------------------------------------------------------------- flow backward


def picked_elements(value: Item | Part | Element) -> tuple[Value, ...]:
    """What a component can be when its base comes out of a list of tuples: the element of each tuple at its index."""
    index = component_index(value)
    if index is None or isinstance(value, Element):
        return ()
    found: list[Value] = []
    for source in sources(value.base):
        container = _source_container(source)
        inside = elements(container) if container is not None else ()
        picked = [display_element(element, index) for element in inside]
        if not picked or any(element is None for element in picked):
            return ()
        found.extend(element for element in picked if element is not None)
    return tuple(found)


def _source_container(source: Value) -> Value | None:
    match source:
        case Element():
            return source.iterable
        case Item():
            return source.base
        case Call() if source.method in {"pop", "popleft", "get"}:
            return source.receiver
    return None


def differentiable_operands(value: Value) -> tuple[Value, ...]:
    """The operands through which a gradient flows from ``value`` to what it was computed from."""
    match value:
        case Binary():
            return value.operands()
        case Unary():
            return (value.operand,) if value.operator != "not" else ()
        case Phi() | Choice() | Display() | Comprehension() | Item() | Part() | Element() | Awaited() | Entered():
            return value.operands() if not (isinstance(value, (Item, Part)) and is_index_component(value)) else ()
        case Attribute():
            return () if value.name in torch.DETACHING_ATTRIBUTES else (value.base,)
        case Call():
            return _call_operands(value)
    return ()


def _call_operands(call: Call) -> tuple[Value, ...]:
    if call.method in torch.STRUCTURE_METHODS or call.method in torch.PARAMETER_METHODS:
        return ()
    names = qualified_names(call.callee)
    if any(name in torch.DETACHING_FUNCTIONS or name.startswith(torch.DETACHING_ROOTS) for name in names):
        return ()
    if call.method in torch.DETACHING_METHODS and call.receiver is not None and class_of(call.receiver) is None:
        return ()
    receiver = () if call.receiver is None else (call.receiver,)
    functions = callees(call)
    if functions and not any(isinstance(source, ClassValue) for source in sources(call.callee)):
        passing = _passing_arguments(call, functions)
        if passing is not None:
            return passing
    return (*receiver, *(argument.value for argument in call.arguments))


def _passing_arguments(call: Call, functions: tuple[Function, ...]) -> tuple[Value, ...] | None:
    """The arguments whose gradient the called functions of the project let through; None if not all are in sight."""
    if call.is_open:
        return None
    found: list[Value] = []
    for function in functions:
        bound = bound_arguments(call, function)
        if any(parameter.star for parameter in function.parameters):
            return None
        found.extend(bound[name] for name in gradient_parameters(function) if name in bound)
    return tuple(found)


@query(on_cycle=frozenset())
def gradient_parameters(function: Function, component: object = None) -> frozenset[str]:
    """The parameters of ``function`` from which a gradient flows to what it returns or yields, or to a component of it."""
    if declared_without_grad(function):
        return frozenset()
    upstream = (value for returned in _exit_values(function, component) for value in local_ancestors(returned))
    return frozenset(v.name for v in upstream if isinstance(v, Parameter) and v.function is function)


def local_ancestors(value: Value) -> Iterator[Value]:
    """Like :func:`ancestors`, within the function of ``value``."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending.extend(differentiable_operands(current))


@query(on_cycle=())
def ancestors(root: Value) -> tuple[Value, ...]:
    """``root`` and everything that a backward from it runs over, as far as it can be followed.

    Crosses attributes of ``self``, containers, and calls of the project's functions into what they return.
    """
    return tuple(_walk_ancestors(root))


_MAX_ANCESTORS = 4000


def _walk_ancestors(root: Value) -> Iterator[Value]:
    seen: set[tuple[int, object]] = set()
    yielded: set[int] = set()
    pending: list[tuple[Value, object]] = [(root, None)]
    while pending and len(seen) < _MAX_ANCESTORS:
        value, component = pending.pop()
        if (id(value), component) in seen or (id(value), None) in seen:
            continue
        seen.add((id(value), component))
        if id(value) not in yielded:
            yielded.add(id(value))
            yield value
        if not _is_graph_free(value):
            pending.extend(_nearer(value, component))


def _nearer(value: Value, component: object) -> Iterator[tuple[Value, object]]:
    """The values one step upstream, each with the index or key of the part of it that counts (None for all of it)."""
    if isinstance(value, Display) and component is not None:
        element = display_element(value, component)
        if element is not None:
            yield element, None
            return
    if isinstance(value, (Part, Item)) and component_index(value) is not None:
        yield value.base, component_index(value)
    else:
        kept = component if isinstance(value, (Phi, Choice, Awaited)) else None
        yield from ((operand, kept) for operand in differentiable_operands(value))
    yield from ((alias, component) for alias in aliases(value) or ())
    if isinstance(value, Call):
        for function in callees(value):
            yield from ((exit.value, component) for exit in function.exits)
        inside = elements(value.receiver) if value.receiver is not None and value.method in {"pop", "get"} else ()
        yield from ((element, None) for element in inside)
    elif isinstance(value, Parameter):
        yield from ((passed, component) for passed in passed_arguments(value) or ())
    container = _container_behind(value)
    if container is not None and role(container, Role.CONTAINER):
        yield from ((element, None) for element in elements(container))


def _container_behind(value: Value) -> Value | None:
    match value:
        case Item():
            return value.base
        case Element():
            return value.iterable
        case Display() | Phi() | Attribute():
            return value
    return None


def _is_graph_free(value: Value) -> bool:
    return isinstance(value, (Constant, Formatted, Comparison, Unbound, Opaque)) or bool(role(value, Role.BATCH))


def graph_sources(value: Value) -> tuple[Value, ...]:
    """The calls of modules upstream of ``value`` that save activations."""
    return tuple(
        ancestor
        for ancestor in ancestors(value)
        if isinstance(ancestor, Call)
        and role(ancestor.callee, Role.MODULE, Role.ENGINE)
        and grad_mode(ancestor.region) is not GradMode.DISABLED
    )


# -------------------------------------------------------------------------- drained


class Drain(str, Enum):
    """Whether a backward has freed what a value's graph saves."""

    DRAINED = "drained"
    UNDRAINED = "undrained"
    UNKNOWN = "unknown"


def drain(value: Value) -> Drain:
    """Whether a freeing backward runs over everything that ``value`` was computed from."""
    freed = _freed(value.function.module)
    if _is_covered(value, freed):
        return Drain.DRAINED
    if graph_sources(value):
        return Drain.UNDRAINED
    return Drain.UNDRAINED if not freed and not _escapes_to_caller(value.function) else Drain.UNKNOWN


def _is_covered(value: Value, freed: AbstractSet[int]) -> bool:
    """Whether all that ``value`` was computed from is among ``freed`` (ids of values)."""
    if id(value) in freed:
        return True
    upstream = graph_sources(value)
    if upstream:
        return all(id(call) in freed for call in upstream)
    return any(id(ancestor) in freed and attachment(ancestor) > Attachment.UNKNOWN for ancestor in ancestors(value))


def drained_within(value: Value, region: Region) -> bool:
    """Whether a freeing backward inside ``region`` runs over all that ``value`` was computed from.

    A later backward through ``value`` would then raise, so nothing that keeps it can be there for one.
    """
    covering = _covering(value, region)
    return bool(covering) and _is_unconditional(covering, region)


def drained_on_some_paths(value: Value, region: Region) -> bool:
    """Whether freeing backwards inside ``region`` run over ``value`` under a condition only."""
    covering = _covering(value, region)
    return bool(covering) and not _is_unconditional(covering, region)


def _covering(value: Value, region: Region) -> list[Call]:
    """The calls inside ``region`` that start a freeing backward over what ``value`` was computed from."""
    starting = [call for call in region.function.calls if call.region.within(region) and any(freeing_roots(call))]
    if not _is_covered(value, _freed_by(starting)):
        return []
    return [call for call in starting if _is_covered(value, _freed_by((call,)))] or starting


def _is_unconditional(calls: list[Call], region: Region) -> bool:
    """Whether one of ``calls`` runs each time that ``region`` does: one without condition, or one on every branch."""
    taken = {id(branch) for call in calls for branch in _branches(call, region)[-1:]}
    for call in calls:
        branches = _branches(call, region)
        if not branches or all(id(sibling) in taken for sibling in branches[-1].siblings):
            return True
    return False


def _branches(call: Call, region: Region) -> list[Branch]:
    """The branches around ``call`` within ``region``, innermost first."""
    found: list[Branch] = []
    for ancestor in call.region.ancestors():
        if ancestor is region:
            break
        if isinstance(ancestor, Branch) and not ancestor.follows:
            found.append(ancestor)
    return found


def drained_outside(value: Value, region: Region) -> bool:
    """Whether a freeing backward of the same function, outside ``region``, runs over all that ``value`` was computed from."""
    return _is_covered(value, _freed_by(call for call in region.function.calls if not call.region.within(region)))


def _freed_by(calls: Iterable[Call]) -> set[int]:
    return {id(ancestor) for call in calls for root in freeing_roots(call) for ancestor in ancestors(root)}


def _escapes_to_caller(function: Function) -> bool:
    return bool(function.returns) and function.parent is not None and not call_sites(function)


@query(on_cycle=frozenset())
def _freed(module: Module) -> frozenset[int]:
    """Ids of the values that a freeing backward of the file, or of a caller that gets what is returned, runs over."""
    found: set[int] = set()
    for function in module.functions:
        for root in (*backward_roots(function, freeing=True), *_returned_roots(function)):
            found.update(id(ancestor) for ancestor in ancestors(root))
    return frozenset(found)


def _returned_roots(function: Function) -> Iterator[Value]:
    """Returned values that a caller in another file runs a backward over."""
    if not function.returns or function.parent is None:
        return
    for call in proven_call_sites(function):
        if call.function.module is function.module:
            continue
        for root in backward_roots(call.function, freeing=True):
            if any(ancestor is call for ancestor in ancestors(root)):
                yield from (exit.value for exit in function.returns)
                return


# --------------------------------------------------------------------- flow forward


class Reach(str, Enum):
    """Whether a value is differentiated later."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
    """It leaves what can be seen: returned to unknown callers, handed to unknown code."""


@dataclass(frozen=True)
class GradientFlow:
    """Where the graph of a value goes."""

    reach: Reach
    handed_over: tuple[Call, ...]
    """Calls of code out of sight that get the value (and would have to run a backward by themselves)."""


_MAX_FLOW = 3000


def reaches_gradient(value: Value) -> Reach:
    """Whether a backward or ``autograd.grad`` starts from something computed from ``value``.

    Follows names, containers, attributes of the class, calls into the project's functions, and returns to their
    callers.
    """
    return gradient_flow(value).reach


@query(on_cycle=GradientFlow(Reach.UNKNOWN, ()))
def gradient_flow(value: Value) -> GradientFlow:
    """Follows the graph of ``value`` to what it is used for; see :func:`reaches_gradient`."""
    return _Flow().run(value)


class _Step(NamedTuple):
    """A value to be followed, whether it lies in a function that was entered, and which component of it matters."""

    value: Value
    entered: bool
    component: object = None


def _is_last_alone(item: Item | Part) -> bool:
    """``losses[-1].backward()``: the newest element of a list is differentiated, those before it are not."""
    if not isinstance(item, Item) or component_index(item) != -1:
        return False
    return _runs_backward(item) and item.region.loop is not None


class _Flow:
    """Follows a value along its uses.

    A function that is entered through an argument returns to the call that entered it, and to no other. The flag that
    goes with each pending value says whether it lies in such a function.
    """

    def __init__(self) -> None:
        self.seen: set[tuple[int, bool, object]] = set()
        self.pending: list[_Step] = []
        self.entered = False
        self.component: object = None
        self.entries: dict[Function, list[_Step | None]] = {}
        self.returning: set[Function] = set()
        self.escaped = False
        self.handed_over: list[Call] = []

    def run(self, start: Value) -> GradientFlow:
        self.push(*(names_of(start) if role(start, Role.CONTAINER) else (start,)))
        while self.pending:
            value, self.entered, self.component = self.pending.pop()
            if self.is_seen(value):
                continue
            self.seen.add((id(value), self.entered, self.component))
            if len(self.seen) > _MAX_FLOW:
                return self.result(Reach.UNKNOWN)
            for use in value.uses:
                if self.follow(value, use):
                    return self.result(Reach.YES)
        return self.result(Reach.UNKNOWN if self.escaped else Reach.NO)

    def is_seen(self, value: Value) -> bool:
        """Whether the value was followed already, in the same way or in a more general one."""
        return any(
            (id(value), entered, component) in self.seen
            for entered in {self.entered, False}
            for component in (self.component, None)
        )

    def result(self, reach: Reach) -> GradientFlow:
        return GradientFlow(reach, tuple(self.handed_over))

    def push(self, *values: Value) -> None:
        """Values of the same run of the function that is looked at."""
        self.pending.extend(_Step(value, self.entered) for value in values)

    def push_elsewhere(self, *values: Value) -> None:
        """Values of any other run."""
        self.pending.extend(_Step(value, False) for value in values)

    def push_into(self, display: Display, value: Value) -> None:
        """A literal that holds the value in one of its places."""
        for place, element in enumerate(display.elements):
            if element is value:
                key = display.keys[place] if display.kind == "dict" else None
                index = key.constant if isinstance(key, Constant) else None if display.kind == "dict" else place
                self.pending.append(_Step(display, self.entered, None if display.starred else index))

    def push_part(self, part: Item | Part) -> None:
        """A component of the value; none that is known to be another one than that which matters."""
        index = component_index(part)
        if self.component is None or index is None or index == self.component:
            self.push(part)

    def follow(self, value: Value, use: Value | Store | Exit) -> bool:
        """Follows one use; True if it is a gradient."""
        match use:
            case Store():
                self.store(value, use)
            case Exit():
                return self.exit(use)
            case Attribute():
                if use.name == "backward":
                    return any(isinstance(user, Call) and backward_of(user) for user in use.uses)
                self.attribute(use)
            case Call():
                return self.call(value, use)
            case Comparison() | Formatted():
                pass
            case Binary() | Unary():
                if grad_mode(use.region) is not GradMode.DISABLED:
                    self.push(use)
            case Display():
                self.push_into(use, value)
            case Item() | Part():
                if not is_index_component(use) and not _is_last_alone(use):
                    self.push_part(use)
            case Phi() | Choice() | Awaited():
                self.pending.append(_Step(use, self.entered, self.component))
            case _:
                self.push(use)
        return False

    def attribute(self, use: Attribute) -> None:
        if use.name in torch.DETACHING_ATTRIBUTES:
            return
        for user in use.uses:
            if not (isinstance(user, Call) and user.callee is use):
                self.push(use)
            elif user.method not in torch.DETACHING_METHODS and user.method not in GROWING_METHODS:
                self.push(user)

    def store(self, value: Value, store: Store) -> None:
        if store.value is not value:
            return
        if store.base is None:
            self.captured(store)
        elif store.attribute is not None:
            self.stored_attribute(store.base, store.attribute)
        else:
            self.into_container(store.base)

    def captured(self, store: Store) -> None:
        """Functions defined inside, or the functions of a module, read the name."""
        for inner in store.function.functions:
            inner.lower()
        self.push_elsewhere(*store.function.captures.get(store.key or "", ()))

    def stored_attribute(self, base: Value, name: str) -> None:
        owner = instance_class(base) or class_of(base)
        module = owner.module if owner is not None else module_of(base)
        loads = module.loads.get(name, ())
        self.push_elsewhere(*loads)
        if module is not module_of(base):
            self.push_elsewhere(*module_of(base).loads.get(name, ()))
        if not loads:
            self.escaped = True

    def into_container(self, container: Value) -> None:
        holder = container
        while isinstance(holder, Item):
            holder = holder.base
        if isinstance(holder, Attribute):
            self.stored_attribute(holder.base, holder.name)
        for name in names_of(container):
            if name.function is container.function:
                self.push(name)
            else:
                self.push_elsewhere(name)

    def exit(self, exit: Exit) -> bool:
        function = exit.function
        if returns_loss_to_framework(function):
            return self.component in {None, 0, "loss"}
        if function.parent is None:
            return False
        if self.entered and function in self.entries:
            self.returning.add(function)
            self.pending.extend(entry for entry in self.entries[function] if entry is not None)
            return False
        sites = proven_call_sites(function)
        if function.name == "<lambda>" or len(sites) < len(call_sites(function) or (None,)):
            self.escaped = True
        if not sites:
            self.escaped = True
        else:
            here = self.entered and any(outer in self.entries for outer in function.enclosing())
            self.pending.extend(_Step(site, here, self.component) for site in sites)
        return False

    def call(self, value: Value, call: Call) -> bool:
        if call.callee is value:
            return False
        backward = backward_of(call)
        if backward is not None:
            return any(root is value for root in backward.roots)
        names = qualified_names(call.callee)
        if any(name in torch.DETACHING_FUNCTIONS or name.startswith(torch.DETACHING_ROOTS) for name in names):
            return False
        if call.receiver is not None and any(insertion.value is value for insertion in insertions_of(call)):
            self.into_container(call.receiver)
            return False
        if call.method in frameworks.DETACHING_SINK_METHODS:
            return False
        return self.argument(value, call, names)

    def argument(self, value: Value, call: Call, names: frozenset[str]) -> bool:
        if self.enter(value, call):
            return False
        if any(isinstance(source, ClassValue) for source in sources(call.callee)):
            self.constructor(value, call)
            return False
        if not _is_plain(call) and (grad_mode(call.region) is not GradMode.DISABLED or names & torch.PASSING_BUILTINS):
            self.push(call)
        if not names and not kinds(call.callee) and call.method is None:
            self.escaped = True
        if _is_out_of_sight(call, names):
            self.handed_over.append(call)
            return "backward" in call.name
        return False

    def enter(self, value: Value, call: Call) -> bool:
        """Follows an argument into the functions of the project that ``call`` runs; False if there are none."""
        records = grad_mode(call.region) is not GradMode.DISABLED
        parameters = [
            parameter
            for argument in call.arguments
            if argument.value is value
            for parameter in argument_parameters(call, argument)
        ]
        for parameter in parameters:
            entry = _Step(call, self.entered) if records else None
            self.entries.setdefault(parameter.function, []).append(entry)
            if entry is not None and parameter.function in self.returning:
                self.pending.append(entry)
            self.pending.append(_Step(parameter, True, self.component))
        return bool(parameters)

    def constructor(self, value: Value, call: Call) -> None:
        """An object of a project's class keeps what it is built from."""
        for source in sources(call.callee):
            if not isinstance(source, ClassValue):
                continue
            init = find_method(source.target, "__init__")
            if init is None:
                self.push(call)
                continue
            bound = bound_arguments_of_constructor(call, init)
            self.pending.extend(_Step(p, True) for p in init.parameters if bound.get(p.name) is value)


_HARMLESS_RECEIVERS = frozenset(Role) - {Role.OBJECT, Role.PREPARED, Role.FUNCTION, Role.CLASS}


def _is_out_of_sight(call: Call, names: frozenset[str]) -> bool:
    """Whether ``call`` runs code that is neither in the project nor known, and that could run a backward."""
    known = ("builtins.", "copy.", "itertools.", "functools.", "collections.", *torch.FUNCTION_MODULES, *frameworks.METRIC_ROOTS)
    if call.uses and not any(role(argument.value, Role.OPTIMIZER, Role.PARAMETERS) for argument in call.arguments):
        # What runs a backward returns nothing, or the norm of the gradients that it clips.
        return False
    if names:
        return not callees(call) and not any(name.startswith(known) for name in names)
    subject = call.receiver if call.receiver is not None else call.callee
    if call.method in torch.TENSOR_EVIDENCE or role(subject, *_HARMLESS_RECEIVERS):
        return False
    libraries = origins(subject)
    return not libraries or not all(name.startswith(torch.DETACHING_ROOTS) for name in libraries)


def _is_plain(value: Value) -> bool:
    """Whether ``value`` is known to be a text or a Python number."""
    known = kinds(value)
    return bool(known) and all(kind.role in {Role.TEXT, Role.NUMBER} for kind in known)


def bound_arguments_of_constructor(call: Call, init: Function) -> dict[str, Value]:
    """Parameters of ``__init__`` with what a call of the class passes for them."""
    bound: dict[str, Value] = {}
    parameters = [p for p in init.lower().parameters if not p.star and not p.keyword_only][1:]
    for parameter, passed in zip(parameters, call.positional(), strict=False):
        bound[parameter.name] = passed
    for argument in call.arguments:
        if argument.keyword is not None:
            bound[argument.keyword] = argument.value
    return bound
