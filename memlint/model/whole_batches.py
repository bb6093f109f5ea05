"""Training that checkpoints its activations, since memory is short, and still takes each batch as a whole."""

from __future__ import annotations

import re

from memlint.model.devices import files_involved
from memlint.model.effects import Effect, calls_in, effects, region_effects
from memlint.model.full_precision import code_says, training_loops
from memlint.model.memo import query
from memlint.model.scopes import Module
from memlint.model.values import Call

_CHECKPOINTS = re.compile(r"\b\w*(activation|grad|gradient)_checkpointing(_enable)?\(")
"""A call that checkpoints the activations of a model."""
_ACCUMULATES = re.compile(
    r"accum|no_sync|micro_?batch|find_executable_batch_size|auto_find_batch_size|scale_batch_size|virtual_batch|"
    r"contrastive|info_?nce|logit_scale|triplet|supcon|\b(accelerate|lightning|pytorch_lightning|deepspeed|composer)\b",
    re.IGNORECASE,
)
"""What takes a batch in parts, needs it as a whole, or leaves that to a framework."""


def whole_batches_under_checkpointing(module: Module) -> Call | None:
    """The backward of the first loop over data of a file that checkpoints activations and steps on each batch.

    None if the file or one that calls it speaks of accumulation, or of losses that compare the samples of a batch with
    each other. What it calls does not count: libraries that serve many programs speak of everything.
    """
    if not _checkpoints(module) or _accumulates(module):
        return None
    for loop in training_loops(module):
        if Effect.STEP in region_effects(loop) and not any(map(_accumulates, files_involved(loop.function))):
            return next((call for call in calls_in(loop) if Effect.BACKWARD in effects(call)), None)
    return None


@query(on_cycle=False)
def _checkpoints(module: Module) -> bool:
    return code_says(module, _CHECKPOINTS)


@query(on_cycle=False)
def _accumulates(module: Module) -> bool:
    return code_says(module, _ACCUMULATES)
