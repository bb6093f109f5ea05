"""Hooks of modules and tensors: who registers which function, what the function keeps, and what removes it again."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

import libcst as cst

from memlint.findings import Confidence
from memlint.model.aliases import find_method, instance_class, partial_names, sources
from memlint.model.calls import argument_parameters, bound_arguments, call_sites, callees
from memlint.model.containers import Insertion, container_origins, insertions_of, length_limit
from memlint.model.downstream import Reach, gradient_flow
from memlint.model.forwards import called_module, is_repeated
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.kinds import Role, class_of, role
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.stashes import insertions_in
from memlint.model.upstream import local_ancestors
from memlint.model.values import (
    Attribute,
    Binary,
    Branch,
    Call,
    Choice,
    Constant,
    Display,
    Element,
    Free,
    FunctionValue,
    Item,
    Loop,
    Parameter,
    Part,
    Phi,
    Region,
    Store,
    Value,
)


class HookKind(str, Enum):
    """When a hook runs, and so what it gets."""

    FORWARD = "forward"
    BACKWARD = "backward"


_METHODS = {
    "register_forward_hook": HookKind.FORWARD,
    "register_forward_pre_hook": HookKind.FORWARD,
    "register_module_forward_hook": HookKind.FORWARD,
    "register_module_forward_pre_hook": HookKind.FORWARD,
    "register_backward_hook": HookKind.BACKWARD,
    "register_full_backward_hook": HookKind.BACKWARD,
    "register_full_backward_pre_hook": HookKind.BACKWARD,
    "register_hook": HookKind.BACKWARD,
    "register_post_accumulate_grad_hook": HookKind.BACKWARD,
}
REGISTERING = frozenset(_METHODS)
"""Methods of modules and tensors that register a hook and return a handle which removes it."""

_ON_TENSORS = frozenset({"register_hook", "register_post_accumulate_grad_hook"})


class Registration(NamedTuple):
    """``subject.register_forward_hook(hook)``."""

    call: Call
    kind: HookKind
    hooks: tuple[Function, ...]
    """The functions of the project that may be the hook."""

    @property
    def arguments_from(self) -> int:
        """The index of the first parameter that is no module: modules come first, tensors have none."""
        return 0 if self.call.name in _ON_TENSORS else 1


def registrations(module: Module) -> Iterator[Registration]:
    """The registrations in one file."""
    for name, kind in _METHODS.items():
        for call in module.calls_by_name.get(name, ()):
            given = call.argument("hook", 0)
            if given is None or call.receiver is None:
                continue
            hooks = tuple(dict.fromkeys(_functions(given)))
            if name not in _ON_TENSORS or hooks or role(call.receiver, Role.TENSOR, Role.OUTPUT):
                yield Registration(call, kind, hooks)


def _functions(hook: Value) -> Iterator[Function]:
    """The functions that ``hook`` names: a function, a bound method, a partial one, or what a factory returns."""
    for source in sources(hook):
        match source:
            case FunctionValue():
                yield source.target.lower()
            case Attribute():
                owner = class_of(source.base)
                method = find_method(owner, source.name) if owner is not None else None
                if method is not None:
                    yield method.lower()
            case Call() if partial_names(source) or source.name == "partial":
                yield from _functions(source.arguments[0].value)
            case Call():
                for factory in callees(source):
                    for leaving in factory.returns:
                        yield from _functions(leaving.value)


def runs_for_detached_hooks(call: Call) -> bool:
    """Whether a forward pass drops its output, and the forward hooks that its function registers detach what they get.

    ``handle = layer.register_forward_hook(copy); model(x); handle.remove()`` reads features, and differentiates none.
    """
    if any(not isinstance(use, Store) or use.base is not None for use in call.uses):
        return False
    forward = [
        registration
        for registration in registrations(call.function.module)
        if registration.call.function is call.function and registration.kind is HookKind.FORWARD
    ]
    hooked = [(hook, each) for each in forward for hook in each.hooks]
    if not hooked or not all(registration.hooks for registration in forward):
        return False
    flows = [gradient_flow(tensor) for hook, each in hooked for tensor in _tensors_of(hook, each)]
    return all(flow.reach is Reach.NO and not flow.handed_over for flow in flows)


# ------------------------------------------------------------------------ what a hook keeps


class Kept(Enum):
    """What a growing container gets in a hook."""

    GRAPH = "graph"
    """A tensor with its graph."""
    TENSOR = "tensor"
    """A detached tensor of the size that the hook got."""


class Capture(NamedTuple):
    """A hook puts what it gets into a container that outlives the call."""

    registration: Registration
    function: Function
    insertion: Insertion
    kept: Kept
    emptied: bool
    """Whether a backward hook takes out what the forward hook puts in: only then, no backward, nothing is taken out."""


def captures(registration: Registration) -> Iterator[Capture]:
    """What the hooks of a registration keep beyond their call, time after time."""
    for hook in registration.hooks:
        tensors = _tensors_of(hook, registration)
        for function, given in ((hook, tensors), *_handed_on(hook, tensors)):
            yield from _captures_in(function, given, registration)


def _tensors_of(hook: Function, registration: Registration) -> frozenset[Parameter]:
    """The parameters of the hook that are tensors, or tuples of them."""
    first = registration.arguments_from + hook.is_method
    return frozenset(p for p in hook.parameters if p.index >= first and not p.keyword_only)


def _handed_on(hook: Function, tensors: frozenset[Parameter]) -> Iterator[tuple[Function, frozenset[Parameter]]]:
    """The functions of the project that the hook hands its tensors to, as ``lambda m, i, o: self.save(o)`` does."""
    for call in hook.calls:
        taken = [
            parameter
            for argument in call.arguments
            if _got(argument.value, tensors) is not None
            for parameter in argument_parameters(call, argument)
        ]
        for function in {parameter.function for parameter in taken} - {hook}:
            yield function, frozenset(parameter for parameter in taken if parameter.function is function)


def _captures_in(function: Function, tensors: frozenset[Parameter], registration: Registration) -> Iterator[Capture]:
    for insertion in insertions_in(function):
        if isinstance(insertion.event, Store) or length_limit(insertion.container) is not None:
            continue
        if class_of(insertion.container) is not None:
            continue  # What a class of the project keeps is told by its own methods.
        kept = _got(insertion.value, tensors)
        holder = _holder(insertion.container)
        if kept is None or holder is None or _is_local(insertion, function):
            continue
        if kept is Kept.GRAPH and (registration.kind is HookKind.BACKWARD or not _records(registration)):
            kept = Kept.TENSOR
        takers = _takers(holder, function, registration)
        if not takers:
            yield Capture(registration, function, insertion, kept, emptied=False)
        elif _is_taken_by_backward(takers, registration) and not _asks_for_gradients(function):
            yield Capture(registration, function, insertion, kept, emptied=True)


def _got(value: Value, tensors: frozenset[Parameter]) -> Kept | None:
    """Whether ``value`` is one of ``tensors`` or a part of one, or carries the graph of one; None if it is neither."""
    if any(ancestor in tensors for ancestor in local_ancestors(value)):
        return Kept.GRAPH if not _is_number(value) else None
    return Kept.TENSOR if _is_whole(value, tensors) else None


def _is_number(value: Value) -> bool:
    return isinstance(value, Call) and value.method in {"size", "dim", "numel"}


_SIZE_KEEPING = frozenset(
    """
    detach clone contiguous float half double bfloat16 view reshape flatten squeeze unsqueeze permute transpose t
    requires_grad_ detach_ relu sigmoid
    """.split()
)


def _is_whole(value: Value, tensors: frozenset[Parameter]) -> bool:
    """Whether ``value`` is one of ``tensors``, detached but as large and on the same device."""
    pending, seen = [value], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        match current:
            case Parameter() if current in tensors:
                return True
            case Call() if current.method in _SIZE_KEEPING and current.receiver is not None:
                pending.append(current.receiver)
            case Attribute(name="data") | Part():
                pending.append(current.base)
            case Item() if len(current.index) == 1 and isinstance(current.index[0], Constant):
                # ``output[0]``: a module's inputs and gradients are tuples.
                pending.append(current.base)
            case Phi() | Choice():
                pending.extend(current.operands())
    return False


def _records(registration: Registration) -> bool:
    """Whether forward passes in sight record a graph, or none is in sight."""
    scope = registration.call.function
    calls = [call for each in scope.module.functions for call in each.calls if called_module(call) is not None]
    near = [call for call in calls if call.function is scope] or calls
    return not near or any(grad_mode(call.region) is not GradMode.DISABLED for call in near)


def _asks_for_gradients(function: Function) -> bool:
    """Whether the hook asks if a graph is recorded at all, as one must that leaves the rest to the backward."""
    if any(call.name in {"is_grad_enabled", "is_inference_mode_enabled"} for call in function.calls):
        return True
    return any(
        attribute.name == "requires_grad" and any(isinstance(v, Parameter) for v in local_ancestors(attribute.base))
        for attribute in function.attributes
    )


def guard_of(capture: Capture) -> cst.BaseExpression | None:
    """The condition on which the hook returns before it keeps anything: the first ``if ...: return`` of its body."""
    regions = [each for each in capture.insertion.event.region.ancestors() if isinstance(each, Branch) and each.follows]
    node = regions[-1].node if regions else None
    return node.test if isinstance(node, cst.If) else None


# ------------------------------------------------------------------- where it keeps it


def _holder(container: Value) -> str | Free | None:
    """The name of the attribute, or the outer variable, that the container is or is an item of."""
    pending, seen = [container], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case Attribute():
                return value.name
            case Free():
                return value
            case Item():
                pending.append(value.base)
            case Display():
                # ``module.seen = []``, where there was none before.
                stored = (use.attribute for use in value.uses if isinstance(use, Store) and use.value is value)
                attribute = next((name for name in stored if name is not None), None)
                if attribute is not None:
                    return attribute
            case Phi():
                pending.extend(value.inputs)
            case Call() if value.method in {"setdefault", "get"} and value.receiver is not None:
                pending.append(value.receiver)
    return None


def _is_local(insertion: Insertion, function: Function) -> bool:
    """Whether the call of the hook makes the container itself, and leaves it behind."""
    origins = container_origins(insertion.container)
    made_here = bool(origins) and all(origin.function is function for origin in origins)
    return made_here and not isinstance(_holder(insertion.container), str)


def _takers(holder: str | Free, hook: Function, registration: Registration) -> set[Function]:
    """The functions of the file that empty or replace what ``holder`` names, but for those that set it up."""
    registering = registration.call.function
    sets_up = not any(called_module(call) is not None for call in registering.calls)
    return {
        function
        for function in hook.module.functions
        if function is not hook and function.name not in _SETTING_UP
        if not (function is registering and sets_up and isinstance(holder, str))
        if _takes(function, holder)
    }


_SETTING_UP = frozenset({"__init__", "__post_init__", "setup"})
_EMPTYING = frozenset({"clear", "pop", "popleft", "popitem", "get", "get_nowait", "remove"})


def _takes(function: Function, holder: str | Free) -> bool:
    return _takes_attribute(function, holder) if isinstance(holder, str) else _takes_name(function, holder)


def _takes_attribute(function: Function, name: str) -> bool:
    if any(store.attribute == name and not store.augmented for store in function.stores):
        return True
    if any(f".{name}" in deletion.key for deletion in function.deletions):
        return True
    if any(call.name == "delattr" and _is_text(call.argument("name", 1), name) for call in function.calls):
        return True
    return any(load.name == name and _is_emptied(load) for load in function.attributes)


def _is_text(value: Value | None, text: str) -> bool:
    return isinstance(value, Constant) and value.constant == text


def _is_emptied(container: Value) -> bool:
    """Whether a method that takes elements out is called on ``container`` or on an item of it."""
    for use in container.uses:
        if isinstance(use, Attribute) and use.name in _EMPTYING:
            return True
        if isinstance(use, (Item, Phi, Element)) and _is_emptied_once(use):
            return True
    return False


def _is_emptied_once(part: Value) -> bool:
    return any(isinstance(use, Attribute) and use.name in _EMPTYING for use in part.uses)


def _takes_name(function: Function, holder: Free) -> bool:
    """Whether ``function`` empties the variable, or binds it anew in a loop or for every call of its own."""
    scope, name = holder.scope, holder.name
    if function is scope:
        bound = scope.bindings.get(name, ())
        if any(value.region.loop is not None for value in bound if not isinstance(value, Phi)) or len(bound) > 1:
            return True
        named = list(bound)
    else:
        if name in function.global_names and function.bindings.get(name):
            return True
        named = [capture for capture in scope.captures.get(name, ()) if capture.function is function]
    if any(deletion.key.startswith((f"{name}[", name)) for deletion in function.deletions):
        return function is scope or name in function.global_names or bool(named)
    return any(_is_emptied(value) or any(_is_emptied(u) for u in value.uses if isinstance(u, Phi)) for value in named)


# -------------------------------------------------------------------- forward and backward


def _is_taken_by_backward(takers: set[Function], registration: Registration) -> bool:
    """Whether backward hooks alone, or what they call, take out what a forward hook of the same file puts in."""
    if registration.kind is not HookKind.FORWARD:
        return False
    return takers <= _run_by_backward(registration.call.function.module)


@query(on_cycle=frozenset())
def _run_by_backward(module: Module) -> frozenset[Function]:
    """The backward hooks of a file, and the functions that they call."""
    pending = [f for each in registrations(module) if each.kind is HookKind.BACKWARD for f in each.hooks]
    found: set[Function] = set()
    while pending:
        function = pending.pop()
        if function not in found:
            found.add(function)
            pending.extend(callee for call in function.calls for callee in callees(call))
    return frozenset(found)


# -------------------------------------------------------------------------- how often


def growth(capture: Capture) -> Confidence:
    """How sure it is that the hook runs time after time with the same container."""
    call = capture.registration.call
    if call.function.module.is_test or _is_computed_out_of_sight(capture.insertion.value):
        return Confidence.POSSIBLE
    if capture.emptied:
        return Confidence.LIKELY
    holder = _holder(capture.insertion.container)
    if isinstance(holder, Free):
        return _growth_of_variable(holder, capture.registration)
    return Confidence.LIKELY


def _growth_of_variable(holder: Free, registration: Registration) -> Confidence:
    """For a variable of an enclosing function or of the file, which may see one forward pass only."""
    scope = holder.scope
    made = scope.bindings.get(holder.name, ())
    forwards = (
        [call for call in scope.calls if called_module(call) is not None and call.order > registration.call.order]
        if registration.call.function is scope
        else []
    )
    outlived = [
        loop
        for loop in scope.loops
        if not loop.is_comprehension and not any(value.region.within(loop) for value in made)
    ]
    if any(call.region.within(loop) for call in forwards for loop in outlived):
        return Confidence.CERTAIN
    if is_removed(registration) and registration.call.function is scope:
        later = [loop for loop in outlived if loop.first > registration.call.order and _runs_before_removal(loop)]
        return Confidence.LIKELY if later and not forwards else Confidence.POSSIBLE
    if forwards and not is_repeated(registration.call):
        return Confidence.POSSIBLE
    return Confidence.LIKELY


def _runs_before_removal(loop: Loop) -> bool:
    """Whether a loop begins while hooks that its function removes are still there, and is not what removes them."""
    removals = [call for call in loop.function.calls if call.method == "remove" and not call.arguments]
    last = max((call.order for call in removals), default=None)
    return (last is None or loop.first < last) and not any(call.region.within(loop) for call in removals)


def _is_computed_out_of_sight(value: Value) -> bool:
    """Whether ``value`` is what a function returned that was passed in, which may be a number as well as a tensor."""
    return any(
        isinstance(source, Call)
        and not callees(source)
        and called_module(source) is None
        and all(isinstance(called, Parameter) for called in sources(source.callee))
        for source in sources(value)
    )


# ------------------------------------------------------------------ registered again and again


def is_removed(registration: Registration) -> bool:
    """Whether something may call ``remove()`` on the handle, or code out of sight gets it."""
    call = registration.call
    named = [use for use in call.uses if not (isinstance(use, Store) and use.base is None)]
    stores = [use for use in call.uses if isinstance(use, Store) and use.base is None]
    captured = [free for store in stores for free in store.function.captures.get(store.key or "", ())]
    if not named and not captured:
        return False
    removals = call.function.module.calls_by_name.get("remove", ())
    if any(not removal.arguments for removal in removals):
        return True
    return not all(isinstance(use, Store) or _collects(use, call) for use in named)


def _collects(use: object, handle: Call) -> bool:
    """Whether ``use`` is ``handles.append(...)``."""
    return isinstance(use, Call) and any(insertion.value is handle for insertion in insertions_of(use))


def repeated_loop(registration: Registration) -> Loop | None:
    """A loop each of whose iterations registers the hook on the same object once more."""
    call = registration.call
    assert call.receiver is not None
    for loop in call.region.loops():
        if not loop.is_comprehension and _is_same_in(call.receiver, loop) and not _leaves_first(call, loop):
            return loop
    return None


def _leaves_first(call: Call, loop: Loop) -> bool:
    """Whether the branch with the call is left by ``break`` or ``return``, or runs for the first iteration only."""
    for region in call.region.ancestors():
        if region is loop:
            return False
        if region.leaves in {"break", "return"} or _is_conditional(region):
            return True
    return False


def _is_conditional(region: Region) -> bool:
    return isinstance(region, Branch) and not region.follows


_PARTS = frozenset(
    """
    parameters named_parameters modules named_modules children named_children get_submodule values items enumerate
    zip list reversed getattr dict
    """.split()
)


def _is_same_in(value: Value, loop: Loop) -> bool:
    """Whether ``value`` names the same objects in each iteration of ``loop``."""
    pending: list[Value] = [value]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if _may_vary(current, loop):
            return False
        pending.extend(_named_by(current, loop))
    return True


def _may_vary(value: Value, loop: Loop) -> bool:
    """Whether ``value`` itself may be another object in the next iteration of ``loop``."""
    match value:
        case Element():
            return value.region is loop or value is loop.element
        case Call():
            return value.region.within(loop) and value.name not in _PARTS
        case Binary():
            return value.region.within(loop)
        case Phi():
            return value.loop is None
    return isinstance(value, Choice)


def _named_by(value: Value, loop: Loop) -> tuple[Value, ...]:
    """The values on which it depends which object ``value`` is."""
    match value:
        case Attribute() | Part():
            return (value.base,)
        case Item():
            return (value.base, *(index for index in value.index if index is not None))
        case Element():
            return (value.iterable,)
        case Phi():
            return tuple(value.inputs)
        case Call() if value.region.within(loop):
            given = tuple(argument.value for argument in value.arguments)
            return given if value.receiver is None else (value.receiver, *given)
    return ()


def is_registered_by_callers(registration: Registration) -> bool:
    """Whether a loop calls the function that registers the hook, on the same object each time."""
    call = registration.call
    function = call.function
    if call.region.loop is not None or function.parent is None or function.name in _SETTING_UP:
        return False
    root = _root(call.receiver) if call.receiver is not None else None
    if root is not None and instance_class(root) is not None:
        return _is_run_on_data(function) and not _is_guarded(call)
    if not isinstance(root, Parameter) or _is_guarded(call):
        return False
    for site in call_sites(function):
        passed = _passed(root, site, function)
        if passed is not None and any(
            not loop.is_comprehension and _is_same_in(passed, loop) for loop in site.region.loops()
        ):
            return function in callees(site)
    return False


def _is_run_on_data(function: Function) -> bool:
    """Whether ``function`` is a method that runs a module, as it does for one batch after the other."""
    if function.name == "forward":
        return True
    return any(
        instance_class(_root(call.callee)) is not None for call in function.calls if called_module(call) is not None
    )


def _root(value: Value) -> Value:
    while isinstance(value, (Attribute, Item)):
        value = value.base
    return value


def _is_guarded(call: Call) -> bool:
    return any(_is_conditional(region) for region in call.region.ancestors())


def _passed(parameter: Parameter, site: Call, function: Function) -> Value | None:
    return bound_arguments(site, function).get(parameter.name)
