"""Whether predictions are a column, ``[N, 1]``, or a row of numbers, ``[N]``: together they broadcast to ``[N, N]``."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import callees
from memlint.model.kinds import Role, kinds, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.values import Attribute, Binary, Call, Constant, Display, Item, Part, Unary, Value


class Layout(Enum):
    """The shape of a tensor with one entry, or one row, for each sample."""

    COLUMN = "[N, 1]"
    VECTOR = "[N]"
    MATRIX = "[N, M]"
    """With M larger than one."""


_SAME = frozenset(
    """
    float double half long to cuda cpu type detach clone contiguous sigmoid relu tanh exp log abs sqrt square clamp
    requires_grad_ softplus neg squeeze_ pow
    """.split()
)
"""Methods and functions whose result has the shape of their input."""
_ELEMENTWISE_MODULES = frozenset(
    "Sigmoid ReLU Tanh LeakyReLU ELU GELU SiLU Softplus Dropout Identity Hardtanh Hardsigmoid".split()
)
_FLAT = frozenset({"flatten", "ravel"})
_REDUCING = frozenset({"max", "min", "sum", "mean", "amax", "amin"})
_BY_SIZE = frozenset({"torch.zeros", "torch.ones", "torch.empty", "torch.randn", "torch.rand"})


@query(on_cycle=None)
def layout(value: Value) -> Layout | None:
    """The layout of ``value``; None if it is not known, or not the same on all ways."""
    found = {_source_layout(source) for source in sources(value)}
    return found.pop() if len(found) == 1 else None


def _source_layout(source: Value) -> Layout | None:
    match source:
        case Call():
            return _call_layout(source)
        case Item():
            return _item_layout(source)
        case Part(index=0):
            # The values of what ``max`` returns.
            return layout(source.base)
        case Attribute(name="values" | "data"):
            return layout(source.base)
        case Unary(operator="-"):
            return layout(source.operand)
        case Binary():
            return _sum_layout(source)
    return None


def _sum_layout(value: Binary) -> Layout | None:
    """The layout of one side, where the other is a number or has the same."""
    found = []
    for side in value.operands():
        if isinstance(side, Constant) or (role(side, Role.NUMBER) and not role(side, Role.TENSOR, Role.OUTPUT)):
            continue
        found.append(layout(side))
    return found[0] if found and len(set(found)) == 1 else None


def _item_layout(item: Item) -> Layout | None:
    """``x[:, 0]`` is a vector, and ``x.max(1)[0]`` is what ``max`` returns first."""
    if len(item.index) == 2 and item.index[0] is None and _is_number(item.index[1]):
        return Layout.VECTOR if layout(item.base) in {Layout.COLUMN, Layout.MATRIX} else None
    if len(item.index) == 1 and isinstance(item.index[0], Constant) and item.index[0].constant == 0:
        made = sources(item.base)
        if made and all(isinstance(call, Call) and call.name in {"max", "min"} for call in made):
            return layout(item.base)
    return None


def _is_number(value: Value | None) -> bool:
    return isinstance(value, Constant) and isinstance(value.constant, int)


def _numbers(values: Iterable[Value]) -> list[int | None]:
    """The constant numbers among ``values``; None for what is none."""
    found: list[int | None] = []
    for value in values:
        sign, inner = (-1, value.operand) if isinstance(value, Unary) else (1, value)
        constant = inner.constant if isinstance(inner, Constant) else None
        found.append(sign * constant if isinstance(constant, int) else None)
    return found


def _call_layout(call: Call) -> Layout | None:
    base = call.receiver if call.receiver is not None else call.argument("input", 0)
    given = call.positional() if call.receiver is not None else call.positional()[1:]
    named = call.argument("dim")
    numbers = _numbers(given if named is None else [*given, named])
    made = _made_layout(call)
    if made is not None or base is None:
        return made
    if call.name in _FLAT and not call.arguments:
        return Layout.VECTOR
    if call.name in {"view", "reshape"} and numbers in ([-1], [-1, 1]):
        return Layout.VECTOR if numbers == [-1] else Layout.COLUMN
    return _changed(call, layout(base), numbers)


def _changed(call: Call, before: Layout | None, numbers: list[int | None]) -> Layout | None:
    """What a method makes of a tensor whose layout is known."""
    if call.name == "unsqueeze" and numbers in ([1], [-1]):
        return Layout.COLUMN if before is Layout.VECTOR else None
    if call.name == "squeeze" and numbers in ([], [1], [-1]):
        return Layout.VECTOR if before in {Layout.COLUMN, Layout.VECTOR} else None
    if call.name in _REDUCING and numbers in ([1], [-1]) and call.argument("keepdim", 2) is None:
        return Layout.VECTOR if before in {Layout.COLUMN, Layout.MATRIX} else None
    if call.name == "gather" and len(call.arguments) == 2:
        index = call.arguments[1].value
        # The index of a matrix has as many dimensions, so that one more makes a vector of indices a column.
        added = any(isinstance(source, Call) and source.name == "unsqueeze" for source in sources(index))
        return Layout.COLUMN if added and before is Layout.MATRIX else layout(index)
    return before if call.name in _SAME else None


def _made_layout(call: Call) -> Layout | None:
    """The layout of what a module returns, or of a new tensor."""
    names = qualified_names(call.callee)
    if names & _BY_SIZE:
        sizes = call.positional()
        if len(sizes) == 1 and not isinstance(sizes[0], Display):
            return Layout.VECTOR if role(sizes[0], Role.NUMBER) else None
        return Layout.COLUMN if len(sizes) == 2 and _numbers(sizes)[1] == 1 else None
    if "torch.arange" in names or "torch.linspace" in names:
        return Layout.VECTOR
    functions = callees(call)
    if functions:
        returned = {layout(exit.value) for function in functions for exit in function.returns}
        return returned.pop() if len(returned) == 1 else None
    found = {_module_layout(source) for source in sources(call.callee)}
    return found.pop() if len(found) == 1 else None


@query(on_cycle=None)
def _module_layout(made: Value) -> Layout | None:
    """What a module returns that ``made``, a call of its class, makes."""
    if not isinstance(made, Call):
        return None
    if made.method in torch.SELF_RETURNING and made.receiver is not None:
        found = {_module_layout(source) for source in sources(made.receiver)}
        return found.pop() if len(found) == 1 else None
    names = {kind.name for kind in kinds(made) if kind.name.startswith("torch.nn.")}
    if "torch.nn.Linear" in names:
        width = made.argument("out_features", 1)
        number = next(iter(_numbers(sources(width))), None) if width is not None else None
        return None if number is None else Layout.COLUMN if number == 1 else Layout.MATRIX
    if "torch.nn.Sequential" in names:
        for part in reversed(made.positional()):
            lasts = {kind.name.rpartition(".")[2] for kind in kinds(part)}
            if not lasts & _ELEMENTWISE_MODULES:
                found = {_module_layout(source) for source in sources(part)}
                return found.pop() if len(found) == 1 else None
    return None


def broadcasts_to_square(one: Value, other: Value) -> bool:
    """Whether one of two tensors is a column and the other a vector."""
    return {layout(one), layout(other)} == {Layout.COLUMN, Layout.VECTOR}
