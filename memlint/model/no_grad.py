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
from memlint.model.upstream import graph_sources
from memlint.model.values import Call, Region, Value, With

_NO_GRAD = {"code": "torch.no_grad()", "import": "torch"}


def no_grad_fixes(calls: Sequence[Call], *, safe: bool = True) -> tuple[Fix, ...]:
    """The fixes that run forward passes of one function under ``torch.no_grad()``, best first.

    The statements that hold them are wrapped, which is safe if all that they compute is known not to be differentiated
    (and ``safe`` allows it). A function that only evaluates can be decorated.
    """
    wrapping = wrap_in_no_grad(calls, safe=safe)
    decorating = _decorating(calls[0].function)
    wraps_first = wrapping is not None and wrapping.applicability is Applicability.SAFE
    found = (wrapping, decorating) if wraps_first else (decorating, wrapping)
    return tuple(fix for fix in found if fix is not None)


def wrap_in_no_grad(calls: Sequence[Call], *, safe: bool, untrained: bool = False) -> Fix | None:
    """The fix that wraps the statements of ``calls``; None if that would take a gradient away.

    ``untrained``: what ``calls`` return is differentiated, but no parameter behind it needs that.
    """
    function = calls[0].function
    statements = statements_over(function.node, [call.node for call in calls])
    reach = _reach_of(function, held_in(statements), frozenset(calls if untrained else ())) if statements else Reach.YES
    if reach is Reach.YES:
        return None
    proven = safe and reach is Reach.NO and not any(_shares_autocast(call) for call in calls)
    return Fix(
        "wrap_in_with",
        "Run it under `with torch.no_grad():`",
        Applicability.SAFE if proven else Applicability.UNSAFE,
        {"statement": statements},
        _NO_GRAD,
    )


def enable_grad_only(call: Call, condition: str) -> Fix:
    """The fix that records the graph of ``call`` only where the expression ``condition`` is true."""
    return Fix(
        "wrap_in_with",
        f"Record a graph only where it is differentiated: `with torch.set_grad_enabled({condition}):`",
        Applicability.UNSAFE,
        {"statement": statements_over(call.function.node, [call.node])},
        {"code": f"torch.set_grad_enabled({condition})", "import": "torch"},
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


def _reach_of(function: Function, inside: Collection[cst.CSTNode], ignored: frozenset[Value]) -> Reach:
    """Whether something that is computed at the nodes ``inside`` is differentiated, there or later.

    What has its graph from the forward passes ``ignored`` alone does not count.
    """
    reach = Reach.NO
    for value in _computed(function):
        if value.node not in inside:
            continue
        if isinstance(value, Call) and effects(value) & (Effect.BACKWARD | Effect.STEP):
            return Reach.YES
        if attachment(value) <= Attachment.UNKNOWN or (ignored and ignored.issuperset(graph_sources(value))):
            continue
        flow = gradient_flow(value)
        if flow.reach is Reach.YES:
            return Reach.YES
        if flow.reach is Reach.UNKNOWN or flow.handed_over:
            reach = Reach.UNKNOWN
    return reach


def _computed(function: Function) -> Iterator[Value]:
    yield from function.calls
    yield from function.sums


def _shares_autocast(call: Call) -> bool:
    """Whether ``call`` runs in an autocast region that trains as well.

    Autocast caches the casts of weights, so that one that was made under ``no_grad`` would serve the training pass.
    """
    return any(_autocasts(outer) and _trains(outer) for outer in call.region.ancestors())


def _autocasts(region: Region) -> bool:
    return isinstance(region, With) and any(
        isinstance(context, Call) and qualified_names(context.callee) & torch.AUTOCAST for context in region.contexts
    )


def _trains(region: Region) -> bool:
    return any(call.region.within(region) and wasted(call) is None for call in forwards(region.function))
