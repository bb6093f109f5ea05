"""Training whose memory is short, since it checkpoints or runs out, and that still takes each batch as a whole."""

from __future__ import annotations

import re

from memlint.model.devices import files_involved
from memlint.model.effects import Effect, calls_in, effects, region_effects
from memlint.model.full_precision import backward_in, runs_out_of_memory, training_loops
from memlint.model.handlers import catches_out_of_memory
from memlint.model.identifiers import imports_any
from memlint.model.memo import query
from memlint.model.scopes import Module
from memlint.model.techniques import Technique, techniques
from memlint.model.values import Call

_CHECKPOINTS = re.compile(r"(activation|grad|gradient)_checkpointing(_enable)?$")
"""What is called to checkpoint the activations of a model."""
_NEEDLESS_WITH = frozenset({Technique.ACCUMULATION, Technique.AUTOMATIC_BATCH, Technique.COUPLED_BATCH})
_FRAMEWORKS = frozenset({"accelerate", "lightning", "pytorch_lightning", "lightning_fabric", "deepspeed", "composer"})
"""Packages that may be told elsewhere to accumulate."""


def whole_batches_under_checkpointing(module: Module) -> Call | None:
    """The backward of the first loop over data of a file that checkpoints activations and steps on each batch.

    None if the code of the file, or of one that calls it, has to do with accumulation, or with losses that compare the
    samples of a batch with each other. What it calls does not count: libraries serve many programs.
    """
    if "checkpointing" not in module.text or not _checkpoints(module) or _needs_no_parts(module):
        return None
    for loop in training_loops(module):
        if Effect.STEP in region_effects(loop) and not any(map(_needs_no_parts, files_involved(loop.function))):
            call = next((call for call in calls_in(loop) if Effect.BACKWARD in effects(call)), None)
            return backward_in(call) if call is not None else None
    return None


def whole_batches_out_of_memory(module: Module) -> Call | None:
    """The backward of the first loop over data of a file that leaves out batches for which memory runs out.

    None under the same conditions.
    """
    if not catches_out_of_memory(module) or _needs_no_parts(module):
        return None
    for loop in training_loops(module):
        call = runs_out_of_memory(loop) if Effect.STEP in region_effects(loop) else None
        if call is not None and not any(map(_needs_no_parts, files_involved(loop.function))):
            return backward_in(call)
    return None


@query(on_cycle=False)
def _checkpoints(module: Module) -> bool:
    return any(_CHECKPOINTS.search(name) for name in module.calls_by_name)


@query(on_cycle=False)
def _needs_no_parts(module: Module) -> bool:
    """Whether a file takes batches in parts, cannot take them so, or leaves that to a framework."""
    return imports_any(module, _FRAMEWORKS) or not techniques(module.text).isdisjoint(_NEEDLESS_WITH)
