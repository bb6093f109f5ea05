"""Tensors that are larger than they need be: differences of all pairs, and copies where a view would do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from memlint.bare_trees.layout import spelling
from memlint.findings import Confidence
from memlint.model.aliases import qualified_names, sources
from memlint.model.attachment import Attachment, attachment
from memlint.model.components import readers
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.kinds import Role, role
from memlint.model.memo import query
from memlint.model.pins import is_older
from memlint.model.program import Program
from memlint.model.settings import option, values
from memlint.model.source_text import text
from memlint.model.upstream import local_ancestors
from memlint.model.values import Attribute, Binary, Call, Display, Exit, Item, Store, Unary, Value

# ------------------------------------------------------------------------- differences of all pairs


class Pairwise(NamedTuple):
    """A distance of all pairs that is computed from their differences: ``(a[:, None] - b[None]).pow(2).sum(-1)``."""

    difference: Binary
    distance: Call
    rows: cst.BaseExpression | None
    """The expressions whose rows are compared, where they can be given to ``torch.cdist`` as they are."""
    columns: cst.BaseExpression | None
    power: int | None
    """1 for sums of absolute differences, 2 for distances, None for their squares."""
    confidence: Confidence


class _Spread(NamedTuple):
    """A tensor with a new dimension of size one; ``axis`` counts from 0."""

    tensor: cst.BaseExpression
    axis: int


def pairwise_distances(program: Program) -> Iterator[Pairwise]:
    """The distances of all pairs in a file whose differences serve for nothing else."""
    for function in program.functions:
        for call in function.calls:
            if call.name in {"sum", "norm", "mean", "vector_norm"}:
                found = _pairwise(call)
                if found is not None:
                    yield found


def _pairwise(call: Call) -> Pairwise | None:
    reduced = _operand(call)
    if reduced is None or not _is_over_last(call):
        return None
    difference, power = _difference(reduced)
    if difference is None or (call.name in {"norm", "vector_norm"}) is (power is not None):
        return None
    left, right = _spread(difference.left), _spread(difference.right)
    if left is None or right is None or left.axis == right.axis or not _serves_only(difference, call):
        return None
    first, second = (left, right) if left.axis > right.axis else (right, left)
    adjacent = first.axis - second.axis == 1
    exponent = 2 if call.name in {"norm", "vector_norm"} else 1 if power == 1 else None
    tensor = role(difference.left, Role.TENSOR, Role.OUTPUT, Role.BATCH) or _is_of_torch(call, reduced)
    plain = adjacent and call.name != "mean" and not _says_order(call)
    return Pairwise(
        difference,
        call,
        first.tensor if plain else None,
        second.tensor if plain else None,
        exponent,
        Confidence.LIKELY if tensor and _is_recorded(difference, call) else Confidence.POSSIBLE,
    )


def _is_recorded(difference: Binary, distance: Call) -> bool:
    """Whether the differences may be saved for a backward, and are no matter of tests."""
    if difference.function.module.is_test or grad_mode(difference.region) is GradMode.DISABLED:
        return False
    if attachment(difference) is Attachment.UNKNOWN:
        # Who detaches one side, or takes nothing but bins or ranks, computes no gradient of the other.
        read = list(readers(distance))
        binned = bool(read) and all(isinstance(use, Call) and attachment(use) is Attachment.DETACHED for use in read)
        return not binned and not any(map(_is_detached_by_hand, difference.operands()))
    return attachment(difference) is not Attachment.DETACHED


def _is_detached_by_hand(operand: Value) -> bool:
    return any(isinstance(each, Call) and each.method == "detach" for each in local_ancestors(operand))


def _operand(call: Call) -> Value | None:
    """The tensor that a reduction is of: its receiver, or its first argument."""
    if any(name.startswith("torch.") for name in qualified_names(call.callee)):
        return call.argument("input", 0) or call.argument("x", 0)
    return call.receiver


def _is_over_last(call: Call) -> bool:
    """Whether a reduction is over the last dimension alone."""
    is_method = not any(name.startswith("torch.") for name in qualified_names(call.callee))
    place = {"norm": 1, "vector_norm": 1}.get(call.name, 0) + (0 if is_method else 1)
    return any(
        known is not None and known.constant in (-1, 2, 3)
        for known in (option(call, "dim", place).only, option(call, "axis").only)
    )


def _says_order(call: Call) -> bool:
    """Whether a norm is another one than the Euclidean."""
    is_method = not any(name.startswith("torch.") for name in qualified_names(call.callee))
    said = option(call, "p" if call.name == "norm" else "ord", 0 if is_method else 1)
    return call.name != "sum" and said.is_set and not (said.only is not None and said.only.constant == 2)


def _difference(value: Value) -> tuple[Binary | None, int | None]:
    """The difference behind ``.pow(2)``, ``** 2``, ``.square()`` or ``.abs()``, and the power: None without one."""
    power: int | None = None
    for source in sources(value):
        match source:
            case Call(name="pow" | "square" | "abs"):
                power = 1 if source.name == "abs" else 2
                inner = _operand(source)
                if source.name == "pow" and not _is_two(source.argument("exponent", 0 if source.receiver else 1)):
                    return None, None
            case Binary(operator="**") if _is_two(source.right):
                power, inner = 2, source.left
            case Binary(operator="*") if set(sources(source.left)) == set(sources(source.right)):
                power, inner = 2, source.left
            case _:
                inner = source
        found = sources(inner) if inner is not None else ()
        if len(found) == 1 and isinstance(found[0], Binary) and found[0].operator == "-":
            return found[0], power
    return None, None


def _is_two(value: Value | None) -> bool:
    known = values(value).only if value is not None else None
    return known is not None and known.constant == 2


def _spread(value: Value) -> _Spread | None:
    """``value`` as a tensor with a new dimension: ``x[:, None]``, ``x[None]``, ``x.unsqueeze(1)``."""
    for source in sources(value):
        match source:
            case Item(node=cst.Subscript() as node):
                new = [index for index, part in enumerate(node.slice) if _is_none(part)]
                whole = all(_is_none(part) or _is_whole(part) for part in node.slice)
                # A dimension behind the last one is no pair of rows.
                if len(new) == 1 and whole and new[0] < 3:
                    return _Spread(node.value, new[0])
            case Call(name="unsqueeze", node=cst.Call(func=cst.Attribute(value=tensor))) if source.receiver is not None:
                axis = option(source, "dim", 0).only
                if axis is not None and axis.constant in (0, 1, 2):
                    return _Spread(tensor, axis.constant)
    return None


def _is_none(part: cst.SubscriptElement) -> bool:
    return isinstance(part.slice, cst.Index) and spelling(part.slice.value) in {"None", "np.newaxis"}


def _is_whole(part: cst.SubscriptElement) -> bool:
    if isinstance(part.slice, cst.Index):
        return isinstance(part.slice.value, cst.Ellipsis)
    return isinstance(part.slice, cst.Slice) and part.slice.lower is None and part.slice.upper is None


def _is_of_torch(call: Call, reduced: Value) -> bool:
    """Whether the way in which a reduction is written is that of torch: ``dim=``, ``.pow``, functions of torch."""
    if call.argument("dim") is not None or any(name.startswith("torch.") for name in qualified_names(call.callee)):
        return True
    return any(isinstance(source, Call) and source.name in {"pow", "square"} for source in sources(reduced))


_STEPS = frozenset({"pow", "square", "abs"})
"""What makes of a difference what a distance is the sum of."""


def _serves_only(difference: Value, distance: Call) -> bool:
    """Whether the differences are used for their distance only."""
    pending: list[Value] = [difference]
    while pending:
        value = pending.pop()
        for use in readers(value):
            match use:
                case Call() if use is distance:
                    continue
                case Attribute(name="shape" | "dtype" | "device" | "sum" | "mean" | "norm"):
                    if any(isinstance(called, Call) and called is not distance for called in use.uses):
                        return False
                case Attribute(name=name) if name in _STEPS:
                    pending.extend(called for called in use.uses if isinstance(called, Call))
                case Binary(operator="**" | "*"):
                    pending.append(use)
                case Call(name=name) if name in _STEPS:
                    pending.append(use)
                case _:
                    return False
    return True


# ------------------------------------------------------------------------- copies where a view would do


class Repeat(NamedTuple):
    """``x.unsqueeze(0).repeat(n, 1, 1)``: copies of a tensor along dimensions of size one, which nobody writes to."""

    call: Call
    expanded: str
    """The arguments of ``expand`` that make a view of the same shape."""
    confidence: Confidence


def needless_repeats(program: Program) -> Iterator[Repeat]:
    """The copies in a file that ``repeat`` makes along a dimension of size one, and that are only read."""
    for call in program.calls("repeat"):
        if call.receiver is None or call.is_open or role(call.receiver, Role.TEXT, Role.NUMBER):
            continue
        counts = _counts(call) if not any(argument.keyword for argument in call.arguments) else []
        ones = _size_one(call.receiver)
        repeated = [axis for axis, count in enumerate(counts) if spelling(count) != "1"]
        # One number is what NumPy's method takes.
        if len(counts) < 2 or not repeated or ones is None or any(axis not in ones.axes for axis in repeated):
            continue
        if ones.dimensions is not None and ones.dimensions != len(counts):
            continue
        if _is_only_read(call):
            expanded = ", ".join("-1" if spelling(count) == "1" else text(count) for count in counts)
            yield Repeat(call, expanded, Confidence.LIKELY)


def _counts(call: Call) -> list[cst.BaseExpression]:
    """How often each dimension is repeated."""
    nodes = [argument.node.value for argument in call.arguments if argument.keyword is None]
    if len(nodes) == 1 and isinstance(nodes[0], (cst.Tuple, cst.List)):
        nodes = [element.value for element in nodes[0].elements]
    return nodes


class _Ones(NamedTuple):
    """Dimensions that are known to have the size one, and how many dimensions there are, if that is known."""

    axes: frozenset[int]
    dimensions: int | None = None


@query(on_cycle=None)
def _size_one(value: Value) -> _Ones | None:
    found = [_source_size_one(source) for source in sources(value)]
    return found[0] if len(found) == 1 else None


def _source_size_one(source: Value) -> _Ones | None:
    match source:
        case Item(node=cst.Subscript() as node):
            new = [index for index, part in enumerate(node.slice) if _is_none(part)]
            plain = all(_is_none(part) or _is_whole(part) for part in node.slice)
            return _Ones(frozenset(new)) if new and plain and "..." not in spelling(node) else None
        case Call(name="unsqueeze") if source.receiver is not None:
            axis = option(source, "dim", 0).only
            inner = _size_one(source.receiver)
            if axis is None or not isinstance(axis.constant, int) or axis.constant < 0:
                return None
            kept = inner.axes if inner is not None else frozenset()
            moved = frozenset(each + (each >= axis.constant) for each in kept)
            return _Ones(moved | {axis.constant})
        case Call(name="Parameter"):
            data = source.argument("data", 0)
            return _size_one(data) if data is not None else None
        case Call(name="zeros" | "ones" | "randn" | "rand" | "empty"):
            shape = source.positional()
            if len(shape) == 1:
                displays = [s for s in sources(shape[0]) if isinstance(s, Display)]
                shape = list(displays[0].elements) if len(displays) == 1 and not displays[0].starred else []
            sizes = [values(each).only for each in shape]
            ones = frozenset(axis for axis, size in enumerate(sizes) if size is not None and size.constant == 1)
            return _Ones(ones, len(shape)) if ones else None
    return None


_READING = frozenset({"@", "*", "+", "-", "/", "//", "**", "%", "&", "|"})
_READERS = frozenset(
    "matmul bmm einsum add mul sub div sum mean max min where cat concat stack concatenate gather".split()
)


_VIEWS = frozenset({"transpose", "permute", "unsqueeze", "squeeze", "to", "float", "half"})


def _is_only_read(call: Call) -> bool:
    """Whether arithmetic, products and concatenation are all that is done with a copy."""
    uses = list(readers(call))
    return bool(uses) and all(_reads(use, call) for use in uses)


def _reads(use: Value | Store | Exit, copy: Value) -> bool:
    match use:
        case Binary():
            in_place = use.augmented is not None and copy in sources(use.left)
            return use.operator in _READING and not in_place
        case Unary():
            return True
        case Display():
            return bool(use.uses) and all(isinstance(u, Call) and u.name in _READERS for u in use.uses)
        case Call():
            return use.name in _READERS and any(name.startswith("torch.") for name in qualified_names(use.callee))
        case Attribute(name=name) if name in _VIEWS:
            return all(isinstance(called, Call) and _is_only_read(called) for called in use.uses)
        case Attribute(name=name):
            return name in _READERS | {"shape", "dtype", "device"}
    return False


def repeated_heads(program: Program) -> Iterator[tuple[Call, Call]]:
    """Keys that are repeated for each group of queries, with the attention of torch that could share them itself.

    Only where the project may have torch 2.5, which has ``enable_gqa``.
    """
    if is_older(program.module, "torch", "2.5"):
        return
    for attention in program.calls("scaled_dot_product_attention"):
        if attention.argument("enable_gqa") is not None:
            continue
        keys = [_repeating(attention.argument(name, place)) for name, place in (("key", 1), ("value", 2))]
        if keys[0] is not None and keys[1] is not None:
            yield keys[0], attention


def _repeating(value: Value | None) -> Call | None:
    found = sources(value) if value is not None else ()
    call = found[0] if len(found) == 1 else None
    if isinstance(call, Call) and call.name == "repeat_interleave":
        dim = option(call, "dim", 1).only
        return call if dim is not None and dim.constant in (1, -3) else None
    return None
