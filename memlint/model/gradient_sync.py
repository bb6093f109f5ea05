"""Gradients that are averaged over all processes more often than an optimizer uses them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from memlint.model.aliases import qualified_names
from memlint.model.devices import is_distributed
from memlint.model.memo import query
from memlint.model.micro_steps import MicroSteps, micro_steps
from memlint.model.scopes import Function, Module

_CONTROLLED = re.compile(
    r"no_sync|no_backward_sync|require_backward_grad_sync|sync_gradients|set_requires_gradient_sync|"
    r"set_is_last_backward|\.accumulate\(|deepspeed|DeepSpeed|FullyShardedDataParallel|fully_shard|fsdp|FSDP|delay_allreduce"
)
"""What decides when gradients are averaged, or leaves it to a framework that counts the steps itself."""


def needless_reductions(module: Module) -> Iterator[MicroSteps]:
    """The functions of a file that accumulate gradients on several processes, and average them each time."""
    if "%" not in module.text or "backward" not in module.text or _CONTROLLED.search(module.text):
        return
    for function in module.functions:
        found = micro_steps(function)
        if found is not None and _is_reduced(function):
            yield found


def _is_reduced(function: Function) -> bool:
    """Whether something averages the gradients in each backward: DDP or Accelerate, and not a function of one's own."""
    return _WRAPS.search(function.module.text) is not None and (
        is_distributed(function) or _communicates(function.module)
    )


_WRAPS = re.compile(r"DistributedDataParallel|distributed_data_parallel|\bDDP\b|\bAccelerator\b")


@query(on_cycle=False)
def _communicates(module: Module) -> bool:
    calls = (call for calls in module.calls_by_name.values() for call in calls)
    return any(name.startswith(_DISTRIBUTED) for call in calls for name in qualified_names(call.callee))


_DISTRIBUTED = ("torch.distributed.", "torch.nn.parallel.DistributedDataParallel", "accelerate.Accelerator")
