"""Where a training loop of one's own can run in mixed precision: around the forward pass and the loss alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import libcst as cst

from memlint.findings import Applicability, Fix
from memlint.model.aliases import qualified_names, sources
from memlint.model.devices import device_type
from memlint.model.effects import Backward, Effect, backward_of, effects
from memlint.model.forwards import called_module, forwards
from memlint.model.kinds import Role, is_known_other
from memlint.model.scopes import Module
from memlint.model.statements import Statement, held_in, statements_over
from memlint.model.upstream import local_ancestors
from memlint.model.values import Call, ClassValue, Comparison, External, Region, Value

_REFUSED = ("BCELoss", "binary_cross_entropy")
"""Losses that raise under autocast."""
_CASTS = frozenset({"float", "double", "int", "long", "bool", "item", "tolist", "argmax", "argmin"})
"""What gives a dtype that NumPy has."""
_MAX_VALUES = 300


def autocast_fixes(module: Module) -> Iterator[Fix]:
    """The fix that runs the forward pass and the loss of the only backward in a file under autocast to bfloat16."""
    statements = _forward_and_loss(module)
    if statements:
        context = f'torch.autocast("{device_type(module)}", dtype=torch.bfloat16)'
        yield Fix(
            "wrap_in_with",
            f"Run the forward and the loss under `{context}`",
            Applicability.UNSAFE,
            {"statement": statements},
            {"code": context, "import": "torch"},
        )


def _forward_and_loss(module: Module) -> tuple[Statement, ...]:
    """The statements from the first forward pass to the loss, in the block in which the backward over it follows.

    Empty where they are not whole statements of one block, where several backwards share what they compute or may, and
    where autocast would raise.
    """
    backward = only_backward(module)
    if backward is None or any(name in module.calls_by_name for name in _REFUSED):
        return ()
    call, (loss,) = backward.call, backward.roots
    nodes = _computing(call, loss)
    span = statements_over(call.function.node, nodes) if nodes else ()
    whole = statements_over(call.function.node, [*nodes, call.node]) if span else ()
    if not whole or not is_statement(whole[-1], call) or whole[: len(span)] != span or len(span) == len(whole):
        return ()
    inside = held_in(span)
    touched = (each for each in call.function.calls if each.node in inside)
    if any(effects(each) & (Effect.BACKWARD | Effect.STEP | Effect.ZERO) for each in touched):
        return ()
    return span


def only_backward(module: Module) -> Backward | None:
    """The backward of ``loss.backward()``, if there is no other in the file and no framework runs it."""
    found = [backward for f in module.functions for call in f.calls if (backward := backward_of(call)) is not None]
    if len(found) != 1 or len(found[0].roots) != 1 or found[0].call.receiver is not found[0].roots[0]:
        return None
    return found[0]


def is_statement(statement: Statement, call: Call) -> bool:
    """Whether ``statement`` is ``call`` and nothing else."""
    return isinstance(statement, cst.Expr) and statement.value is call.node


def _computing(backward: Call, loss: Value) -> list[cst.CSTNode]:
    """The forward passes behind a loss and what is computed from them; empty if that is not known to be all."""
    span = next(iter(backward.region.loops()), backward.function.body)
    upstream = list(local_ancestors(loss))
    calls = [value for value in upstream if isinstance(value, Call)]
    recording = {id(call) for call in forwards(backward.function)}
    known = [call for call in calls if id(call) in recording or called_module(call) is not None]
    passes = known or [call for call in calls if _may_run_module(call) and call.region.within(span)]
    if not passes or not all(call.region.within(span) for call in passes):
        return []
    first = min(call.order for call in passes)
    later = [call for call in calls if call.order >= first and call.region.within(span)]
    own = held_in([backward.node])
    if any(call.node in own for call in later) or _reach_numpy(later, span):
        return []
    return [*(call.node for call in later), *([] if loss.node in own else [loss.node])]


def _may_run_module(call: Call) -> bool:
    """Whether ``call`` calls what nobody knows: a parameter, or an attribute of ``self``."""
    if call.receiver is not None and call.function.instance not in sources(call.receiver):
        return False
    return not isinstance(call.callee, (External, ClassValue)) and not is_known_other(call.callee, Role.MODULE)


def _reach_numpy(computed: Collection[Value], span: Region) -> bool:
    """Whether NumPy, which has no bfloat16, reads in ``span`` one of ``computed`` or what keeps its dtype."""
    wanted = {id(value) for value in computed}
    reads = (call for call in span.function.calls if call.region.within(span) and _is_of_numpy(call))
    seen: set[int] = set()
    pending: list[Value] = [value for call in reads for value in call.operands()]
    while pending and len(seen) < _MAX_VALUES:
        value = pending.pop()
        if id(value) in seen or isinstance(value, Comparison) or (isinstance(value, Call) and value.name in _CASTS):
            continue
        if id(value) in wanted:
            return True
        seen.add(id(value))
        pending.extend(value.operands())
    return bool(pending)


def _is_of_numpy(call: Call) -> bool:
    return call.method == "numpy" or any(name.startswith("numpy.") for name in qualified_names(call.callee))
