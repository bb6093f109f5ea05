"""Gradients of several micro-batches that are added up before a step, as the loops of a file show it.

- A step that waits: a backward in each iteration, and ``step()`` and ``zero_grad()``, or a function of the file that
  calls both, under a condition, or behind ``if ...: continue``.
- Parts of a batch: a loop with a forward and a backward and no step, behind which the step comes.

Files are read by Python's own parser, since whole programs are asked, most of whose files no rule looks at.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cached_property

from memlint.model.syntax import last_name

_BACKWARDS = frozenset({"backward", "manual_backward"})
_UPDATE = frozenset({"step", "zero_grad"})
_Loop = ast.For | ast.While


def accumulates(calls: Calls) -> bool:
    """Whether a file steps once for several backwards."""
    if not calls.trains:
        return False
    blocks = [node.body for node in calls.nodes if isinstance(node, (_Loop, ast.FunctionDef, ast.Module))]
    loops = [node for node in calls.nodes if isinstance(node, _Loop)]
    return any(_waits(calls, loop) for loop in loops) or any(_has_parts(calls, block) for block in blocks)


def takes_batches_apart(calls: Calls) -> bool:
    """Whether a loop over batches has one over the parts of each."""
    loops = (node for node in calls.nodes if isinstance(node, ast.For) and not _is_counting(node))
    return calls.trains and any(_has_parts(calls, loop.body) for loop in loops)


class Calls:
    """What statements of a file call, themselves or through functions of it, by the last names."""

    def __init__(self, nodes: Sequence[ast.AST]) -> None:
        """``nodes`` are all of the file."""
        self.nodes = nodes
        self.trains = any(isinstance(node, ast.Call) and last_name(node.func) in _BACKWARDS for node in nodes)

    @cached_property
    def _functions(self) -> dict[str, set[str]]:
        return {node.name: _named(node.body) for node in self.nodes if isinstance(node, ast.FunctionDef)}

    def of(self, *statements: ast.stmt) -> set[str]:
        """The last names of what is called in ``statements``."""
        own = _named(statements)
        followed = own & self._functions.keys() - _BACKWARDS - _UPDATE
        return own.union(*(self._functions[name] for name in followed))

    def differentiate(self, *statements: ast.stmt) -> bool:
        """Whether a backward runs in them."""
        return not self.of(*statements).isdisjoint(_BACKWARDS)


def _named(statements: Sequence[ast.stmt]) -> set[str]:
    nodes = (node for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Call))
    return {name for node in nodes if (name := last_name(node.func))}


def _waits(calls: Calls, loop: _Loop) -> bool:
    """Whether an update in a loop runs in some iterations only, and the backward in each."""
    return any(_waits_in(calls, block) for block in _blocks(loop))


def _waits_in(calls: Calls, block: Sequence[ast.stmt]) -> bool:
    differentiated = False
    for number, statement in enumerate(block):
        if differentiated and isinstance(statement, ast.If):
            inside = calls.of(*statement.body)
            is_update = inside >= _UPDATE and inside.isdisjoint(_BACKWARDS)
            if is_update and "step" not in calls.of(*statement.orelse):
                return True
            skips = isinstance(statement.body[-1], ast.Continue) and inside.isdisjoint(_UPDATE)
            if skips and calls.of(*block[number + 1 :]) >= _UPDATE:
                return True
        differentiated = differentiated or calls.differentiate(statement)
    return False


def _blocks(loop: _Loop) -> Iterator[Sequence[ast.stmt]]:
    """The body of a loop and what stands in it in a ``with`` or ``try``."""
    pending: list[Sequence[ast.stmt]] = [loop.body]
    while pending:
        block = pending.pop()
        yield block
        pending += [each.body for each in block if isinstance(each, (ast.With, ast.Try))]


def _has_parts(calls: Calls, block: Sequence[ast.stmt]) -> bool:
    """Whether a loop in ``block`` runs a model forward and backward without a step, which comes behind it."""
    for number, statement in enumerate(block):
        if isinstance(statement, _Loop) and _is_of_parts(calls, statement):
            behind = calls.of(*block[number + 1 :])
            if "step" in behind and behind.isdisjoint(_BACKWARDS):
                return True
    return False


def _is_of_parts(calls: Calls, loop: _Loop) -> bool:
    inside = calls.of(*loop.body)
    if inside.isdisjoint(_BACKWARDS) or "step" in inside:
        return False
    # A loop over losses computes nothing anew.
    return any(
        not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Call) and _is_of_target(loop, each.value))
        for each in loop.body
    )


def _is_of_target(loop: _Loop, call: ast.Call) -> bool:
    """``loss.backward()`` in ``for loss in losses``."""
    receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(loop, ast.For) and receiver is not None and ast.dump(receiver) == ast.dump(_read(loop.target))


def _read(target: ast.expr) -> ast.expr:
    return ast.Name(target.id, ast.Load()) if isinstance(target, ast.Name) else target


def _is_counting(loop: ast.For) -> bool:
    """Whether a loop counts, as one over epochs does."""
    return isinstance(loop.iter, ast.Call) and last_name(loop.iter.func) in ("range", "trange", "count")
