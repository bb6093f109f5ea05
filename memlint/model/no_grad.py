"""Where ``torch.no_grad()`` can be entered without taking a gradient away from anything."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import libcst as cst

from memlint.findings import Applicability, Fix
from memlint.model.aliases import qualified_names
from memlint.model.attachment import Attachment, attachment
from memlint.model.downstream import Reach, gradient_flow
from memlint.model.effects import Effect, effects, function_effects
from memlint.model.forwards import forwards, wasted
from memlint.model.knowledge import torch
from memlint.model.scopes import Function
from memlint.model.statements import held_in, statements_over
from memlint.model.values import Call, Region, Value, With

_NO_GRAD = {"code": "torch.no_grad()", "import": "torch"}


def no_grad_fixes(calls: Sequence[Call], *, safe: bool = True) -> tuple[Fix, ...]:
    """The fixes that run forward passes of one function under ``torch.no_grad()``, best first.

    The statements that hold them are wrapped, which is safe if all that they compute is known not to be differentiated
    (and ``safe`` allows it). A function that only evaluates can be decorated.
    """
    function = calls[0].function
    wrapping = _wrapping(function, [call.node for call in calls], safe)
    decorating = _decorating(function)
    found = (
        (wrapping, decorating) if wrapping and wrapping.applicability is Applicability.SAFE else (decorating, wrapping)
    )
    return tuple(fix for fix in found if fix is not None)


def _wrapping(function: Function, nodes: Collection[cst.CSTNode], safe: bool) -> Fix | None:
    statements = statements_over(function.node, nodes)
    reach = _reach_of(function, held_in(statements)) if statements else Reach.YES
    if reach is Reach.YES:
        return None
    proven = safe and reach is Reach.NO and not any(_shares_autocast(function, node) for node in nodes)
    return Fix(
        "wrap_in_with",
        "Run it under `with torch.no_grad():`",
        Applicability.SAFE if proven else Applicability.UNSAFE,
        {"statement": statements},
        _NO_GRAD,
    )


def _decorating(function: Function) -> Fix | None:
    node = function.node
    if not isinstance(node, cst.FunctionDef) or function.is_generator or function_effects(function) & Effect.BACKWARD:
        return None
    if any(wasted(call) is None for call in forwards(function)):
        return None
    return Fix(
        "add_decorator",
        f"Decorate `{function.name}` with `@torch.no_grad()`",
        Applicability.UNSAFE,
        {"function": node},
        _NO_GRAD,
    )


def _reach_of(function: Function, inside: Collection[cst.CSTNode]) -> Reach:
    """Whether something that is computed at the nodes ``inside`` is differentiated, there or later."""
    reach = Reach.NO
    for value in _computed(function):
        if value.node not in inside:
            continue
        if isinstance(value, Call) and effects(value) & (Effect.BACKWARD | Effect.STEP):
            return Reach.YES
        if attachment(value) > Attachment.UNKNOWN:
            flow = gradient_flow(value)
            if flow.reach is Reach.YES:
                return Reach.YES
            if flow.reach is Reach.UNKNOWN or flow.handed_over:
                reach = Reach.UNKNOWN
    return reach


def _computed(function: Function) -> Iterator[Value]:
    yield from function.calls
    yield from function.sums


def _shares_autocast(function: Function, node: cst.CSTNode) -> bool:
    """Whether ``node`` runs in an autocast region that trains as well.

    Autocast caches the casts of weights, so that one that was made under ``no_grad`` would serve the training pass.
    """
    region = next((call.region for call in function.calls if call.node is node), function.body)
    return any(_autocasts(outer) and _trains(outer) for outer in region.ancestors())


def _autocasts(region: Region) -> bool:
    return isinstance(region, With) and any(
        isinstance(context, Call) and qualified_names(context.callee) & torch.AUTOCAST for context in region.contexts
    )


def _trains(region: Region) -> bool:
    return any(call.region.within(region) and wasted(call) is None for call in forwards(region.function))
