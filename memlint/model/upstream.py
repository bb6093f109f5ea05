"""What a value was computed from, along the paths that gradients take."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.model.aliases import aliases, attribute_values, instance_class, qualified_names, sources
from memlint.model.calls import bound_arguments, callees, passed_arguments
from memlint.model.containers import elements, is_made_here
from memlint.model.fields import Field, Rest, literal_elements, part_at
from memlint.model.gradmode import GradMode, declared_without_grad, grad_mode
from memlint.model.kinds import Role, class_of, is_always, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import (
    Attribute,
    Awaited,
    Binary,
    Call,
    Choice,
    ClassValue,
    Comparison,
    Comprehension,
    Constant,
    Display,
    Element,
    Entered,
    Formatted,
    Item,
    Opaque,
    Parameter,
    Part,
    Phi,
    Unary,
    Unbound,
    Value,
)


def exit_values(function: Function, component: object) -> Iterator[Value]:
    """What ``function`` returns or yields, or the component of it.

    Who takes a component does not mean those exits that return one tensor, if others return a tuple: a flag decides.
    """
    if component is None:
        yield from (exit.value for exit in function.exits)
        return
    found = [(source, part_at(source, component)) for exit in function.exits for source in sources(exit.value)]
    some = any(element is not None for _, element in found)
    for source, element in found:
        if element is not None:
            yield element
        elif not _lacks(source, component) and not (some and _is_one_tensor(source)):
            yield source


def _lacks(source: Value, component: object) -> bool:
    """Whether a literal list has nothing behind its first elements."""
    listed = literal_elements(source) if isinstance(component, Rest) else None
    return isinstance(component, Rest) and listed is not None and len(listed) <= component.start


@query(on_cycle=False)
def _is_one_tensor(value: Value) -> bool:
    """Whether ``value`` is the result of arithmetic, here or in the functions of the project that it comes from."""
    if not isinstance(value, Call):
        return isinstance(value, (Binary, Unary))
    returned = [source for function in callees(value) for exit in function.exits for source in sources(exit.value)]
    return bool(returned) and all(map(_is_one_tensor, returned))


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
    """The constant index or key of a component, or where a slice to the end starts; None if there is none."""
    if isinstance(value, Part):
        return value.index
    if not isinstance(value, Item) or len(value.index) != 1:
        return None
    index = value.index[0]
    if index is None:
        return _rest(value)
    return index.constant if isinstance(index, Constant) else None


def _rest(item: Item) -> Rest | None:
    """The component that ``outputs[1:]`` takes, if a function of the project returns ``[loss] + states``."""
    part = item.node.slice[0].slice if isinstance(item.node, cst.Subscript) else None
    if not isinstance(part, cst.Slice) or part.upper is not None or part.step is not None:
        return None
    if not isinstance(part.lower, cst.Integer) or not part.lower.value.isdecimal():
        return None
    rest = Rest(int(part.lower.value))
    calls = (source for source in sources(item.base) if isinstance(source, Call))
    exits = (exit.value for call in calls for function in callees(call) for exit in function.exits)
    return rest if any(part_at(source, rest) is not None for value in exits for source in sources(value)) else None


def picked_elements(value: Item | Part | Element) -> tuple[Value, ...]:
    """What a component can be when its base comes out of a list of tuples: the element of each tuple at its index."""
    index = component_index(value)
    if index is None or isinstance(value, Element):
        return ()
    found: list[Value] = []
    for source in sources(value.base):
        container = _source_container(source)
        inside = elements(container) if container is not None else ()
        picked = [part_at(element, index) for element in inside]
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
            plain = value.name in torch.DETACHING_ATTRIBUTES or is_always(value, Role.NUMBER, Role.TEXT)
            return () if plain else (value.base,)
        case Call():
            return _call_operands(value)
    return ()


def _call_operands(call: Call) -> tuple[Value, ...]:
    if call.method in torch.STRUCTURE_METHODS or call.method in torch.PARAMETER_METHODS:
        return ()
    names = qualified_names(call.callee)
    if names & torch.CREATORS_WITH_GRAD:
        return ()  # A parameter is a leaf, whatever its values are taken from.
    if any(name in torch.DETACHING_FUNCTIONS or name.startswith(torch.DETACHING_ROOTS) for name in names):
        return ()
    if names & torch.GRADIENT_FUNCTIONS and not call.is_open and _is_unset(call.argument("create_graph")):
        return ()  # Gradients have no graph of their own unless one is asked for.
    detaches = call.method in torch.DETACHING_METHODS or call.method in torch.IN_PLACE_DETACH
    if detaches and call.receiver is not None and class_of(call.receiver) is None:
        return ()
    receiver = () if call.receiver is None else (call.receiver,)
    functions = callees(call)
    if functions and not any(isinstance(source, ClassValue) for source in sources(call.callee)):
        passing = _passing_arguments(call, functions)
        if passing is not None:
            return passing
    return (*receiver, *(argument.value for argument in call.arguments))


def _is_unset(flag: Value | None) -> bool:
    return flag is None or (isinstance(flag, Constant) and not flag.constant)


def _passing_arguments(
    call: Call, functions: tuple[Function, ...], component: object = None
) -> tuple[Value, ...] | None:
    """The arguments whose gradient the called functions of the project let through; None if not all are in sight.

    With a ``component``, those that it sends gradients to.
    """
    if call.is_open:
        return None
    found: list[Value] = []
    for function in functions:
        bound = bound_arguments(call, function)
        if any(parameter.star for parameter in function.parameters):
            return None
        found.extend(bound[name] for name in gradient_parameters(function, component) if name in bound)
    return tuple(found)


def _operands_of_part(call: Call, component: object) -> tuple[Value, ...]:
    """The operands through which a gradient flows from one component of what ``call`` returns."""
    functions = callees(call)
    passing = _passing_arguments(call, functions, component) if functions else None
    return differentiable_operands(call) if passing is None else passing


@query(on_cycle=frozenset())
def gradient_parameters(function: Function, component: object = None) -> frozenset[str]:
    """The parameters of ``function`` that what it returns or yields, or a component of it, sends gradients to."""
    if declared_without_grad(function):
        return frozenset()
    upstream = (value for returned in exit_values(function, component) for value in local_ancestors(returned))
    return frozenset(v.name for v in upstream if isinstance(v, Parameter) and v.function is function)


def local_ancestors(value: Value) -> Iterator[Value]:
    """Like :func:`ancestors`, within the function of ``value``."""
    seen: set[tuple[int, object]] = set()
    yielded: set[int] = set()
    pending: list[tuple[Value, object]] = [(value, None)]
    while pending:
        current, component = pending.pop()
        if (id(current), component) in seen or (id(current), None) in seen:
            continue
        seen.add((id(current), component))
        if id(current) not in yielded:
            yielded.add(id(current))
            yield current
        if component is not None and isinstance(current, Call):
            pending.extend((operand, None) for operand in _operands_of_part(current, component))
            continue
        picked = component_index(current) if isinstance(current, (Part, Item)) else None
        pending.extend((operand, picked) for operand in differentiable_operands(current))
        pending.extend((element, None) for element in _filled_in(current))


def _filled_in(container: Value) -> Iterator[Value]:
    """What the function that makes ``container`` puts into it afterwards."""
    if isinstance(container, (Display, Call)) and is_made_here(container):
        yield from (element for element in elements(container) if element.function is container.function)


@query(on_cycle=())
def ancestors(root: Value) -> tuple[Value, ...]:
    """``root`` and everything that a backward from it runs over, as far as it can be followed.

    Crosses attributes of ``self``, containers, and calls of the project's functions into what they return.
    """
    return tuple(walk_ancestors(root))


_MAX_ANCESTORS = 4000


def walk_ancestors(root: Value) -> Iterator[Value]:
    """Like :func:`ancestors`, for those who may not need all of them."""
    seen: set[tuple[Value, object]] = set()
    yielded: set[Value] = set()
    pending: list[tuple[Value, object]] = [(root, None)]
    while pending and len(seen) < _MAX_ANCESTORS:
        step = pending.pop()
        value, component = step
        if step in seen or (component is not None and (value, None) in seen):
            continue
        seen.add(step)
        if value not in yielded:
            yielded.add(value)
            yield value
        pending.extend(_nearer(value, component))


@query(on_cycle=())
def _nearer(value: Value, component: object) -> tuple[tuple[Value, object], ...]:
    """The values one step upstream, each with the index or key of the part of it that counts (None for all of it)."""
    # Each step is taken on a dozen ways.
    return () if _is_graph_free(value) else tuple(_one_step(value, component))


def _one_step(value: Value, component: object) -> Iterator[tuple[Value, object]]:
    element = part_at(value, component) if component is not None else None
    if element is not None:
        yield element, None
        return
    if isinstance(value, (Part, Item)) and component_index(value) is not None:
        yield value.base, component_index(value)
    elif isinstance(value, Attribute) and value.name not in torch.DETACHING_ATTRIBUTES:
        yield value.base, Field(value.name)
        owner = class_of(value.base) if instance_class(value.base) is None else None
        yield from ((kept, component) for kept in (attribute_values(owner, value.name) if owner is not None else ()))
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


@query(on_cycle=())
def graph_sources(value: Value) -> tuple[Value, ...]:
    """The calls of modules upstream of ``value`` that save activations."""
    return tuple(
        ancestor
        for ancestor in ancestors(value)
        if isinstance(ancestor, Call) and _runs_module(ancestor) and grad_mode(ancestor.region) is not GradMode.DISABLED
    )


def _runs_module(call: Call) -> bool:
    if role(call.callee, Role.MODULE, Role.ENGINE):
        return True
    return bool(qualified_names(call.callee) & torch.FUNCTIONAL_CALLS)
