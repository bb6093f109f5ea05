"""What outlives the iteration or the call that made it: running sums, containers, attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

import libcst as cst

from memlint.findings import Applicability, Confidence, Fix
from memlint.model.aliases import base_names, instance_class, qualified_names, sources
from memlint.model.attachment import Attachment, attachment, certainty, hands_on, keeps_graph
from memlint.model.calls import (
    argument_parameters,
    bound_arguments,
    callees,
    gathering_parameters,
    passed_arguments,
    proven_call_sites,
)
from memlint.model.containers import (
    GROWING_METHODS,
    Insertion,
    container_origins,
    insertions_of,
    is_container,
    names_of,
)
from memlint.model.deposits import fillings
from memlint.model.differentiated import starts_backward
from memlint.model.downstream import Reach, reaches_gradient
from memlint.model.drain import Drain, drain, drained_on_some_paths, drained_outside, drained_within
from memlint.model.effects import returns_loss_to_framework, started_roots
from memlint.model.gradmode import GradMode, grad_mode, is_lightning_module
from memlint.model.instances import instance_kind
from memlint.model.kinds import Role, class_of, is_known_other, kinds, role
from memlint.model.knowledge import torch
from memlint.model.loops import iterates_over_parts
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.source_text import code
from memlint.model.upstream import component_index, graph_sources, local_ancestors
from memlint.model.values import (
    Argument,
    Attribute,
    Binary,
    Call,
    Choice,
    ClassValue,
    Comparison,
    Comprehension,
    Constant,
    Display,
    Element,
    Exit,
    Formatted,
    Free,
    FunctionValue,
    Item,
    Loop,
    Occurrence,
    Parameter,
    Part,
    Phi,
    Region,
    Store,
    Unary,
    Value,
    operand_occurrences,
)


class Span(str, Enum):
    """What a holder outlives."""

    ITERATION = "iteration"
    """The iterations of a loop in the same function."""
    CALL = "call"
    """The calls of the function: it is an attribute, or belongs to the module or an enclosing function."""


@dataclass(frozen=True)
class Accumulation:
    """A holder that is replaced by a function of its old value and of ``addends``, time after time.

    ``total += loss``, ``avg = 0.9 * avg + 0.1 * loss``, ``d[k] = d.get(k, 0) + x``, ``self.sum.add_(x)``.
    """

    holder: cst.CSTNode
    """The expression that names the holder."""
    attribute: str | None
    """The attribute of the instance that is the holder, if it is one."""
    region: Region
    value: Value
    """The new value of the holder."""
    addends: tuple[Occurrence, ...]
    """What is combined with the old value."""
    span: Span
    loop: Loop | None
    """For Span.ITERATION the loop over whose iterations the holder lives; else the loop around the store, if any."""

    @property
    def function(self) -> Function:
        """The function in which it happens."""
        return self.region.function


_CONCATENATIONS = frozenset(
    {"torch.cat", "torch.concat", "torch.concatenate", "torch.vstack", "torch.hstack", "torch.stack"}
)
_ARITHMETIC_CALLS = frozenset({"torch.add", "torch.sub", "torch.mul", "torch.lerp"}) | _CONCATENATIONS


_ARITHMETIC_METHODS = frozenset(
    {"add", "sub", "mul", "div", "lerp", "add_", "sub_", "mul_", "div_", "lerp_", "detach", "clone"}
)
_CONVERSIONS = frozenset(
    """
    to cpu cuda float half double bfloat16 type type_as contiguous view view_as reshape squeeze unsqueeze expand
    expand_as roll
    """.split()
)
"""Methods that return the values of a tensor, on another device, in another type or another shape."""


_CORRECTING_METHODS = frozenset({"clamp", "clamp_", "clamp_min", "clamp_max", "clip", "abs", "sqrt", "round", "renorm"})
_CORRECTIONS = frozenset(
    {"torch.clamp", "torch.clip", "torch.abs", "torch.sqrt", "torch.round", "torch.nn.functional.normalize"}
)
"""What brings a sum back into its range: ``self.multiplier = (self.multiplier + violation).clamp(min=0)``."""


@query(on_cycle=())
def accumulations(function: Function) -> tuple[Accumulation, ...]:
    """The accumulations in one function: by assignment, then by in-place methods."""
    return tuple(_accumulations(function))


def _accumulations(function: Function) -> Iterator[Accumulation]:
    for store in function.stores:
        found = _assigned(store)
        if found is not None:
            yield found
    for call in function.calls:
        found = _in_place(call)
        if found is not None:
            yield found


def _assigned(store: Store) -> Accumulation | None:
    if not isinstance(store.value, (Binary, Call, Phi, Choice, Item)):
        return None
    span_loop = _carrying_loop(store)
    if span_loop is not None:
        return _build(store, lambda value: _is_head(value, store.key), Span.ITERATION, span_loop)
    if store.base is None:
        return _build(store, lambda value: _reads_outer(value, store), Span.CALL, store.region.loop)
    if store.attribute is not None and instance_class(store.base) is not None:
        return _build(store, lambda value: _reads_attribute(value, store), Span.CALL, store.region.loop)
    if store.attribute is not None:
        outlived = loops_outlived(store.base, store.region)
        if outlived:
            return _build(store, lambda value: _reads_field(value, store), Span.ITERATION, outlived[-1])
    elif store.index is not None:
        span, loop = container_span(store.base, store.region)
        if span is None:
            span, loop = tensor_span(store.base, store.region)
        if span is not None:
            return _build(store, lambda value: _reads_item(value, store), span, loop)
    return None


def _build(store: Store, is_old: Callable[[Value], bool], span: Span, loop: Loop | None) -> Accumulation | None:
    addends: list[Occurrence] = []
    if _split(store.value, is_old, addends, set()) is not _Old.MERGED or not addends:
        return None
    attribute = store.attribute if store.base is not None and instance_class(store.base) is not None else None
    return Accumulation(store.target, attribute, store.region, store.value, tuple(addends), span, loop)


_IN_PLACE = frozenset({"add_", "sub_", "lerp_", "addcmul_", "addcdiv_"})


def _in_place(call: Call) -> Accumulation | None:
    """``holder.add_(x)`` or ``holder.mul_(m).add_(x)`` on something that outlives the iteration or the call."""
    if call.method not in _IN_PLACE or not call.arguments:
        return None
    holder = operand_occurrences(call)[0]
    while (
        isinstance(holder.value, Call)
        and (holder.value.method or "").endswith("_")
        and holder.value.receiver is not None
    ):
        holder = operand_occurrences(holder.value)[0]
    addends = tuple(o for o in operand_occurrences(call)[1:] if not isinstance(o.value, Constant))
    if not addends:
        return None
    span, loop, attribute = _lifetime(holder.value, call.region)
    if span is None:
        return None
    return Accumulation(holder.node, attribute, call.region, call, addends, span, loop)


def _lifetime(holder: Value, region: Region) -> tuple[Span | None, Loop | None, str | None]:
    value = holder
    while isinstance(value, Phi) and value.loop is not None:
        value = value.inputs[0]
    if isinstance(value, Attribute) and instance_class(value.base) is not None:
        return Span.CALL, region.loop, value.name
    attribute = stored_attribute(value)
    if attribute is not None:
        return Span.CALL, region.loop, attribute
    outlived = [loop for loop in region.loops() if not value.region.within(loop)]
    if outlived and value.function is region.function:
        return Span.ITERATION, outlived[0], None
    return None, None, None


class _Old(IntEnum):
    """What of the old value is in a new one."""

    NOTHING = 0
    ITSELF = 1
    """The value may be the old one itself: ``x = y if y is not None else x`` does not grow."""
    MERGED = 2


def _split(value: Value, is_old: Callable[[Value], bool], addends: list[Occurrence], seen: set[int]) -> _Old:
    """How ``value`` combines the old value with others, which are collected in ``addends``."""
    if id(value) in seen:
        return _Old.NOTHING
    seen.add(id(value))
    if is_old(value):
        return _Old.ITSELF
    parts = combined(value)
    old = [_split(part.value, is_old, addends, seen) for part in parts]
    if any(old):
        addends.extend(part for part, within in zip(parts, old, strict=True) if not within)
    most = max(old, default=_Old.NOTHING)
    selects = isinstance(value, (Phi, Choice)) or len(parts) == 1
    return _Old.MERGED if most and not selects else most


def combined(value: Value) -> tuple[Occurrence, ...]:
    """The operands of an operation that merges old and new."""
    match value:
        case Binary() | Choice() | Item():
            return operand_occurrences(value)
        case Phi() if value.loop is None:
            return operand_occurrences(value)
        case Call():
            names = qualified_names(value.callee)
            if names & _ARITHMETIC_CALLS:
                first = value.arguments[0].value if value.arguments else None
                if isinstance(first, Display):
                    return operand_occurrences(first)
                return operand_occurrences(value)
            if value.method in _ARITHMETIC_METHODS and value.receiver is not None:
                return operand_occurrences(value)
            conversion = value.method in _CONVERSIONS | _CORRECTING_METHODS and value.receiver is not None
            if conversion or names & _CORRECTIONS:
                return operand_occurrences(value)[:1]
    return ()


def _carrying_loop(store: Store) -> Loop | None:
    """The outermost loop that hands the stored value on to its next iteration without a fresh start."""
    if store.key is None:
        return None
    found: Loop | None = None
    for loop in store.region.loops():
        phi = loop.phis.get(store.key)
        if phi is None or len(phi.inputs) < 2:
            break
        if _passes_on(phi, store.value):
            found = found or loop
    return found


def _passes_on(phi: Phi, value: Value) -> bool:
    pending = list(phi.inputs[1:])
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if current is value:
            return True
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Phi):
            pending.extend(current.inputs)
    return False


def _is_head(value: Value, key: str | None) -> bool:
    return isinstance(value, Phi) and value.loop is not None and value.key == key


def _reads_attribute(value: Value, store: Store) -> bool:
    if isinstance(value, Phi) and value.key == store.key:
        return True
    if value is not store.value and stored_attribute(value) == store.attribute:
        return True
    return isinstance(value, Attribute) and value.name == store.attribute and instance_class(value.base) is not None


def _reads_outer(value: Value, store: Store) -> bool:
    """Whether ``value`` is what the variable of an enclosing function or of the module was before."""
    return isinstance(value, Free) and value.name == store.key


def _reads_field(value: Value, store: Store) -> bool:
    if isinstance(value, Phi) and value.key == store.key:
        return True
    if not isinstance(value, Attribute) or value.name != store.attribute:
        return False
    return store.base is not None and same_object(value.base, store.base)


def stored_attribute(value: Value) -> str | None:
    """The attribute of the instance that ``value`` is assigned to."""
    for use in value.uses:
        if (
            isinstance(use, Store)
            and use.value is value
            and use.base is not None
            and instance_class(use.base) is not None
        ):
            return use.attribute
    return None


def _reads_item(value: Value, store: Store) -> bool:
    base: Value | None = None
    if isinstance(value, Item):
        base = value.base
    elif isinstance(value, Call) and value.method in {"get", "setdefault", "pop"}:
        base = value.receiver
    elif isinstance(value, Phi) and value.key == store.key:
        return True
    return base is not None and store.base is not None and same_object(base, store.base)


def same_object(one: Value, other: Value) -> bool:
    """Whether two values are known to name the same object."""
    if one is other:
        return True
    mine, theirs = sources(one), sources(other)
    return any(a is b for a in mine for b in theirs)


# ------------------------------------------------------------------------ containers


def container_span(container: Value, region: Region) -> tuple[Span | None, Loop | None]:
    """What a container outlives that is filled in ``region``, and the loop over whose iterations it is filled.

    (None, None) if it is made anew for every iteration of the loops around, or if there is no loop and it is local.
    """
    origins = container_origins(container)
    here = [origin for origin in origins if origin.region.function is region.function]
    outside = _belongs_outside(container)
    loops = list(region.loops())
    if here and not outside:
        outlived = [loop for loop in loops if not all(origin.region.within(loop) for origin in here)]
        return (Span.ITERATION, outlived[0]) if outlived else (None, None)
    if outside or any(origin.region.function is not region.function for origin in origins):
        return Span.CALL, loops[0] if loops else None
    parameter = _parameter_behind(container)
    if parameter is not None and loops:
        return Span.ITERATION, loops[0]
    if parameter is not None and _is_held_by_callers(parameter):
        return Span.CALL, None
    return None, None


@query(on_cycle=False)
def _is_held_by_callers(parameter: Parameter) -> bool:
    """Whether a caller passes a container for ``parameter`` that outlives the iteration (or the call) that it is in."""
    function = parameter.function
    for site in proven_call_sites(function) if role(parameter, Role.CONTAINER) else ():
        passed = bound_arguments(site, function).get(parameter.name)
        if passed is not None and container_span(passed, site.region)[0] is not None:
            return True
    return False


def loops_outlived(holder: Value, region: Region) -> list[Loop]:
    """The loops around ``region``, innermost first, over whose iterations the object ``holder`` is the same."""
    root: Value = holder
    while isinstance(root, (Attribute, Item)):
        root = root.base
    made = [source for source in sources(root) if source.function is region.function]
    return [loop for loop in region.loops() if not any(source.region.within(loop) for source in made)]


def _belongs_outside(container: Value) -> bool:
    """Whether the container is an attribute of the instance, or a variable of the module or an enclosing function."""
    value = container
    while isinstance(value, (Phi, Item)):
        value = value.inputs[0] if isinstance(value, Phi) else value.base
    if isinstance(value, Attribute):
        return instance_class(value.base) is not None
    return isinstance(value, Free)


def _is_deleted_after_use(container: Value) -> bool:
    """Whether a method deletes the attribute that holds the container: ``del self.states`` at the end of a pass."""
    value = container
    while isinstance(value, (Phi, Item)):
        value = value.inputs[0] if isinstance(value, Phi) else value.base
    owner = instance_class(value.base) if isinstance(value, Attribute) else None
    if owner is None or not isinstance(value, Attribute):
        return False
    methods = (method.lower() for method in owner.methods.values())
    return any(deletion.key.endswith(f".{value.name}") for method in methods for deletion in method.deletions)


def _parameter_behind(container: Value) -> Parameter | None:
    value = container
    while isinstance(value, (Phi, Item)):
        value = value.inputs[0] if isinstance(value, Phi) else value.base
    return value if isinstance(value, Parameter) and value.index is not None else None


@dataclass(frozen=True)
class Stash:
    """A container that outlives the iteration or call gets ``value``."""

    insertion: Insertion
    span: Span
    loop: Loop | None

    @property
    def occurrence(self) -> Occurrence:
        """What is put in, where it is written."""
        return Occurrence(self.insertion.value, self.insertion.node)


@query(on_cycle=())
def stashes(function: Function) -> tuple[Stash, ...]:
    """What one function puts into containers that outlive the iteration (or, without a loop, the call)."""
    return tuple(_stashes(function))


def _stashes(function: Function) -> Iterator[Stash]:
    for insertion in insertions_in(function):
        if class_of(insertion.container) is not None:
            continue  # What a class of the project keeps is told by its own methods.
        if _is_told_otherwise(insertion):
            continue
        span, loop = container_span(insertion.container, insertion.event.region)
        if span is not None:
            yield Stash(insertion, span, loop)


def _is_told_otherwise(insertion: Insertion) -> bool:
    """Whether a method such as ``update`` is one of a library's object, which may keep numbers: a meter, a writer."""
    event, container = insertion.event, insertion.container
    if not isinstance(event, Call) or event.method in {"append", "appendleft", "extend"} or is_container(container):
        return False
    if any(kind.name.endswith("AverageMeter") for kind in kinds(container)):
        return False  # A class that many projects have copied: it sums up what it is given.
    return event.method in GROWING_METHODS and is_known_other(container, Role.CONTAINER)


def insertions_in(function: Function) -> Iterator[Insertion]:
    """What the code of ``function`` puts into containers, by methods, at indices that vary, and by ``+= [x]``."""
    for call in function.calls:
        yield from insertions_of(call)
        for filling in fillings(call):
            given, into = filling.given, filling.container
            yield Insertion(into.value, given.value, call, given.node.value, into.node.value)
    for store in function.stores:
        if store.index is not None and store.base is not None and not isinstance(store.index, Constant):
            yield _item_insertion(store, store.base)
    for binary in function.sums:
        # ``losses += [loss]`` and ``losses = losses + [loss]``
        if binary.operator == "+" and isinstance(binary.right, Display) and binary.right.kind == "list":
            holder = operand_occurrences(binary)[0].node
            for element in operand_occurrences(binary.right):
                yield Insertion(binary.left, element.value, binary, element.node, holder)


def _item_insertion(store: Store, container: Value) -> Insertion:
    holder = store.target.value if isinstance(store.target, cst.Subscript) else store.target
    return Insertion(container, store.value, store, _assigned_expression(store), holder)


def _assigned_expression(store: Store) -> cst.CSTNode:
    """The expression that is assigned or added; for one of several targets, ``a[i], b[i] = f()``, that target."""
    if isinstance(store.node, cst.AugAssign):
        return store.node.value
    if isinstance(store.node, cst.Assign):
        whole = any(target.target is store.target for target in store.node.targets)
        return store.node.value if whole else store.target
    return store.value.node


def slot_stashes(function: Function) -> Iterator[Stash]:
    """What one function writes into parts of tensors that outlive the iteration or call: ``preds[i] = out``."""
    for store in function.stores:
        if not isinstance(store.target, cst.Subscript) or store.base is None or store.augmented:
            continue
        if grad_mode(store.region) is not GradMode.DISABLED:
            span, loop = tensor_span(store.base, store.region)
            if span is not None:
                made = sources(store.base)
                yield Stash(_item_insertion(store, made[0] if len(made) == 1 else store.base), span, loop)


def tensor_span(tensor: Value, region: Region) -> tuple[Span | None, Loop | None]:
    """Like :func:`container_span`, for a tensor that is made beforehand and filled in place."""
    made = sources(tensor)
    if not made or not all(isinstance(source, Call) and role(source, Role.TENSOR) for source in made):
        return None, None
    outlived = loops_outlived(tensor, region)
    if _belongs_outside(tensor):
        return Span.CALL, outlived[0] if outlived else None
    return (Span.ITERATION, outlived[0]) if outlived else (None, None)


def gathered(function: Function) -> Iterator[Stash]:
    """What one function gathers with its graph in comprehensions over data: ``[model(x) for x in loader]``."""
    for comprehension in function.comprehensions:
        loop = comprehension.loop
        if comprehension.kind == "generator" or iterates_over_parts(loop):
            continue
        named = (use.target for use in comprehension.uses if isinstance(use, Store) and use.value is comprehension)
        holder = next(named, comprehension.node)
        written = comprehension.element.node
        insertion = Insertion(comprehension, comprehension.element, comprehension, written, holder)
        stash = Stash(insertion, Span.ITERATION, loop)
        # What is quick to tell comes first: most comprehensions call nothing, or gather nothing attached.
        calls = _calls_within(comprehension.element, loop)
        if calls and attached_members(stash.occurrence) and _computes(comprehension.element, calls, loop):
            yield stash


def is_built_for_callers(stash: Stash) -> bool:
    """Whether a container is a result, and no backward frees what its iterations compute.

    That is a comprehension that is returned, and what the ``forward`` of a module returns: the parts of its output.
    """
    event, container = stash.insertion.event, stash.insertion.container
    if isinstance(event, Comprehension):
        container = event
    elif not _is_forward_of_module(event.region.function) or _belongs_outside(container):
        return False
    if drain(stash.insertion.value) is Drain.DRAINED:
        return False
    return any(_is_returned(use) for name in names_of(container) for use in name.uses)


def _is_returned(use: Value | Store | Exit) -> bool:
    """Whether ``use`` leaves the function, alone or beside others: ``return outputs, scores``."""
    return isinstance(use, Exit) or (isinstance(use, Display) and any(isinstance(user, Exit) for user in use.uses))


def _is_forward_of_module(function: Function) -> bool:
    owner = function.owner
    return owner is not None and function.name == "forward" and instance_kind(owner).role is Role.MODULE


def _calls_within(element: Value, loop: Loop) -> list[Call]:
    """The calls in ``loop`` that ``element`` comes from, if one of them does more than hand on what it is given."""
    calls = [each for each in local_ancestors(element) if isinstance(each, Call) and each.region.within(loop)]
    return calls if not all(map(hands_on, calls)) else []


def _computes(element: Value, calls: Sequence[Call], loop: Loop) -> bool:
    """Whether each iteration of ``loop`` runs a module for ``element``, or a step that trains, among ``calls``."""
    return any(
        call.function is not loop.function or call.region.within(loop) for call in graph_sources(element)
    ) or any(callees(call) for call in calls if drain(call) is Drain.DRAINED)


def collects_step_outputs(stash: Stash) -> bool:
    """Whether a step hook of a LightningModule collects outputs in an attribute: MEM607 speaks of those."""
    function = stash.insertion.event.region.function
    owner = function.owner
    if owner is None or stash.span is not Span.CALL or not function.name.endswith("_step"):
        return False
    return is_lightning_module(base_names(owner))


# ------------------------------------------------------------------------- summaries


@dataclass(frozen=True)
class Keeping:
    """A function keeps what is passed for ``parameter`` beyond the call: summed up, or in a container."""

    parameter: Parameter
    summed: bool
    holder: cst.CSTNode
    kept: Value
    """The container, or the new value of the sum."""
    is_state: bool = False
    """Whether it is state of a module, of which its own class is told: see :func:`is_module_state`."""


def is_sum(event: Call | Store | Binary | Comprehension) -> bool:
    """Whether ``event`` adds to what the place held before, as ``meters[k] += x`` does, and replaces nothing."""
    return isinstance(event, Store) and _assigned(event) is not None


@query(on_cycle=())
def keepings(function: Function) -> tuple[Keeping, ...]:
    """Parameters that ``function`` keeps with their graph in attributes of its instance or outer variables."""
    return tuple(_keepings(function.lower()))


def _keepings(function: Function) -> Iterator[Keeping]:
    for accumulation in accumulations(function):
        if accumulation.span is Span.CALL:
            yield from _summed(accumulation, function)
    for stash in stashes(function):
        # What is put into a container of the caller is told where the caller passes it.
        if stash.span is Span.CALL and _parameter_behind(stash.insertion.container) is None:
            for parameter in _parameters_in(stash.insertion.value, function):
                yield Keeping(parameter, False, stash.insertion.holder, stash.insertion.container)
    yield from _passed_on(function)


def _summed(accumulation: Accumulation, function: Function) -> Iterator[Keeping]:
    for addend in accumulation.addends:
        for parameter in _parameters_in(addend.value, function):
            state = is_module_state(function, accumulation)
            yield Keeping(parameter, True, accumulation.holder, accumulation.value, state)


def _passed_on(function: Function) -> Iterator[Keeping]:
    """What the functions keep that ``function`` calls."""
    for call in function.calls:
        for argument in call.arguments if _keeps_something(call) and _kept_beyond(call) else ():
            for keeping in kept_arguments(call, argument):
                for parameter in _parameters_in(argument.value, function):
                    yield Keeping(parameter, keeping.summed, call.node, keeping.kept, keeping.is_state)


def _keeps_something(call: Call) -> bool:
    """Whether a function of the project that ``call`` runs keeps any of its parameters."""
    # What a call runs is dear to find out, and half of all calls are given nothing that could be worth keeping.
    given = any(not isinstance(argument.value, _GRAPH_FREE) for argument in call.arguments)
    return given and any(keepings(function) for function in callees(call))


_GRAPH_FREE = (Constant, Formatted, Comparison, FunctionValue, ClassValue)


def _kept_beyond(call: Call) -> bool:
    """Whether the object whose method is called outlives the function that calls it."""
    receiver = call.receiver
    if receiver is None:
        return True
    return _belongs_outside(receiver) or isinstance(receiver, Parameter) or instance_class(receiver) is not None


def _parameters_in(value: Value, function: Function) -> Iterator[Parameter]:
    """Parameters of ``function`` whose graph reaches ``value``, those of the instance left out."""
    found: set[str] = set()
    for ancestor in local_ancestors(value):
        if not isinstance(ancestor, Parameter) or ancestor.function is not function or ancestor is function.instance:
            continue
        if ancestor.name not in found:
            found.add(ancestor.name)
            yield ancestor


# --------------------------------------------------------------------------- queries


def is_made_anew(added: Value, kept: Value, loop: Loop | None) -> bool:
    """Whether ``kept`` gets another graph in each iteration of ``loop``, or of one around it that the holder outlives.

    Without a loop it is the call that gets another one.
    """
    return loop is None or any(_is_made_within(added, each) for each in _lived_through(kept, loop))


def _is_made_within(value: Value, loop: Loop) -> bool:
    """Whether the graph of ``value`` is built in each iteration of ``loop`` (or in a function called there)."""
    modules = graph_sources(value)
    if modules and all(call.function is loop.function and not call.region.within(loop) for call in modules):
        return False  # Parts of one output, which is there before: what the loop adds to its graph is small.
    if modules and _comes_from_callers(value, loop):
        return False
    calls = [
        a
        for a in local_ancestors(value)
        if isinstance(a, Call) and attachment(a) > Attachment.UNKNOWN and not hands_on(a)
    ]
    inside = [a for a in local_ancestors(value) if a.region.within(loop) and attachment(a) > Attachment.UNKNOWN]
    if any(isinstance(a, Element) and _yields(a.iterable) for a in inside):
        return True
    if calls:
        return any(call.region.within(loop) for call in calls)
    return any(not isinstance(a, Phi) and not _is_taken_out(a) and not _is_part_from_before(a, loop) for a in inside)


def _is_part_from_before(value: Value, loop: Loop) -> bool:
    """Whether ``value`` is a part of a tensor that was there before ``loop``: ``weight[offset : offset + size]``."""
    return isinstance(value, Item) and not any(source.region.within(loop) for source in sources(value.base))


def _comes_from_callers(value: Value, loop: Loop) -> bool:
    """Whether the function was given the graph of ``value``, and ``loop`` runs no module or function on it."""
    upstream = list(local_ancestors(value))
    calls = (each for each in upstream if isinstance(each, Call) and each.region.within(loop))
    if any(role(call.callee, Role.MODULE) or callees(call) for call in calls):
        return False
    carrying = (each for each in upstream if isinstance(each, Parameter) and attachment(each) > Attachment.UNKNOWN)
    return any(each is not loop.function.instance for each in carrying)


def _is_taken_out(value: Value) -> bool:
    """Whether ``value`` was put into a container before: ``v`` in ``for k, v in d.items()``."""
    match value:
        case Part() | Item() if isinstance(value.base, Call) and callees(value.base):
            return False  # What the function returned, however it is packed.
        case Part() | Item():
            return role(value.base, Role.CONTAINER) is not None or _is_taken_out(value.base)
        case Element():
            made = sources(value.iterable)
            listed = all(isinstance(each, Call) and each.method in {"items", "values"} for each in made)
            return listed or role(value.iterable, Role.CONTAINER) is not None
        case Call():
            return hands_on(value)
    return False


def _yields(iterable: Value) -> bool:
    """Whether each element is computed when it is asked for: by a generator of the project, paired or not."""
    for source in sources(iterable):
        if not isinstance(source, Call):
            continue
        if any(function.is_generator for function in callees(source)):
            return True
        if qualified_names(source.callee) & torch.PASSING_BUILTINS and any(map(_yields, source.positional())):
            return True
    return False


def attached_leaves(where: Occurrence) -> tuple[Occurrence, ...]:
    """The operands of an arithmetic expression that carry the graph into it; any other expression is its own.

    An expression that stands behind a name is not taken apart: the name is where it is used.
    """
    value = where.value
    if isinstance(value, (Binary, Unary)) and value.node is where.node:
        return tuple(leaf for operand in operand_occurrences(value) for leaf in attached_leaves(operand))
    return (where,) if keeps_graph(value) else ()


_TRANSFERS = frozenset(
    {"cpu", "to", "cuda", "numpy", "clone", "float", "half", "double", "bfloat16", "contiguous", "tolist"}
)


def detach_point(where: Occurrence) -> Occurrence:
    """Where ``.detach()`` belongs: before a transfer such as ``.cpu()``, whose result would keep the graph."""
    value = where.value
    while isinstance(value, Call) and value.node is where.node and value.method in _TRANSFERS:
        receiver = operand_occurrences(value)[0]
        if attachment(receiver.value) <= Attachment.UNKNOWN:
            break
        where, value = receiver, receiver.value
    return where


def written_members(where: Occurrence) -> tuple[Occurrence, ...]:
    """The values in a literal that is kept: each element of ``(a, b)`` or ``{"x": a}``; else the value itself."""
    if isinstance(where.value, Display) and where.value.node is where.node:
        return tuple(member for operand in operand_occurrences(where.value) for member in written_members(operand))
    return (where,)


def attached_members(where: Occurrence) -> tuple[Occurrence, ...]:
    """Those of :func:`written_members` that carry a graph."""
    return tuple(member for member in written_members(where) if keeps_graph(member.value))


def detach_fixes(kept: Occurrence, container: Value | None = None) -> tuple[Fix, ...]:
    """The safe fix for an attached value that is kept: same value, type and device, no graph, no synchronisation.

    For a dict under a name that is put into a ``container`` there is an unsafe one; none for what is no tensor
    otherwise (a tuple, an output with fields), and where the newest element is differentiated in the container.
    """
    if container is not None and _newest_is_differentiated(container):
        return ()
    if is_structure(kept.value):
        named = isinstance(kept.node, cst.Name) and container is not None and _is_dict(kept.value)
        return (_detach_tensors_of(kept.node),) if named else ()
    target = detach_point(kept).node
    return (
        Fix(
            "call_method",
            f"Detach `{code(target)}` before it is kept",
            Applicability.SAFE,
            {"expression": target},
            {"method": "detach"},
            reveals=frozenset({"MEM111", "MEM604"}),
        ),
    )


def _detach_tensors_of(name: cst.CSTNode) -> Fix:
    detached = "value.detach() if isinstance(value, torch.Tensor) else value"
    return Fix(
        "replace_expression",
        f"Keep `{code(name)}` with its tensors detached",
        Applicability.UNSAFE,
        {"expression": name},
        {"code": f"{{key: {detached} for key, value in {code(name)}.items()}}", "import": "torch"},
        reveals=frozenset({"MEM111", "MEM604"}),
    )


def _is_dict(value: Value) -> bool:
    """Whether ``value`` is made, or used, as a dict, and nowhere as an object with fields."""
    if any(isinstance(use, Attribute) and use.name in _FIELDS - _METHODS_OF_DICTS for use in value.uses):
        return False
    known = {kind.name.lower() for kind in kinds(value) if kind.role is Role.CONTAINER}
    if known:
        return known <= _DICTS
    return any(
        (isinstance(use, Attribute) and use.name in _METHODS_OF_DICTS)
        or (isinstance(use, Item) and isinstance(component_index(use), str))
        for use in value.uses
    )


_DICTS = frozenset({"dict", "defaultdict", "ordereddict", "mapping", "mutablemapping"})
_METHODS_OF_DICTS = frozenset({"keys", "items", "values", "get"})


def is_structure(value: Value) -> bool:
    """Whether ``value`` is known, or used, as a tuple, a dict or an object with fields rather than as a tensor."""
    if role(value, Role.CONTAINER):
        return True
    for use in value.uses:
        if isinstance(use, Part) or (isinstance(use, Item) and isinstance(component_index(use), str)):
            return True
        if isinstance(use, Attribute) and use.name in _FIELDS:
            return True
    return False


_FIELDS = frozenset({"loss", "logits", "last_hidden_state", "hidden_states"}) | _METHODS_OF_DICTS
"""Attributes of the outputs of transformers' models and of dicts, which tensors do not have."""


def _newest_is_differentiated(container: Value) -> bool:
    return any(
        isinstance(use, Item) and component_index(use) == -1 and starts_backward(use)
        for name in names_of(container)
        for use in name.uses
    )


def kept_arguments(call: Call, argument: Argument) -> Iterator[Keeping]:
    """How the functions of the project that ``call`` runs keep ``argument`` beyond the call."""
    gathering = (parameter for parameter, _ in gathering_parameters(call, argument))
    for parameter in (*argument_parameters(call, argument), *gathering):
        for keeping in keepings(parameter.function):
            if keeping.parameter is parameter:
                yield keeping


def kept_by(call: Call) -> Iterator[tuple[Occurrence, Keeping]]:
    """The arguments that the functions of the project which ``call`` runs keep; each argument once."""
    for argument in call.arguments if _keeps_something(call) and not _is_dropped_with(call) else ():
        keeping = next(kept_arguments(call, argument), None)
        for where in written_members(Occurrence(argument.value, argument.node.value)) if keeping is not None else ():
            if keeping is not None and attachment(where.value) > Attachment.UNKNOWN:
                yield where, keeping


def _is_dropped_with(call: Call) -> bool:
    """Whether the object whose method is called is made anew for each iteration (or call), and nobody else gets it."""
    receiver = call.receiver
    made = sources(receiver) if receiver is not None else ()
    if receiver is None or not all(isinstance(each, Call) and each.function is call.function for each in made):
        return False
    return bool(made) and not loops_outlived(receiver, call.region) and not any(map(_is_handed_out, made))


def _is_handed_out(made: Value) -> bool:
    """Whether an object leaves the code that made it: stored, returned, or passed to something."""
    return any(
        (isinstance(use, Store) and use.value is name and use.base is not None)
        or (isinstance(use, Call) and use.callee is not name)
        or isinstance(use, (Exit, Display))
        for name in (made, *(use for use in made.uses if isinstance(use, Phi)))
        for use in name.uses
    )


def is_module_state(function: Function, accumulation: Accumulation) -> bool:
    """Whether the holder is an attribute of a module (or of another object that lives as long as training).

    Attributes that count for a step hook of a framework are sums of losses, not state of the model.
    """
    owner = function.owner
    if accumulation.attribute is None or owner is None or returns_loss_to_framework(function):
        return False
    return instance_kind(owner).role in {Role.MODULE, Role.LOSS_FUNCTION}


def concatenates(accumulation: Accumulation) -> bool:
    """Whether the holder grows by ``torch.cat`` and its kin."""
    value = accumulation.value
    while isinstance(value, Item):
        value = value.base
    return isinstance(value, Call) and bool(qualified_names(value.callee) & _CONCATENATIONS)


def retention_confidence(kept: Value, added: Value, span: Span, loop: Loop | None) -> Confidence | None:
    """How sure it is that keeping ``added`` in ``kept`` is a hazard; None if it is differentiated later or bounded.

    What a freeing backward inside the loop has run over cannot be differentiated again, wherever it goes. A test is
    over before what it keeps counts.
    """
    if added.function.module.is_test or (span is Span.CALL and _is_deleted_after_use(kept)):
        return Confidence.POSSIBLE
    if any(drained_within(added, each) and not _feeds_backward_in(kept, each) for each in _lived_through(kept, loop)):
        return certainty(added)
    reach = reaches_gradient(kept)
    if reach is Reach.YES:
        return None
    if loop is not None and (_is_alive_anyway(added, loop) or _is_bounded(kept, added, loop)):
        return Confidence.POSSIBLE
    drained = drain(added) is Drain.DRAINED
    if span is Span.ITERATION and loop is not None and drained and drained_outside(added, loop):
        # The one backward that frees it runs after the loop: the graphs are alive together in any case.
        return None
    if reach is Reach.UNKNOWN:
        # What may be differentiated out of sight has to be known to carry a graph, and one that is freed for sure.
        freed = drained and (loop is None or not drained_on_some_paths(added, loop))
        return certainty(added) if freed and attachment(added) is Attachment.CERTAIN else Confidence.POSSIBLE
    return certainty(added)


def _is_alive_anyway(added: Value, loop: Loop) -> bool:
    """Whether another container keeps the graph of the modules behind ``added``, for a later backward.

    Entropies that are collected for a report, beside the log-probabilities that the loss is made of.
    """
    behind = {id(call) for call in graph_sources(added)}
    return bool(behind) and any(
        insertion.event.region.within(loop)
        and behind <= {id(call) for call in graph_sources(insertion.value)}
        and reaches_gradient(insertion.container) is Reach.YES
        for insertion in insertions_in(loop.function)
        if insertion.value is not added
    )


def _is_bounded(kept: Value, added: Value, loop: Loop) -> bool:
    """Whether no more is kept than is alive anyway: for each layer, for pieces of one tensor, or what a chain holds."""
    lived = _lived_through(kept, loop)
    return _works_on_pieces(added, loop) or all(map(iterates_over_parts, lived)) or _is_link(added, loop)


def _is_link(added: Value, loop: Loop) -> bool:
    """Whether the next iteration computes its value from ``added``, whose graph the last one holds in any case.

    The returns of an episode, the states of a recurrent network: ``g = r + gamma * g; returns.append(g)``.
    """
    heads = [phi for phi in loop.phis.values() if any(value is added for value in _joined(phi.carried))]
    return any(ancestor in heads for ancestor in local_ancestors(added) if isinstance(ancestor, Phi))


_PIECES = frozenset({"split", "chunk", "unbind", "tensor_split"})


def _works_on_pieces(added: Value, loop: Loop) -> bool:
    """Whether the loop only computes on pieces of one tensor, whose graph is there before and bounds what is kept."""
    in_pieces = loop.iterable is not None and any(
        isinstance(source, Call) and source.name in _PIECES for source in sources(loop.iterable)
    )
    return in_pieces and not any(call.region.within(loop) for call in graph_sources(added))


def _lived_through(kept: Value, loop: Loop | None) -> list[Loop]:
    """``loop`` and the loops around it over whose iterations the holder lives that ``kept`` is, or is stored in."""
    if loop is None:
        return []
    stored_in = [use.base for use in kept.uses if isinstance(use, Store) and use.value is kept and use.base is not None]
    wider = loops_outlived(stored_in[0] if stored_in else kept, loop)
    return [loop, *(each for each in wider if each is not loop)]


def _feeds_backward_in(kept: Value, loop: Loop) -> bool:
    """Whether a backward inside the loop starts from the holder itself."""
    return any(
        ancestor is kept
        for call in loop.function.calls
        if call.region.within(loop)
        for root in started_roots(call)
        for ancestor in local_ancestors(root)
    )


def depends_on_input(value: Value, function: Function) -> bool:
    """Whether ``value`` is computed differentiably from what a forward method gets from callers out of sight.

    The input of a module inside a network is an activation; only the first module gets what needs no gradient.
    """
    if function.name != "forward":
        return False
    for ancestor in local_ancestors(value):
        if isinstance(ancestor, Parameter) and ancestor.function is function and ancestor is not function.instance:
            return passed_arguments(ancestor) is None and attachment(ancestor) is Attachment.UNKNOWN
    return False


def is_replaced_before(value: Value, event: Call | Store | Binary | Comprehension) -> bool:
    """Whether the attached part of a dict or list has been overwritten by something detached before ``event``."""
    for use in value.uses:
        if not isinstance(use, Store) or use.base is not value or use.index is None:
            continue
        if use.order < event.order and attachment(use.value) is Attachment.DETACHED:
            return True
    return False


def is_reset_in_loop(accumulation: Accumulation) -> bool:
    """Whether the loop itself starts the sum anew now and then: at every accumulation boundary, at every report."""
    loop = accumulation.loop
    if loop is None or accumulation.span is not Span.ITERATION:
        return False
    heads = [phi for phi in loop.phis.values() if any(value is accumulation.value for value in _joined(phi.carried))]
    return any(
        isinstance(value, (Constant, Call)) and value.region.within(loop) and value is not accumulation.value
        for head in heads
        for value in _joined(head.carried)
    )


def starts_anew(accumulation: Accumulation) -> bool:
    """Whether each call sets the holder to something of its own before the loop that adds to it."""
    loop = accumulation.loop
    if loop is None or accumulation.span is not Span.ITERATION:
        return False
    heads = [phi for phi in loop.phis.values() if any(value is accumulation.value for value in _joined(phi.carried))]
    return bool(heads) and not any(isinstance(_first(head), (Attribute, Parameter, Free)) for head in heads)


def _first(value: Value) -> Value:
    """What a name is before the loops around it begin."""
    while isinstance(value, Phi) and value.loop is not None:
        value = value.inputs[0]
    return value


def _joined(values: Iterable[Value]) -> Iterator[Value]:
    """The values behind joins of branches, heads of loops left alone."""
    pending = list(values)
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, Phi) and value.loop is None:
            pending.extend(value.inputs)
