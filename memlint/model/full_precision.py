"""Training in float32 whose memory is short, since it takes several GPUs, or each batch in micro-steps."""

from __future__ import annotations

import re
from collections.abc import Iterator

from memlint.model.calls import callees
from memlint.model.devices import files_involved, makes_or_asks_for
from memlint.model.effects import Effect, calls_in, effects, region_effects
from memlint.model.knowledge import torch
from memlint.model.loops import iterates_over_data
from memlint.model.memo import query
from memlint.model.micro_steps import micro_steps, update_in
from memlint.model.scopes import Module
from memlint.model.values import Call, Loop

_HALF_PRECISION = re.compile(
    r"autocast|GradScaler|\b(use_|with_)?(fp16|bf16|amp|half|float16|bfloat16|mixed_precision|precision)\b|"
    r"\b(accelerate|lightning|pytorch_lightning|deepspeed|apex|fabric|composer)\b"
)
"""What mixed precision, or a framework that may be told to use it elsewhere, does not do without."""
_CASTS = re.compile(r"autocast|\.half\(|\b(use_|with_)?(fp16|bf16|float16|bfloat16|mixed_precision)\b")


def full_precision_on_several_devices(module: Module) -> Call | None:
    """The call that runs the backward, in the first loop over data of a file that trains on several GPUs in float32.

    None if the file, one that calls it or one that it calls in that loop, says anything of half precision.
    """
    if (
        "DistributedDataParallel" not in module.text
        or says_half_precision(module)
        or not makes_or_asks_for(module, torch.DDP)
    ):
        return None
    for loop in training_loops(module):
        call = next((call for call in calls_in(loop) if Effect.BACKWARD in effects(call)), None)
        if call is not None and not any(map(_casts, _files_of(loop))):
            return call
    return None


def full_precision_in_micro_steps(module: Module) -> Call | None:
    """The update of the parameters, in the first loop over data of a file that accumulates gradients in float32.

    None if the file, one that calls it or one that it calls in that loop, says anything of half precision.
    """
    if "%" not in module.text or "backward" not in module.text or says_half_precision(module):
        return None
    for loop in training_loops(module):
        found = micro_steps(loop.function)
        if found is not None and found.step.region.within(loop) and not any(map(_casts, _files_of(loop))):
            return update_in(found.step)
    return None


@query(on_cycle=False)
def says_half_precision(module: Module) -> bool:
    """Whether the code of a file, comments left out, says anything of half precision, or leaves it to a framework."""
    return code_says(module, _HALF_PRECISION)


@query(on_cycle=False)
def _casts(module: Module) -> bool:
    """Whether a file may run a model in half precision; one that only saves a GradScaler does not."""
    return code_says(module, _CASTS)


def code_says(module: Module, words: re.Pattern[str]) -> bool:
    """Whether ``words`` are found in the lines of a file, comments left out."""
    return any(words.search(line.partition("#")[0]) for line in module.text.splitlines())


def training_loops(module: Module) -> Iterator[Loop]:
    """The loops over data in a file that run a backward."""
    for function in module.functions:
        for loop in function.loops:
            if iterates_over_data(loop) is not None and Effect.BACKWARD in region_effects(loop):
                yield loop


def _files_of(loop: Loop) -> Iterator[Module]:
    yield from files_involved(loop.function)
    for call in calls_in(loop):
        yield from (function.module for function in callees(call))
