"""Gradient accumulation in a loop of one's own: a backward in each micro-step, an update once in several."""

from __future__ import annotations

from typing import NamedTuple

from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import callees
from memlint.model.effects import Effect, backward_of, direct_effects, effects
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.upstream import local_ancestors
from memlint.model.values import Attribute, Binary, Branch, Call, Comparison, Constant, Loop, Region, Unary, Value


class MicroSteps(NamedTuple):
    """``backward`` runs in each micro-step; ``step`` updates the parameters once in several."""

    backward: Call
    step: Call


def counts_steps(text: str) -> bool:
    """Whether a file may accumulate gradients, by its text."""
    return "backward" in text and ("%" in text or "range" in text)


def micro_steps(function: Function) -> MicroSteps | None:
    """The accumulation of gradients in ``function``, if every update there is one of those that wait for several."""
    backwards: list[Call] = []
    found: MicroSteps | None = None
    for call in function.calls:
        effect = effects(call)
        if Effect.BACKWARD in effect:
            backwards.append(call)
        elif Effect.STEP in effect and backwards:
            counted = next(filter(is_counted, call.region.ancestors()), None)
            if counted is not None:
                waited_for = [each for each in backwards if not each.region.within(counted)]
            else:
                waited_for = [each for each in backwards if _is_of_parts(each, call)]
                if not waited_for:
                    return None
            found = found or (MicroSteps(waited_for[-1], call) if waited_for else None)
    return found


def _is_of_parts(backward: Call, step: Call) -> bool:
    """Whether ``backward`` runs in a loop of its own, over the parts of the batch that ``step`` is for.

    ``for _ in range(every): (loss / every).backward()``: the loss of each part is divided by their number.
    """
    started = backward_of(backward)
    roots = started.roots if started is not None else backward.positional()
    for loop in backward.region.loops():
        if step.region.within(loop):
            return False
        count = _iterations(loop)
        if count is not None and any(_is_divided_by(root, count) for root in roots):
            return True
    return False


def _iterations(loop: Loop) -> Value | None:
    """How often ``loop`` runs, ``n`` in ``for _ in range(n)``."""
    for source in sources(loop.iterable) if loop.iterable is not None else ():
        if isinstance(source, Call) and "builtins.range" in qualified_names(source.callee):
            return source.positional()[0] if len(source.positional()) == 1 else None
    return None


def _is_divided_by(loss: Value, count: Value) -> bool:
    return any(
        isinstance(part, Binary) and part.operator == "/" and _is_same(part.right, count)
        for part in local_ancestors(loss)
    )


def _is_same(one: Value, other: Value) -> bool:
    """Whether two values are the same number, or are read from the same attribute."""
    if isinstance(one, Constant) and isinstance(other, Constant):
        return one.constant == other.constant
    if isinstance(one, Attribute) and isinstance(other, Attribute) and one.name == other.name:
        return _is_same(one.base, other.base)
    return not set(sources(one)).isdisjoint(sources(other))


def update_in(step: Call) -> Call:
    """The call of the optimizer itself that ``step`` leads to in its file; ``step`` if that is not in sight."""
    if Effect.STEP in direct_effects(step):
        return step
    inside = (call for f in callees(step) if f.module is step.function.module for call in f.lower().calls)
    return next((call for call in inside if Effect.STEP in direct_effects(call)), step)


def is_counted(region: Region) -> bool:
    """Whether ``region`` is entered once in a number of iterations.

    ``if (step + 1) % every == 0``, or what follows ``if step % every: continue``.
    """
    if not isinstance(region, Branch) or region.test is None or not _counts(region.test):
        return False
    return _is_remainder(region.test) if region.negated and region.follows else not region.negated


def _is_remainder(test: Value) -> bool:
    """Whether ``test`` holds in all iterations but one in several: ``step % every``, ``step % every != 0``."""
    found = sources(test)
    return bool(found) and all(
        (isinstance(source, Binary) and source.operator == "%")
        or (
            isinstance(source, Comparison)
            and source.operators in {("!=",), (">",)}
            and isinstance(source.values[-1], Constant)
            and source.values[-1].constant == 0
        )
        for source in found
    )


@query(on_cycle=False)
def _counts(test: Value) -> bool:
    pending = [test]
    seen: set[int] = set()
    while pending:
        for source in sources(pending.pop()):
            if isinstance(source, Binary) and source.operator == "%":
                return True
            if isinstance(source, (Binary, Comparison, Unary)) and id(source) not in seen:
                seen.add(id(source))
                pending.extend(source.operands())
    return False
