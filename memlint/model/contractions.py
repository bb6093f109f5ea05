"""``torch.einsum`` whose result is summed by another one: a contraction in two steps, with all products in between."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import qualified_names, sources
from memlint.model.components import readers
from memlint.model.program import Program
from memlint.model.settings import values
from memlint.model.values import Call, Value

_TOKEN = re.compile(r"\.\.\.|[A-Za-z]")
_EINSUM = frozenset({"torch.einsum", "torch.functional.einsum"})


class Expanded(NamedTuple):
    """``products`` holds the product for every index in ``summed``, and ``sums`` adds them up at once."""

    products: Call
    sums: Call
    summed: tuple[str, ...]
    """The letters (or ``...``) of the dimensions that are only summed, as ``products`` names them."""
    equation: str
    """The equation that contracts in one step."""


class _Equation(NamedTuple):
    operands: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]


def expanded_contractions(program: Program) -> Iterator[Expanded]:
    """The products in a file that are computed for their sums only."""
    if program.module.text.count("einsum") < 2:
        return
    for sums in program.calls("einsum"):
        found = _expanded(sums)
        if found is not None:
            yield found


def _expanded(sums: Call) -> Expanded | None:
    second = _equation(sums)
    if second is None or len(second.operands) != 1 or len(sums.arguments) != 2:
        return None
    for products in _made_by_einsum(sums):
        first = _equation(products)
        if first is None or len(first.operands) < 2 or len(first.result) != len(second.operands[0]):
            continue
        names = dict(zip(second.operands[0], first.result, strict=True))
        kept = tuple(names[token] for token in second.result if token in names)
        summed = tuple(token for token in first.result if token not in kept)
        plain = len(names) == len(first.result) and len(kept) == len(second.result)
        if summed and plain and all(user is sums for user in readers(products)):
            equation = ",".join("".join(operand) for operand in first.operands) + "->" + "".join(kept)
            return Expanded(products, sums, summed, equation)
    return None


def _made_by_einsum(sums: Call) -> Iterator[Call]:
    for source in sources(sums.arguments[1].value):
        if isinstance(source, Call) and source.name == "einsum":
            yield source


def _equation(call: Call) -> _Equation | None:
    """The equation of ``torch.einsum``, if it is a constant that names its result."""
    if not call.arguments or not qualified_names(call.callee) & _EINSUM:
        return None
    text = _text(call.arguments[0].value)
    if text is None or text.count("->") != 1:
        return None
    given, result = text.split("->")
    return _Equation(tuple(_tokens(operand) for operand in given.split(",")), _tokens(result))


def _text(value: Value) -> str | None:
    known = values(value).only
    return known.constant if known is not None and isinstance(known.constant, str) else None


def _tokens(indices: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(indices))
