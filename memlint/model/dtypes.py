"""Which floating-point numbers a model or a tensor has, as far as the program says."""

from __future__ import annotations

from memlint.findings import Confidence
from memlint.model.aliases import qualified_names
from memlint.model.identity import everywhere, holds, objects
from memlint.model.keywords import given
from memlint.model.memo import query
from memlint.model.settings import values
from memlint.model.training import inside
from memlint.model.values import Call, Value

_HALF = frozenset({"float16", "half", "bfloat16", "bf16", "fp16"})
_SINGLE = frozenset({"float32", "float", "fp32"})
_DOUBLE = frozenset({"float64", "double"})
_DTYPES = _HALF | _SINGLE | _DOUBLE
DTYPE_OPTIONS = ("dtype", "torch_dtype")
"""How ``from_pretrained`` calls the type of the weights, since and before transformers 4.56."""


def dtypes(value: Value) -> frozenset[str]:
    """The names of the types that ``value`` may stand for: of ``torch.bfloat16``, or of the text ``"bfloat16"``."""
    named = {name.rpartition(".")[2] for name in qualified_names(value) if name.startswith("torch.")}
    named |= {known.constant for known in values(value).known if isinstance(known.constant, str)}
    return frozenset(named) & _DTYPES


def is_half(value: Value) -> bool:
    """Whether ``value`` may stand for a type of 16 bits."""
    return bool(dtypes(value) & _HALF)


def is_wide(value: Value) -> bool:
    """Whether ``value`` stands for a type of 32 or 64 bits in any case."""
    found = dtypes(value)
    return bool(found) and found <= _SINGLE | _DOUBLE


def casts_to(call: Call, *, half: bool) -> bool:
    """Whether ``call`` is a method that casts to 16 bits (or, without ``half``, to 32 or 64): ``x.to(torch.float32)``.

    ``x.type(torch.float32)`` counts, and ``x.float()``.
    """
    if call.method in (("half", "bfloat16") if half else ("float", "double")):
        return not call.arguments
    if call.method not in {"to", "type"}:
        return False
    given_types = [argument.value for argument in call.arguments if argument.keyword in {None, "dtype"}]
    return any(is_half(each) if half else is_wide(each) for each in given_types)


@query(on_cycle=None)
def half_weights(module: Value) -> Confidence | None:
    """How sure it is that the weights of ``module`` are of 16 bits; None if nothing says so.

    By the type that it is loaded with, or by a cast, in the file where it is used or made.
    """
    whole = frozenset(inside(everywhere(objects(module))))
    made = [each.root for each in whole if isinstance(each.root, Call) and not each.path]
    loaded = [option for call in made for name in DTYPE_OPTIONS for option in given(call, name).values]
    if any(map(is_half, loaded)):
        return Confidence.CERTAIN if all(map(is_half, loaded)) else Confidence.LIKELY
    files = dict.fromkeys([module.function.module, *(call.function.module for call in made)])
    for file in files:
        for name in ("half", "bfloat16", "to", "type"):
            for call in file.calls_by_name.get(name, ()):
                if call.receiver is not None and casts_to(call, half=True):
                    cast = frozenset(inside(everywhere(objects(call.receiver))))
                    if holds(cast, whole):
                        return Confidence.LIKELY
    return None
