"""Running sums and what grows by concatenation: values that are carried on with something added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

import libcst as cst

from memlint.model.aliases import instance_class, qualified_names, same_object, same_place
from memlint.model.effects import returns_loss_to_framework
from memlint.model.instances import instance_kind
from memlint.model.kinds import Role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.spans import Span, container_span, is_reached_from_outside, loops_outlived, tensor_span
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Choice,
    Comprehension,
    Constant,
    Display,
    Free,
    Item,
    Loop,
    Occurrence,
    Parameter,
    Phi,
    Region,
    Store,
    Value,
    operand_occurrences,
)


class Accumulation(NamedTuple):
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
        if not any(store.key in scope.captures for scope in store.function.enclosing()):
            return None  # Most names are those of the function alone.
        return _build(store, lambda value: _reads_outer(value, store), Span.CALL, store.region.loop)
    if store.attribute is not None and instance_class(store.base) is not None:
        return _build(store, lambda value: _reads_attribute(value, store), Span.CALL, store.region.loop)
    if store.attribute is not None:
        return _added_to_field(store, store.base)
    return _added_to_item(store, store.base) if store.index is not None else None


def _added_to_field(store: Store, base: Value) -> Accumulation | None:
    """``stats.total += loss``, where ``stats`` is there before, or ``self.stats.total += loss``."""
    if store.attribute in torch.DETACHING_ATTRIBUTES:
        return None
    outlived = loops_outlived(base, store.region)
    if is_reached_from_outside(base):
        return _build(store, lambda value: _reads_field(value, store), Span.CALL, store.region.loop)
    if outlived:
        return _build(store, lambda value: _reads_field(value, store), Span.ITERATION, outlived[-1])
    return None


def _added_to_item(store: Store, base: Value) -> Accumulation | None:
    """``sums["loss"] += loss``, ``sums[:, step] += loss``, ``self.mean[:] = 0.9 * self.mean + 0.1 * mean``."""
    if _is_whole(store.target):
        return _written_over(base, store.value, store.target, store.region)
    span, loop = container_span(base, store.region)
    if span is None:
        span, loop = tensor_span(base, store.region)
    outlived = loops_outlived(base, store.region) if span is None and _is_text(store.index) else []
    if outlived:
        # Tensors have no names for their items: what a function out of sight has returned is a record.
        span, loop = Span.ITERATION, outlived[0]
    return None if span is None else _build(store, lambda value: _reads_item(value, store), span, loop)


def _is_whole(target: cst.CSTNode) -> bool:
    """Whether ``target`` is all of a tensor: ``mean[:]``, ``mean[...]``."""
    if not isinstance(target, cst.Subscript) or len(target.slice) != 1:
        return False
    part = target.slice[0].slice
    if isinstance(part, cst.Slice):
        return part.lower is None and part.upper is None and part.step is None
    return isinstance(part, cst.Index) and isinstance(part.value, cst.Ellipsis)


def _written_over(holder: Value, value: Value, node: cst.CSTNode, region: Region) -> Accumulation | None:
    """The tensor ``holder`` gets ``value`` for all of its elements, which is made of what they were before."""
    span, loop, attribute = _lifetime(holder, region)
    addends: list[Occurrence] = []
    if span is None or _split(value, lambda old: same_place(old, holder), addends, set()) is not _Old.MERGED:
        return None
    return Accumulation(node, attribute, region, value, tuple(addends), span, loop) if addends else None


def _is_text(value: Value | None) -> bool:
    return isinstance(value, Constant) and isinstance(value.constant, str)


def _build(store: Store, is_old: Callable[[Value], bool], span: Span, loop: Loop | None) -> Accumulation | None:
    def is_carried(value: Value) -> bool:
        return is_old(value) and not _is_replaced(value, store)

    addends: list[Occurrence] = []
    if _split(store.value, is_carried, addends, set()) is not _Old.MERGED or not addends:
        return None
    attribute = store.attribute if store.base is not None and instance_class(store.base) is not None else None
    return Accumulation(store.target, attribute, store.region, store.value, tuple(addends), span, loop)


_IN_PLACE = frozenset({"add_", "sub_", "lerp_", "addcmul_", "addcdiv_"})


def _in_place(call: Call) -> Accumulation | None:
    """``holder.add_(x)`` or ``holder.mul_(m).add_(x)`` on something that outlives the iteration or the call."""
    if call.method == "copy_" and call.receiver is not None and call.positional():
        return _written_over(call.receiver, call.positional()[0], operand_occurrences(call)[0].node, call.region)
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
    parts = _left_by_loop(value) or combined(value)
    old = [_split(part.value, is_old, addends, seen) for part in parts]
    if any(old):
        addends.extend(part for part, within in zip(parts, old, strict=True) if not within)
    most = max(old, default=_Old.NOTHING)
    selects = isinstance(value, (Phi, Choice)) or len(parts) == 1
    return _Old.MERGED if most and not selects else most


def _left_by_loop(value: Value) -> tuple[Occurrence, ...]:
    """What a loop leaves that has run, if ``value`` joins that with what was there before the loop."""
    if not isinstance(value, Phi) or value.loop is not None:
        return ()
    around = set(value.region.loops())
    return tuple(part for part in operand_occurrences(value) if not around.issuperset(part.value.region.loops()))


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


def _is_replaced(value: Value, store: Store) -> bool:
    """Whether ``value`` is what an inner loop leaves that has put something new in the place of what was there.

    ``loss`` after ``for step in range(steps): loss = criterion(...)``, if the loop has run at all.
    """
    if not isinstance(value, Phi) or value.loop is None or store.region.within(value.loop):
        return False
    seen: set[int] = set()
    pending = list(value.inputs[1:])
    while pending:
        current = pending.pop()
        if current is value:
            return False
        if id(current) not in seen:
            seen.add(id(current))
            pending.extend(current.operands())
    return True


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
    return store.base is not None and same_place(value.base, store.base)


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


def is_sum(event: Call | Store | Binary | Comprehension) -> bool:
    """Whether ``event`` adds to what the place held before, as ``meters[k] += x`` does, and replaces nothing."""
    return isinstance(event, Store) and _assigned(event) is not None


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


def is_reset_in_loop(accumulation: Accumulation) -> bool:
    """Whether the loop itself starts the sum anew now and then: at every accumulation boundary, at every report."""
    loop = accumulation.loop
    if loop is None or accumulation.span is not Span.ITERATION:
        return False
    heads = [phi for phi in loop.phis.values() if any(value is accumulation.value for value in joined(phi.carried))]
    return any(
        isinstance(value, (Constant, Call)) and value.region.within(loop) and value is not accumulation.value
        for head in heads
        for value in joined(head.carried)
    )


def starts_anew(accumulation: Accumulation) -> bool:
    """Whether each call sets the holder to something of its own before the loop that adds to it."""
    loop = accumulation.loop
    if loop is None or accumulation.span is not Span.ITERATION:
        return False
    heads = [phi for phi in loop.phis.values() if any(value is accumulation.value for value in joined(phi.carried))]
    return bool(heads) and not any(isinstance(_first(head), (Attribute, Parameter, Free)) for head in heads)


def _first(value: Value) -> Value:
    """What a name is before the loops around it begin."""
    while isinstance(value, Phi) and value.loop is not None:
        value = value.inputs[0]
    return value


def joined(values: Iterable[Value]) -> Iterator[Value]:
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
