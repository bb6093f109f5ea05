"""Short vectors of known numbers, which networks compute their widths with: ``torch.arange(depth) * slope + first``.

PyTorch computes most of them in float32 and this module in float64. Where that could decide a rounding the result is
unknown.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

from memlint.model.sizes.objects import Tensor

_LONGEST = 10_000
_CLOSE = 1e-5
"""How near to the point where rounding changes a number of float32 is not trusted, for each unit of its size. Its own
error is 6e-8; a few operations multiply that."""
_LARGEST = 1e6
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "Pow": operator.pow,
}
_NAMED = {"add": "Add", "sub": "Sub", "mul": "Mult", "div": "Div", "divide": "Div", "true_divide": "Div", "pow": "Pow"}
_FUNCTIONS: dict[str, Callable[[float], float]] = {"log": math.log, "log2": math.log2, "exp": math.exp, "abs": abs}
_FUNCTIONS["sqrt"] = math.sqrt
_ROUNDINGS: dict[str, Callable[[float], int]] = {"round": round, "floor": math.floor, "ceil": math.ceil}
_CASTS = frozenset("int long".split())


def vector(values: Sequence[float], scalar: bool = False) -> Tensor:
    """A tensor of these numbers."""
    if len(values) > _LONGEST:
        return Tensor((len(values),))
    return Tensor(() if scalar else (len(values),), tuple(values))


def combined(name: str, left: Any, right: Any) -> Tensor | None:
    """The value of an operator of :mod:`ast` on tensors and numbers; None if their numbers are not known."""
    numbers = [each.numbers if isinstance(each, Tensor) else each for each in (left, right)]
    if name not in _OPERATORS or any(not isinstance(each, (int, float, tuple)) for each in numbers):
        return None
    length = max(len(each) for each in numbers if isinstance(each, tuple))
    columns = [each if isinstance(each, tuple) else (each,) for each in numbers]
    if any(len(each) not in (1, length) for each in columns):
        return None
    first, second = (each * length if len(each) == 1 else each for each in columns)
    try:
        values = [_OPERATORS[name](*pair) for pair in zip(first, second, strict=True)]
    except (ArithmeticError, ValueError):
        return None
    if any(isinstance(each, complex) or abs(each) > _LARGEST for each in values):
        return None
    is_scalar = all(each.shape == () for each in (left, right) if isinstance(each, Tensor))
    return vector(values, is_scalar)


def item(tensor: Tensor, key: Any) -> Tensor:
    """``tensor[key]``."""
    numbers = tensor.numbers
    if numbers is None or tensor.shape == ():
        return Tensor(None)
    if isinstance(key, slice):
        return vector(numbers[key])
    is_known = isinstance(key, int) and -len(numbers) <= key < len(numbers)
    return vector([numbers[key]], scalar=True) if is_known else Tensor(None)


def split(tensor: Tensor, sizes: Any) -> tuple[Tensor, ...] | None:
    """The parts of a vector of known numbers; None if the sizes are not known."""
    numbers = tensor.numbers or ()
    if isinstance(sizes, int) and sizes > 0:
        sizes = [min(sizes, len(numbers) - start) for start in range(0, len(numbers), sizes)]
    is_list = isinstance(sizes, (list, tuple)) and all(isinstance(each, int) for each in sizes)
    if not is_list or getattr(sizes, "doubt", None) or sum(sizes) != len(numbers):
        return None
    ends = list(accumulate(sizes))
    return tuple(vector(numbers[end - size : end]) for end, size in zip(ends, sizes, strict=True))


def changed_in_place(name: str, arguments: list[Any]) -> None:
    """Forgets the numbers of tensors that a function or a method called ``name`` may write into."""
    if name.endswith("_"):
        for each in arguments:
            if isinstance(each, Tensor):
                each.numbers = None


def computed(name: str, arguments: list[Any]) -> Tensor | None:
    """What a function of ``torch``, or a method of a tensor, makes of known numbers; None if that is not known."""
    if name in _NAMED and len(arguments) == 2 and any(isinstance(each, Tensor) for each in arguments):
        return combined(_NAMED[name], *arguments)
    first = arguments[0] if len(arguments) == 1 else None
    if not isinstance(first, Tensor) or first.numbers is None:
        return None
    if name == "diff" and first.shape != ():
        return vector([after - before for before, after in pairwise(first.numbers)])
    if name in _CASTS:
        return _mapped(first, lambda each: _rounded(each, int, 0.0))
    if name in _ROUNDINGS:
        edge = 0.5 if name == "round" else 0.0
        return _mapped(first, lambda each: _rounded(each, _ROUNDINGS[name], edge))
    return _mapped(first, _FUNCTIONS[name]) if name in _FUNCTIONS else None


def _mapped(tensor: Tensor, function: Callable[[float], float | None]) -> Tensor | None:
    try:
        values = [function(each) for each in tensor.numbers or ()]
    except (ArithmeticError, ValueError):
        return None
    known = [each for each in values if each is not None]
    return vector(known, tensor.shape == ()) if len(known) == len(values) else None


def _rounded(value: float, function: Callable[[float], int], edge: float) -> int | None:
    """``value`` as a whole number; None where float32 may round the other way. ``edge`` is where that happens."""
    if isinstance(value, int):
        return value
    distance = abs((value - edge) - round(value - edge))
    return function(value) if distance > _CLOSE * max(1.0, abs(value)) else None
