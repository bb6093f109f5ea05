"""Losses that compare the samples of a batch with each other, as contrastive losses do.

The gradients of parts of a batch do not add up to those of the whole there. What shows such a loss is what is computed:

- a cross-entropy whose targets are positions, ``torch.arange(n)``: each sample is told from all others of its batch;
- a matrix with an entry for each pair of samples: a product of outputs with transposed outputs (not with weights),
  ``einsum("nc,mc->nm")``, distances of ``x`` to ``x``, cosines of ``x.unsqueeze(1)`` and ``y.unsqueeze(0)``. Where the
  two are not the same tensor, a logarithm, a softmax or a diagonal must be taken beside it, which tells a loss from a
  search.

Files are read by Python's own parser, one by one; names are followed within a function and the methods of a class.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from memlint.model.syntax import imported_names, last_name

_DEPTH = 8
"""Bindings that are followed from a name."""
_ENTROPIES = frozenset({"cross_entropy", "nll_loss"})
_ENTROPY_MODULES = frozenset({"CrossEntropyLoss", "NLLLoss"})
_PRODUCTS = frozenset({"matmul", "mm"})
_OF_A_LOSS = _ENTROPIES | frozenset(
    """log_softmax softmax logsumexp log exp eye diag diagonal fill_diagonal_ logsigmoid
    binary_cross_entropy_with_logits""".split()
)
_HANDING_ON = frozenset(
    """to cuda cpu long int type type_as detach clone contiguous view reshape repeat repeat_interleave expand
    flatten""".split()
)
"""Methods that give the same elements again, at another place or in another shape."""
_PAIRS = re.compile(r"(\w)(\w),(\w)\2->(\1\3|\3\1)$")
"""``nc,mc->nm``: for each row of one and each row of the other."""

_POSSIBLE = re.compile(r"arange|cdist|pdist|einsum|[cC]osine_?[sS]imilarity|\.T\b|\bt\(|transpose\((0, ?1|1, ?0)\)")
"""Without one of these there is no such loss."""
_NUMBERS = frozenset({"numpy", "math"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def couples_samples(text: str, tree: ast.Module) -> bool:
    """Whether a file, parsed as ``tree``, computes a loss over pairs of samples."""
    return _POSSIBLE.search(text) is not None and any(_couples(scope) for scope in _scopes(tree))


@dataclass
class _Scope:
    """A function with the names that it binds, and what the methods of its class bind and call."""

    nodes: list[ast.AST]
    imported: Mapping[str, str]
    """Packages, by the names that the file binds them, or something in them, to."""
    bound: dict[str, ast.expr] = field(default_factory=dict)
    attributes: dict[str, ast.expr] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)
    """Last names."""

    @classmethod
    def of(cls, node: ast.AST, imported: Mapping[str, str]) -> _Scope:
        """What a node and everything in it binds and calls."""
        scope = cls(list(ast.walk(node)), imported)
        for each in scope.nodes:
            match each:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    scope.bound[name] = value
                case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=value):
                    scope.attributes[name] = value
                case ast.Call(func=callee) if scope.package(callee) not in _NUMBERS:
                    scope.called.add(last_name(callee))
        return scope

    def package(self, callee: ast.expr) -> str:
        """The package that a function is of: ``torch`` for ``F.normalize``; empty for one of the file."""
        while isinstance(callee, ast.Attribute):
            callee = callee.value
        return self.imported.get(callee.id, "") if isinstance(callee, ast.Name) else ""

    def resolved(self, value: ast.expr) -> ast.expr:
        """What a name or an attribute of the object is bound to."""
        for _ in range(_DEPTH):
            match value:
                case ast.Name(id=name) if name in self.bound:
                    value = self.bound[name]
                case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in self.attributes:
                    value = self.attributes[name]
                case _:
                    break
        return value


def _scopes(tree: ast.Module) -> Iterator[_Scope]:
    """Functions and methods, those under ``no_grad`` left out, and what the module does itself."""
    nodes = list(ast.walk(tree))
    imported = {name: qualified.partition(".")[0] for name, qualified in imported_names(nodes).items()}
    methods: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            own = [each for each in node.body if isinstance(each, _Function)]
            methods.update(own)
            yield from _methods(own, imported)
    for node in nodes:
        if isinstance(node, _Function) and node not in methods and _records(node):
            yield _Scope.of(node, imported)
    top = [each for each in tree.body if not isinstance(each, (*_Function.__args__, ast.ClassDef))]
    yield _Scope.of(ast.Module(top, []), imported)


def _methods(functions: list[_Function], imported: Mapping[str, str]) -> Iterator[_Scope]:
    scopes = [_Scope.of(each, imported) for each in functions]
    attributes = {name: value for scope in scopes for name, value in scope.attributes.items()}
    called = {name for scope in scopes for name in scope.called}
    for function, scope in zip(functions, scopes, strict=True):
        if _records(function):
            yield replace(scope, attributes=attributes, called=called)


def _records(function: _Function) -> bool:
    """Whether gradients may be recorded in a function."""
    named = [each.func if isinstance(each, ast.Call) else each for each in function.decorator_list]
    return not any(last_name(each) in ("no_grad", "inference_mode") for each in named)


def _couples(scope: _Scope) -> bool:
    for node in scope.nodes:
        if isinstance(node, ast.Call) and (_is_told_by_position(scope, node) or _is_pairwise(scope, node)):
            return True
        factors = _factors(node)
        if factors is not None and _is_of_pairs(scope, *factors):
            return True
    return False


def _factors(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    """The operands of ``a @ b``, ``torch.matmul(a, b)`` or ``a.mm(b)``."""
    match node:
        case ast.BinOp(left=one, op=ast.MatMult(), right=other):
            return one, other
        case ast.Call(func=callee, args=[one, other, *_]) if last_name(callee) in _PRODUCTS:
            return one, other
        case ast.Call(func=ast.Attribute(value=one, attr=method), args=[other]) if method in _PRODUCTS:
            return one, other
    return None


def _is_told_by_position(scope: _Scope, call: ast.Call) -> bool:
    """A cross-entropy whose targets are ``torch.arange(n)``."""
    made = scope.resolved(call.func)
    by_module = isinstance(made, ast.Call) and last_name(made.func) in _ENTROPY_MODULES
    if not by_module and last_name(call.func) not in _ENTROPIES:
        return False
    targets = [each.value for each in call.keywords if each.arg == "target"] or call.args[1:2]
    return any(_is_positions(scope, each) for each in targets)


def _is_positions(scope: _Scope, value: ast.expr, depth: int = _DEPTH) -> bool:
    match scope.resolved(value):
        case ast.Call(func=ast.Attribute(value=base, attr=method)) if method in _HANDING_ON and depth:
            return _is_positions(scope, base, depth - 1)
        case ast.BinOp(left=left, op=ast.Add(), right=right) if depth:
            return _is_positions(scope, left, depth - 1) or _is_positions(scope, right, depth - 1)
        case ast.Call(func=callee, args=[ast.List(elts=parts) | ast.Tuple(elts=parts), *_]):
            joined = last_name(callee) == "cat" and depth and parts
            return bool(joined) and all(_is_positions(scope, each, depth - 1) for each in parts)
        case ast.Call(func=callee):
            return last_name(callee) == "arange"
    return False


def _is_of_pairs(scope: _Scope, one: ast.expr, other: ast.expr) -> bool:
    """Whether a product has an entry for each pair of rows of two tensors, or for each of their columns over them."""
    right, left = _transposed(scope.resolved(other)), _transposed(scope.resolved(one))
    if (right is None) == (left is None):
        return False
    operands = (one, right) if right is not None else (left, other)
    if any(_is_weight(scope, each) for each in operands if each is not None):
        return False
    same = len({ast.dump(each) for each in operands if each is not None}) == 1
    return same or not scope.called.isdisjoint(_OF_A_LOSS)


def _transposed(value: ast.expr) -> ast.expr | None:
    """What ``x.T``, ``x.t()`` or ``x.transpose(0, 1)`` transposes: a matrix, whose rows are samples."""
    match value:
        case ast.Attribute(value=base, attr="T"):
            return base
        case ast.Call(func=ast.Attribute(value=base, attr="t"), args=[]):
            return base
        case ast.Call(func=ast.Attribute(value=base, attr="transpose"), args=[ast.Constant(0), ast.Constant(1)]):
            return base
        case ast.Call(func=ast.Attribute(value=base, attr="transpose"), args=[ast.Constant(1), ast.Constant(0)]):
            return base
        case ast.Call(func=callee, args=[base]) if last_name(callee) == "t":
            return base
    return None


def _is_weight(scope: _Scope, value: ast.expr, depth: int = _DEPTH) -> bool:
    """Whether something is, or is computed from, what a module keeps: ``layer.weight``, ``self.prototypes``."""
    found = scope.resolved(value)
    if not depth:
        return False
    match found:
        case ast.Attribute(attr="weight") | ast.Attribute(value=ast.Name(id="self")):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="self"))):
            return False  # What a part of the module, or a method, computes.
        case ast.Call(func=callee, args=[first, *_]) if scope.package(callee) == "torch":
            return last_name(callee) in _KEPT or _is_weight(scope, first, depth - 1)
        case ast.Call(func=ast.Attribute(value=base)) | ast.Subscript(value=base):
            return _is_weight(scope, base, depth - 1)
        case ast.BinOp(left=left, right=right):
            # A temperature may be learned.
            return _is_weight(scope, left, depth - 1) and _is_weight(scope, right, depth - 1)
    return False


_KEPT = frozenset({"Parameter", "Embedding", "zeros", "ones", "randn", "rand", "empty", "tensor"})
"""What makes something that stays the same, or is learned."""


def _is_pairwise(scope: _Scope, call: ast.Call) -> bool:
    name = last_name(call.func)
    match call.args:
        case [ast.Constant(value=str(equation)), one, other] if name == "einsum":
            is_weight = _is_weight(scope, one) or _is_weight(scope, other)
            pairs = _PAIRS.match(equation.replace(" ", "")) is not None
            return pairs and not is_weight and not scope.called.isdisjoint(_OF_A_LOSS)
        case [one, other, *_] if name == "cdist":
            return ast.dump(one) == ast.dump(other)
        case [one, other, *_] if name in ("cosine_similarity", "CosineSimilarity"):
            return {_expanded_at(scope, one), _expanded_at(scope, other)} == {0, 1}
    return name == "pdist"


def _expanded_at(scope: _Scope, value: ast.expr) -> int | None:
    """The dimension that ``x.unsqueeze(0)``, ``x[None]`` or ``x[:, None]`` adds."""
    match scope.resolved(value):
        case ast.Call(func=ast.Attribute(attr="unsqueeze"), args=[ast.Constant(value=int(dim))]):
            return dim
        case ast.Subscript(slice=ast.Constant(value=None)):
            return 0
        case ast.Subscript(slice=ast.Tuple(elts=[first, *rest])):
            added = [isinstance(each, ast.Constant) and each.value is None for each in (first, *rest)]
            return added.index(True) if True in added else None
    return None
