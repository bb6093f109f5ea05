"""Gradients that are averaged over all processes more often than an optimizer uses them."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import mro, qualified_names
from memlint.model.calls import callees
from memlint.model.devices import files_involved, makes_or_asks_for
from memlint.model.identifiers import imports_any, names_used
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.micro_steps import MicroSteps, counts_steps, micro_steps
from memlint.model.scopes import Function, Module

_CONTROLS = frozenset(
    """
    no_sync no_backward_sync require_backward_grad_sync sync_gradients set_requires_gradient_sync accumulate
    set_is_last_backward delay_allreduce fully_shard FullyShardedDataParallel FSDP
    """.split()
)
"""Names of PyTorch, Lightning, Accelerate and apex that decide when gradients are averaged, or shard them."""
_FRAMEWORKS = frozenset({"deepspeed", "fairscale"})
"""Packages that count the steps themselves."""


def needless_reductions(module: Module) -> Iterator[MicroSteps]:
    """The functions of a file that accumulate gradients on several processes, and average them each time."""
    if not counts_steps(module.text) or imports_any(module, _FRAMEWORKS):
        return
    for function in module.functions:
        found = micro_steps(function)
        if found is not None and _is_reduced(function) and not any(map(_controls_reductions, _colleagues(function))):
            yield found


def _colleagues(function: Function) -> Iterator[Function]:
    """The functions of a file that may decide something for ``function``: of a method, not those of other classes."""
    classes = None if function.owner is None else tuple(mro(function.owner))
    return (
        each for each in function.module.functions if classes is None or each.owner is None or each.owner in classes
    )


@query(on_cycle=False)
def _controls_reductions(user: Function) -> bool:
    """Whether a function decides when gradients are averaged.

    A context of the project's own, ``def no_sync(self)``, does so where it is entered.
    """
    return user.name not in _CONTROLS and not _CONTROLS.isdisjoint(names_used(user))


def _is_reduced(function: Function) -> bool:
    """Whether DDP or Accelerate averages the gradients in each backward, and no function of the project."""
    return any(map(_wraps, files_involved(function)))


@query(on_cycle=False)
def _wraps(module: Module) -> bool:
    """Whether the file, or a function of the project that it calls, makes what averages gradients."""
    called = (function for calls in module.calls_by_name.values() for call in calls for function in callees(call))
    return makes_or_asks_for(module, _AVERAGING) or any(
        qualified_names(call.callee) & _AVERAGING
        for function in dict.fromkeys(called)
        for call in function.lower().calls
    )


_AVERAGING = torch.DDP | frameworks.ACCELERATORS
