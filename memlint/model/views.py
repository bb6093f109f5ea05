"""Views that keep a whole tensor alive for a part of it.

``hidden[:, 0]`` shares the storage of ``hidden``: as long as the slice lives, all of it stays allocated (measured on
torch 2.13: 32 MiB for a view of 64 KiB). Indexing with a list, a mask or a tensor, ``.clone()`` and a copy to another
device have storage of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import libcst as cst

from memlint.findings import Confidence
from memlint.model.footprint import Footprint, footprint
from memlint.model.kinds import Role, role
from memlint.model.layer_outputs import is_tensor_of_layer
from memlint.model.values import Attribute, Binary, Call, Constant, Item, Value


class View(NamedTuple):
    """A part of a tensor that shares its storage."""

    base: Value
    """The tensor whose storage is kept."""
    confidence: Confidence
    """How sure it is that the part is much smaller than the tensor."""


def view_of(value: Value) -> View | None:
    """The tensor that ``value`` is a small part of without a copy; None if it is none, or a copy."""
    parts: list[Item | Call] = []
    current = value
    while True:
        nearer = _shared(current, parts)
        if nearer is None:
            break
        current = nearer
    if not parts or not _is_large_tensor(current, parts):
        return None
    confidences = [found for part in parts if (found := _smallness(part, current)) is not None]
    if not confidences:
        return None
    return View(current, max(confidences, key=lambda confidence: confidence.rank))


_VIEWS = frozenset(
    """
    detach view view_as squeeze unsqueeze permute transpose t expand expand_as movedim swapaxes swapdims unflatten
    detach_ requires_grad_ diagonal as_strided
    """.split()
)
"""Methods whose result shares the storage of the tensor."""

_VIEWS_OF_PARTS = frozenset({"select", "narrow"})
_VIEWS_IF_CONTIGUOUS = frozenset({"contiguous", "reshape", "flatten", "ravel"})
_LISTS_OF_VIEWS = frozenset({"unbind", "split", "chunk", "tensor_split", "hsplit", "vsplit"})


def _shared(value: Value, parts: list[Item | Call]) -> Value | None:
    """What ``value`` shares its storage with one step back; a step that takes a part is added to ``parts``."""
    match value:
        case Attribute(name="data" | "T" | "mT" | "H"):
            return value.base
        case Item() if _is_basic(value):
            parts.append(value)
            return value.base
        case Call() if value.receiver is not None:
            return _shared_by_method(value, value.receiver, parts)
    return None


def _shared_by_method(call: Call, receiver: Value, parts: list[Item | Call]) -> Value | None:
    if call.method in _VIEWS or (call.method in _LISTS_OF_VIEWS and parts):
        return receiver
    if call.method in _VIEWS_OF_PARTS and len(call.arguments) >= 2:
        parts.append(call)
        return receiver
    # A slice along the first dimension is contiguous already, so that there is nothing to copy.
    is_leading = isinstance(receiver, Item) and len(receiver.index) == 1
    return receiver if call.method in _VIEWS_IF_CONTIGUOUS and is_leading else None


def _is_basic(item: Item) -> bool:
    """Whether the index holds constants and slices only, so that the result is a view."""
    return bool(item.index) and all(
        index is None or (isinstance(index, Constant) and isinstance(index.constant, (int, type(...), type(None))))
        for index in item.index
    )


# -------------------------------------------------------------------------- how small


def _smallness(part: Item | Call, base: Value) -> Confidence | None:
    """How sure it is that ``part`` is a small part; None if it may well be all of ``base``."""
    if isinstance(part, Call):
        return _taken_by_method(part)
    dropped = [place for place, index in enumerate(part.index) if isinstance(index, Constant) and _is_int(index)]
    short = [place for place, index in enumerate(part.index) if index is None and _is_short_slice(part, place)]
    if not dropped and not short:
        return None
    if isinstance(part.base, Call) and part.base.method in _LISTS_OF_VIEWS:
        return Confidence.POSSIBLE if part.base.method == "chunk" else Confidence.LIKELY
    if len(part.index) == 1:
        # The first of a batch may be the only one.
        return Confidence.POSSIBLE
    if len(part.index) >= 3 or len(dropped) >= 2 or _is_sequence(base):
        return Confidence.LIKELY
    last = part.index[-1]
    from_the_end = isinstance(last, Constant) and isinstance(last.constant, int) and last.constant < 0
    # ``out[:, 0]`` takes all there is from a model with one output.
    return Confidence.LIKELY if from_the_end else Confidence.POSSIBLE


def _taken_by_method(call: Call) -> Confidence | None:
    last = call.argument("length", 2) if call.method == "narrow" else call.argument("index", 1)
    if not isinstance(last, Constant) or not isinstance(last.constant, int):
        return None
    dimension = call.argument("dim", 0)
    along_first = isinstance(dimension, Constant) and dimension.constant == 0
    if call.method == "narrow" and last.constant > _SHORT:
        return None
    return Confidence.POSSIBLE if along_first else Confidence.LIKELY


_SHORT = 4
"""Elements that a slice with constant bounds may have to count as short."""


def _is_int(index: Constant) -> bool:
    return isinstance(index.constant, int) and not isinstance(index.constant, bool)


def _is_short_slice(item: Item, place: int) -> bool:
    """Whether the slice at ``place`` is ``:n`` or ``-n:`` with a small constant."""
    if not isinstance(item.node, cst.Subscript) or place >= len(item.node.slice):
        return False
    written = item.node.slice[place].slice
    if not isinstance(written, cst.Slice) or written.step is not None:
        return False
    lower, upper = _bound(written.lower), _bound(written.upper)
    if upper is not None and upper > 0:
        return upper - (lower or 0) <= _SHORT
    return upper is None and written.upper is None and lower is not None and -_SHORT <= lower < 0


def _bound(node: cst.BaseExpression | None) -> int | None:
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        inner = _bound(node.expression)
        return None if inner is None else -inner
    return int(node.value, 0) if isinstance(node, cst.Integer) else None


_SEQUENCES = frozenset({"last_hidden_state", "encoder_last_hidden_state", "hidden_states"})


def _is_sequence(base: Value) -> bool:
    """Whether ``base`` is a hidden state of transformers: batch, sequence and features."""
    while isinstance(base, Item):
        base = base.base
    return isinstance(base, Attribute) and base.name in _SEQUENCES


# --------------------------------------------------------------------------- of what


def _is_large_tensor(base: Value, parts: list[Item | Call]) -> bool:
    """Whether the base is a tensor that is computed or loaded, and no small one."""
    if not isinstance(base, (Call, Binary)) and not role(base, Role.OUTPUT, Role.TENSOR, Role.BATCH):
        return False
    if footprint(base) in {Footprint.SCALAR, Footprint.INDEX, Footprint.REDUCED}:
        return False
    if role(base, Role.TENSOR) or is_tensor_of_layer(base):
        return True
    if not role(base, Role.OUTPUT, Role.BATCH):
        return False
    # Models and loaders may return tuples; several dimensions, and methods of tensors, are those of a tensor.
    return any(isinstance(part, Call) or len(part.index) > 1 for part in parts)
