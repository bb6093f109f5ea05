"""Activations that are written out of smaller operations, each of which saves its own tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from memlint.model.aliases import qualified_names, sources
from memlint.model.components import readers
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.program import Program
from memlint.model.scopes import Function
from memlint.model.settings import values
from memlint.model.values import Attribute, Binary, Call, Constant, FunctionValue, Value, operand_occurrences


class Decomposed(NamedTuple):
    """An activation that is written out; ``fused`` is the function of ``torch.nn.functional`` for it."""

    expression: Binary
    argument: cst.BaseExpression
    fused: str
    options: str = ""


def decomposed_activations(program: Program) -> Iterator[Decomposed]:
    """The activations of a file that are written out where gradients may be recorded and nothing is compiled."""
    for name, recognise in (("sigmoid", _silu), ("tanh", _gelu_by_tanh), ("erf", _gelu_by_erf)):
        for call in program.calls(name):
            found = recognise(call) if not _is_compiled(call.function) else None
            if found is not None and grad_mode(call.region) is not GradMode.DISABLED:
                yield found


def _argument(call: Call) -> Value | None:
    """What an elementwise function is applied to."""
    if any(name.startswith("torch.") for name in qualified_names(call.callee)):
        return call.argument("input", 0)
    return call.receiver if not call.arguments else None


def _silu(sigmoid: Call) -> Decomposed | None:
    """``x * torch.sigmoid(x)``."""
    gated = _argument(sigmoid)
    product = _only_user(sigmoid, "*")
    if gated is None or product is None:
        return None
    other = product.left if product.right is sigmoid else product.right
    if not _is_same(other, gated):
        return None
    return Decomposed(product, _written(product, other), "silu")


def _gelu_by_tanh(tanh: Call) -> Decomposed | None:
    """``0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))``."""
    inner = _argument(tanh)
    if inner is None or not any(_is_number(value, 0.044715) for value in _parts(inner)):
        return None
    found = _gelu(tanh)
    return Decomposed(*found, "gelu", 'approximate="tanh"') if found is not None else None


def _gelu_by_erf(erf: Call) -> Decomposed | None:
    """``x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))``."""
    found = _gelu(erf)
    inner = _argument(erf)
    if found is None or inner is None or not isinstance(inner, Binary):
        return None
    scaled = [value for value in _parts(inner) if _is_number(value, 2) or _is_number(value, 1.41421)]
    return Decomposed(*found, "gelu") if scaled else None


def _gelu(inner: Call) -> tuple[Binary, cst.BaseExpression] | None:
    """The product of a half, ``x``, and one more than ``inner``, and the expression of ``x``."""
    shifted = _only_user(inner, "+")
    if shifted is None or not any(_is_number(value, 1) for value in shifted.operands()):
        return None
    product = _only_user(shifted, "*")
    while product is not None:
        outer = _only_user(product, "*")
        if outer is None:
            break
        product = outer
    if product is None:
        return None
    factors = list(_factors(product))
    halves = [value for value, _ in factors if _is_number(value, 0.5)]
    others = [(value, node) for value, node in factors if not _is_number(value, 0.5) and value is not shifted]
    if len(halves) != 1 or len(others) != 1 or not _mentions(inner, others[0][0]):
        return None
    return product, others[0][1]


def _factors(product: Value) -> Iterator[tuple[Value, cst.BaseExpression]]:
    """The factors of nested products, with the expressions by which they are written."""
    for occurrence in operand_occurrences(product):
        if isinstance(occurrence.value, Binary) and occurrence.value.operator == "*":
            yield from _factors(occurrence.value)
        else:
            assert isinstance(occurrence.node, cst.BaseExpression)
            yield occurrence.value, occurrence.node


def _only_user(value: Value, operator: str) -> Binary | None:
    """The arithmetic that is all that uses ``value``."""
    uses = list(readers(value))
    user = uses[0] if len(uses) == 1 else None
    return user if isinstance(user, Binary) and user.operator == operator and user.augmented is None else None


def _is_same(one: Value, other: Value) -> bool:
    return set(sources(one)) == set(sources(other))


def _mentions(inner: Value, value: Value) -> bool:
    return any(_is_same(part, value) for part in _parts(inner))


def _parts(value: Value, depth: int = 12) -> Iterator[Value]:
    """What an expression is computed from, in the same function."""
    yield value
    for operand in value.operands() if depth and isinstance(value, (Binary, Call, Attribute)) else ():
        yield from _parts(operand, depth - 1)


def _is_number(value: Value, number: float) -> bool:
    if isinstance(value, Constant):
        return isinstance(value.constant, (int, float)) and abs(value.constant - number) < 1e-4
    known = values(value).only if isinstance(value, (Binary, Call)) else None
    return known is not None and isinstance(known.constant, (int, float)) and abs(known.constant - number) < 1e-4


def _written(product: Binary, value: Value) -> cst.BaseExpression:
    node = next(each.node for each in operand_occurrences(product) if each.value is value)
    assert isinstance(node, cst.BaseExpression)
    return node


_COMPILERS = frozenset({"torch.compile", "torch.jit.script", "torch.jit.script_if_tracing"})


def _is_compiled(function: Function) -> bool:
    """Whether a function, or the class of a method, is compiled, so that its operations are fused anyway."""
    decorators = [*function.decorators, *(function.owner.decorators if function.owner is not None else ())]
    if any(qualified_names(_called(each)) & _COMPILERS for each in decorators):
        return True
    calls = (call for name in ("compile", "script") for call in function.module.calls_by_name.get(name, ()))
    return any(_compiles(call, function) for call in calls)


def _called(decorator: Value) -> Value:
    return decorator.callee if isinstance(decorator, Call) else decorator


def _compiles(call: Call, function: Function) -> bool:
    """Whether ``call`` compiles the function, or a model in the same file, whatever it is made of."""
    if not qualified_names(call.callee) & _COMPILERS or not call.arguments:
        return False
    given = sources(call.arguments[0].value)
    functions = [source.target for source in given if isinstance(source, FunctionValue)]
    return function in functions if functions else True
