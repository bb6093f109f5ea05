"""Functions of Python and its library that the evaluation runs, or knows to return something plain."""

from __future__ import annotations

import itertools
import math
import operator
import posixpath
from collections.abc import Callable, Iterable
from typing import Any

from memlint.model.sizes import vectors
from memlint.model.sizes.objects import (
    PLAIN,
    External,
    Instance,
    ModuleObject,
    Parameter,
    Tensor,
    Unknown,
    is_known,
    now,
)

_LARGEST = 100_000
"""Elements of the longest sequence that is built; longer ones are unknown."""


class Items(list[Any]):
    """A list of the program. ``doubt`` says why it may hold something else."""

    doubt: str = ""

    def __init__(self, values: Iterable[Any] = ()) -> None:
        super().__init__(values)
        self.born = now()


class Table(dict[Any, Any]):
    """A dict of the program, likewise."""

    doubt: str = ""

    def __init__(self, values: Any = ()) -> None:
        super().__init__(values)
        self.born = now()


class Pool(set[Any]):
    """A set of the program, likewise."""

    doubt: str = ""

    def __init__(self, values: Iterable[Any] = ()) -> None:
        super().__init__(values)
        self.born = now()


def doubt_of(value: Any) -> str:
    """Why a list, a dict or a set of the program may hold something else; empty if it does not."""
    return value.doubt if isinstance(value, (Items, Table, Pool)) else ""


class Missing(Exception):
    """The evaluation has to give up on this call."""


def _pure(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` on known values; what it makes of unknown ones is a number or a text."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        if not all(is_known(each) and not isinstance(each, _OBJECTS) for each in [*arguments, *keywords.values()]):
            return PLAIN
        return function(*arguments, **keywords)

    return call


_OBJECTS = (Instance, Parameter, Tensor, External)


def _range(*arguments: Any) -> Any:
    if not all(isinstance(each, int) for each in arguments):
        raise Missing
    result = range(*arguments)
    if len(result) > _LARGEST:
        raise Missing
    return result


def sequence(value: Any) -> list[Any]:
    """The elements of ``value``. Raises Missing if they are not known."""
    if isinstance(value, ModuleObject) and (value.items or _is_container(value)):
        if value.doubt:
            raise Missing
        return list(value.keys) if _named(value) else list(value.items)
    if doubt_of(value):
        raise Missing
    if isinstance(value, (list, tuple, set, frozenset, dict, range, str)):
        return list(value)
    if isinstance(value, Tensor) and value.numbers is not None and value.shape:
        return [vectors.vector([each], scalar=True) for each in value.numbers]
    if isinstance(value, Tensor) and value.shape and value.shape[0] <= 1024:
        return [Tensor(value.shape[1:])] * value.shape[0]
    raise Missing


def _named(module: ModuleObject) -> bool:
    return isinstance(module.cls, External) and module.cls.name.endswith(("ModuleDict", "ParameterDict"))


def _is_container(module: ModuleObject) -> bool:
    return isinstance(module.cls, External) and module.cls.name.endswith(("Sequential", "List", "Dict"))


def _zip(*arguments: Any, **_keywords: Any) -> Items:
    return Items(zip(*(_endless(each) for each in arguments), strict=False))


def _endless(value: Any) -> Any:
    return value if isinstance(value, itertools.count) else sequence(value)


def _enumerate(value: Any, start: Any = 0) -> Items:
    return Items(enumerate(sequence(value), start))


def _length(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape[0] if value.shape else PLAIN
    try:
        return len(sequence(value))
    except Missing:
        return PLAIN


def _listed(value: Any = ()) -> Any:
    return Items(sequence(value))


def _tuple(value: Any = ()) -> Any:
    return tuple(sequence(value))


def _set(value: Any = ()) -> Any:
    return Pool(sequence(value))


def _dict(*arguments: Any, **keywords: Any) -> Any:
    if not arguments:
        return Table(keywords)
    first = arguments[0]
    if doubt_of(first):
        raise Missing
    pairs = first if isinstance(first, dict) else dict(tuple(each) for each in sequence(first))
    return Table({**pairs, **keywords})


def _sum(value: Any, start: Any = 0) -> Any:
    total = start
    for each in sequence(value):
        if not isinstance(each, (int, float, list, tuple)):
            return PLAIN
        total = total + each
    return total


def _any(value: Any) -> Any:
    known = sequence(value)
    return any(known) if is_known(known) else PLAIN


def _all(value: Any) -> Any:
    known = sequence(value)
    return all(known) if is_known(known) else PLAIN


def _reversed(value: Any) -> Items:
    return Items(reversed(sequence(value)))


def _product(values: Any, **_: Any) -> Any:
    known = sequence(values)
    return math.prod(known) if all(isinstance(each, (int, float)) for each in known) else PLAIN


def _repeat(value: Any, times: Any = None) -> Items:
    if not isinstance(times, int) or times > _LARGEST:
        raise Missing
    return Items([value] * times)


def _vector(start: Any, end: Any, steps: Any = 100, **_: Any) -> Tensor:
    values = _linspace(start, end, steps)
    return vectors.vector(values) if is_known(values) else Tensor((steps,))


def _linspace(start: Any, end: Any, steps: Any = 100, **_: Any) -> Items:
    if not isinstance(steps, int) or steps > _LARGEST:
        raise Missing
    if not all(isinstance(each, (int, float)) for each in (start, end)):
        return Items([PLAIN] * steps)
    return Items(start + (end - start) * index / max(steps - 1, 1) for index in range(steps))


def _chain(*arguments: Any) -> Items:
    return Items(each for argument in arguments for each in sequence(argument))


def _pairwise(value: Any) -> Items:
    known = sequence(value)
    return Items(itertools.pairwise(known))


BUILTINS: dict[str, Callable[..., Any]] = {
    "abs": _pure(abs),
    "all": _all,
    "any": _any,
    "bool": _pure(bool),
    "dict": _dict,
    "divmod": _pure(divmod),
    "enumerate": _enumerate,
    "float": _pure(float),
    "frozenset": _set,
    "int": _pure(int),
    "iter": _listed,
    "len": _length,
    "list": _listed,
    "max": _pure(max),
    "min": _pure(min),
    "range": _range,
    "repr": _pure(repr),
    "reversed": _reversed,
    "round": _pure(round),
    "set": _set,
    "str": _pure(str),
    "sum": _sum,
    "tuple": _tuple,
    "zip": _zip,
}
LIBRARY: dict[str, Callable[..., Any]] = {
    **{f"math.{name}": _pure(getattr(math, name)) for name in "ceil floor sqrt log log2 log10 exp cos sin gcd".split()},
    "math.prod": _product,
    "os.path.join": _pure(posixpath.join),
    "os.path.basename": _pure(posixpath.basename),
    "os.path.dirname": _pure(posixpath.dirname),
    "numpy.prod": _product,
    "numpy.ceil": _pure(math.ceil),
    "numpy.floor": _pure(math.floor),
    "numpy.sqrt": _pure(math.sqrt),
    "numpy.log2": _pure(math.log2),
    "torch.linspace": _vector,
    "numpy.linspace": _linspace,
    "itertools.chain": _chain,
    "itertools.repeat": _repeat,
    "itertools.pairwise": _pairwise,
    "itertools.count": itertools.count,
    "collections.OrderedDict": _dict,
    "collections.abc.OrderedDict": _dict,
    **{f"operator.{name}": _pure(getattr(operator, name)) for name in "add mul sub floordiv".split()},
}
CONSTANTS: dict[str, Any] = {"math.pi": math.pi, "math.inf": math.inf, "sys.maxsize": 2**63 - 1}
PLAIN_MODULES = frozenset(
    """
    torch math numpy os sys time random logging warnings json re pathlib copy functools itertools operator string
    datetime platform inspect typing collections enum abc uuid hashlib shutil subprocess socket tqdm wandb einops
    """.split()
)
"""What these return, where nothing better is known, is no module of a network."""


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "Pow": operator.pow,
    "BitOr": operator.or_,
    "BitAnd": operator.and_,
    "BitXor": operator.xor,
    "LShift": operator.lshift,
    "RShift": operator.rshift,
    "MatMult": operator.matmul,
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "In": lambda left, right: left in right,
    "NotIn": lambda left, right: left not in right,
}


def binary(name: str, left: Any, right: Any) -> Any:
    """The value of an operator of :mod:`ast`."""
    if isinstance(left, (Tensor, Parameter)) or isinstance(right, (Tensor, Parameter)):
        return vectors.combined(name, left, right) or _of_tensors(left, right)
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return Unknown(getattr(left, "why", "") or getattr(right, "why", ""), plain=not _holds_objects(left, right))
    if _is_too_long(name, left, right):
        return PLAIN
    if any(doubt_of(each) for each in (left, right) if not isinstance(each, list)):
        return Unknown(doubt_of(left) or doubt_of(right))
    try:
        result = _OPERATORS[name](left, right)
    except Exception:  # noqa: BLE001 - whatever is wrong with the program, its value is unknown
        return Unknown("an operation on other objects", plain=not _holds_objects(left, right))
    if type(result) is list:
        result = Items(result)
        result.doubt = getattr(left, "doubt", "") or getattr(right, "doubt", "")
    return result


def _of_tensors(left: Any, right: Any) -> Tensor:
    """What an operator makes of tensors whose numbers are not known."""
    first, other = (left, right) if isinstance(left, (Tensor, Parameter)) else (right, left)
    keeps = isinstance(first, Tensor) and isinstance(other, (int, float, Unknown))
    return Tensor(first.shape if keeps else None)


def _holds_objects(*values: Any) -> bool:
    return any(isinstance(each, (list, tuple, dict, Instance)) for each in values)


def _is_too_long(name: str, left: Any, right: Any) -> bool:
    if name == "Mult":
        for text, count in ((left, right), (right, left)):
            if isinstance(text, (str, list, tuple)) and isinstance(count, int):
                return len(text) * count > _LARGEST
        return False
    return name in {"Pow", "LShift"} and isinstance(right, (int, float)) and abs(right) > 64


def comparison(name: str, left: Any, right: Any) -> Any:
    """The value of a comparison of :mod:`ast`."""
    if name in {"Is", "IsNot"}:
        return _identity(left, right, name == "IsNot")
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return PLAIN
    if name in {"In", "NotIn"} and isinstance(right, ModuleObject):
        return (left in right.keys) == (name == "In")
    if name in {"In", "NotIn"} and (doubt_of(right) or not is_known(list(right) if isinstance(right, dict) else right)):
        return PLAIN
    if isinstance(left, (Tensor, Parameter)) or isinstance(right, (Tensor, Parameter)):
        return PLAIN
    if isinstance(left, External) and isinstance(right, External) and left != right and name in {"Eq", "NotEq"}:
        return name == "NotEq"
    try:
        return _COMPARISONS[name](left, right)
    except Exception:  # noqa: BLE001 - as above
        return PLAIN


def _identity(left: Any, right: Any, negated: bool) -> Any:
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return PLAIN
    if isinstance(left, External) and isinstance(right, External):
        return (left == right) != negated
    return ((left is right) or (isinstance(left, bool) and left == right and isinstance(right, bool))) != negated
