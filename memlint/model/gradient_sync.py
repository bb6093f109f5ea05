"""Gradients that are averaged over all processes more often than an optimizer uses them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import qualified_names, sources
from memlint.model.devices import is_distributed
from memlint.model.effects import Effect, effects
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.values import Binary, Branch, Call, Region, Value

_CONTROLLED = re.compile(
    r"no_sync|no_backward_sync|require_backward_grad_sync|sync_gradients|set_requires_gradient_sync|"
    r"set_is_last_backward|\.accumulate\(|deepspeed|DeepSpeed|FullyShardedDataParallel|fully_shard|delay_allreduce"
)
"""What decides when gradients are averaged, or leaves it to a framework that counts the steps itself."""
_MAX_VALUES = 32
"""How far a test is followed."""


class Reduced(NamedTuple):
    """``backward`` averages the gradients of every micro-step; ``step`` uses them once in several."""

    backward: Call
    step: Call


def needless_reductions(module: Module) -> Iterator[Reduced]:
    """The functions of a file that accumulate gradients on several processes, and average them each time."""
    if "%" not in module.text or "backward" not in module.text or _CONTROLLED.search(module.text):
        return
    for function in module.functions:
        found = _accumulating(function)
        if found is not None and _is_reduced(function):
            yield found


def _accumulating(function: Function) -> Reduced | None:
    """A backward that always runs, and a later step that runs once in a number of times."""
    backwards: list[Call] = []
    for call in function.calls:
        effect = effects(call)
        if Effect.BACKWARD in effect:
            backwards.append(call)
        elif Effect.STEP in effect and backwards:
            counted = next(filter(_is_counted, call.region.ancestors()), None)
            if counted is None:
                backwards.clear()  # These gradients are used in each step.
            elif any(not each.region.within(counted) for each in backwards):
                return Reduced(next(each for each in reversed(backwards) if not each.region.within(counted)), call)
    return None


def _is_counted(region: Region) -> bool:
    return isinstance(region, Branch) and not region.negated and region.test is not None and _counts(region.test)


@query(on_cycle=False)
def _counts(test: Value) -> bool:
    """Whether a test is true once in a number of steps: ``(step + 1) % every == 0``."""
    pending = [test]
    seen: set[int] = set()
    while pending and len(seen) < _MAX_VALUES:
        for source in sources(pending.pop()):
            if id(source) not in seen:
                seen.add(id(source))
                if isinstance(source, Binary) and source.operator == "%":
                    return True
                pending.extend(source.operands())
    return False


def _is_reduced(function: Function) -> bool:
    """Whether the file trains on several processes: it starts them, or speaks to the others."""
    return is_distributed(function) or _communicates(function.module)


@query(on_cycle=False)
def _communicates(module: Module) -> bool:
    calls = (call for calls in module.calls_by_name.values() for call in calls)
    return any(name.startswith(_DISTRIBUTED) for call in calls for name in qualified_names(call.callee))


_DISTRIBUTED = ("torch.distributed.", "torch.nn.parallel.DistributedDataParallel", "accelerate.Accelerator")
