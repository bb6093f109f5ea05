"""Where a training loop of one's own can accumulate gradients over micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from memlint.findings import Applicability, Fix
from memlint.model.aliases import qualified_names, sources
from memlint.model.effects import Effect, calls_in, effects
from memlint.model.mixed_precision import is_statement, only_backward
from memlint.model.scopes import Module
from memlint.model.statements import Statement, held_in
from memlint.model.upstream import local_ancestors
from memlint.model.values import Call, Constant, Loop, Value

_GRADIENTS = Effect.BACKWARD | Effect.STEP | Effect.ZERO


class _Step(NamedTuple):
    """The statements of a loop of training that wait for the last micro-batch, and for the first of the next ones."""

    loop: cst.For
    last: Sequence[Statement]
    first: Sequence[Statement]


def accumulation_fixes(module: Module, loader: cst.Call, batch: int, smaller: int, steps: int) -> Iterator[Fix]:
    """The fix that takes ``smaller`` micro-batches from ``loader`` and steps once in ``steps`` of them.

    Only where the file has one backward, of a loss that is averaged over the batch, in a loop over that loader that
    steps and clears once, each in a statement of its own, and nothing else in it depends on when that happens.
    """
    number = _number(loader, batch)
    backward = only_backward(module)
    if number is None or backward is None or not _is_average(module, backward.roots[0]):
        return
    loop = backward.call.region.loop
    step = _step_of(loop, backward.call) if loop is not None and _runs_over(loop, loader) else None
    if loop is None or step is None:
        return
    index = _counter(step.loop, loop)
    options = {"steps": str(steps), "batch": str(smaller)}
    yield Fix(
        "accumulate_gradients",
        f"Use micro-batches of {smaller} and accumulate {steps}",
        Applicability.UNSAFE,
        {
            "loop": step.loop,
            "call": backward.call.node,
            "step": tuple(step.last),
            "batch": number,
            **({"clear": tuple(step.first)} if step.first else {}),
        },
        options | ({"index": index} if index else {}),
    )


def _number(loader: cst.Call, batch: int) -> cst.Integer | None:
    """The size of the batches of ``loader``, where it is written as a number."""
    for each in loader.args:
        if each.keyword is not None and each.keyword.value == "batch_size" and isinstance(each.value, cst.Integer):
            return each.value if each.value.evaluated_value == batch else None
    return None


def _is_average(module: Module, loss: Value) -> bool:
    """Whether a loss is not a sum over the batch, as far as the file shows, nor scaled: its parts are averaged, too."""
    calls = [value for value in local_ancestors(loss) if isinstance(value, Call)]
    if any(call.name in {"sum", "scale"} for call in calls):
        return False
    given = (call.argument(name) for f in module.functions for call in f.calls for name in _REDUCTIONS)
    return all(value is None or _is_mean(value) for value in given)


_REDUCTIONS = ("reduction", "size_average", "reduce")


def _is_mean(value: Value) -> bool:
    return all(isinstance(each, Constant) and each.constant in ("mean", True) for each in sources(value))


def _runs_over(loop: Loop, loader: cst.Call) -> bool:
    """Whether ``loop`` runs over ``loader``, counted or shown by a progress bar."""
    pending = [loop.iterable] if loop.iterable is not None else []
    while pending:
        found = sources(pending.pop())
        if len(found) != 1:
            return False
        made = found[0]
        if made.node is loader:
            return True
        if isinstance(made, Call) and made.name in {"enumerate", "tqdm"} and made.arguments:
            pending.append(made.arguments[0].value)
    return False


def _step_of(loop: Loop, backward: Call) -> _Step | None:
    """What waits in ``loop``; None if that is not one step and one clearing, or something else would have to wait."""
    node = loop.node
    own = [call for call in calls_in(loop) if effects(call) & _GRADIENTS or call.name == "step"]
    steps = [call for call in own if call.name == "step" and not call.arguments and effects(call) == Effect.STEP]
    clears = [call for call in own if call.name == "zero_grad" and effects(call) == Effect.ZERO]
    if not isinstance(node, cst.For) or len(own) != 3 or len(steps) != 1 or len(clears) != 1:
        return None
    body = list(_statements_of(node))
    places = [_place(body, call) for call in (backward, *steps, *clears)]
    if any(place is None for place in places):
        return None
    at, step, clear = (place or 0 for place in places)
    begin = step
    while begin > at + 1 and _clips(body[begin - 1]):
        begin -= 1
    last = body[begin : step + 1]
    if clear == step + 1:
        last = body[begin : clear + 1]
    elif not clear < at:
        return None
    first = [body[clear]] if clear < at else []
    if at > step or _depends(node, last):
        return None
    return _Step(node, last, first)


def _statements_of(loop: cst.For) -> Iterator[Statement]:
    """The statements in the block of ``loop`` itself."""
    for each in loop.body.body:
        if isinstance(each, cst.SimpleStatementLine):
            yield from each.body
        else:
            yield each


def _place(block: Sequence[Statement], call: Call) -> int | None:
    return next((index for index, each in enumerate(block) if is_statement(each, call)), None)


def _clips(statement: Statement) -> bool:
    """Whether ``statement`` clips gradients: once they are added up is when that is meant to happen."""
    if not isinstance(statement, cst.Expr) or not isinstance(statement.value, cst.Call):
        return False
    callee = statement.value.func
    name = callee.attr if isinstance(callee, cst.Attribute) else callee
    return isinstance(name, cst.Name) and name.value.startswith(_CLIPPING)


_CLIPPING = "clip_grad"


def _depends(loop: cst.For, waiting: Sequence[Statement]) -> bool:
    """Whether what does not wait reads gradients, or leaves out the rest of an iteration."""
    own = held_in(waiting)
    for node in held_in([loop.body]) - own:
        if isinstance(node, cst.Continue):
            return True
        if isinstance(node, cst.Name) and (node.value == "grad" or node.value.startswith(_CLIPPING)):
            return True
    return False


def _counter(node: cst.For, loop: Loop) -> str:
    """The name by which a loop counts its iterations from 0 on by ``enumerate``; empty if it does not."""
    made = loop.iterable
    target = node.target
    if (
        not isinstance(made, Call)
        or "builtins.enumerate" not in qualified_names(made.callee)
        or len(made.arguments) > 1
    ):
        return ""
    if not isinstance(target, cst.Tuple) or not isinstance(target.elements[0].value, cst.Name):
        return ""
    name = target.elements[0].value.value
    stored = (each.target for each in held_in([node.body]) if isinstance(each, (cst.AssignTarget, cst.AugAssign)))
    return "" if any(isinstance(each, cst.Name) and each.value == name for each in stored) else name
