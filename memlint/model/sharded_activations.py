"""Models that are sharded, or quantised, since memory is short, and keep the activations of every block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import sources
from memlint.model.devices import files_involved
from memlint.model.identifiers import imports_any
from memlint.model.identity import holds, objects
from memlint.model.memo import query
from memlint.model.pretrained import pretrained_kind
from memlint.model.scopes import Module
from memlint.model.sharding import sharding_calls
from memlint.model.techniques import Technique, techniques
from memlint.model.trainees import trains
from memlint.model.training import inside
from memlint.model.values import Call, Constant

_ELSEWHERE = frozenset({"lightning", "pytorch_lightning", "lightning_fabric", "composer", "unsloth"})
"""Packages that may be told elsewhere to save less; DeepSpeed's configuration does so only where the model asks."""


class KeptActivations(NamedTuple):
    """``call`` shards or quantises the weights of a model that is trained; ``how`` says which."""

    call: Call
    how: str


def kept_activations(module: Module) -> KeptActivations | None:
    """The first call of a file that takes memory from the weights of a model whose activations are all kept.

    None if the code of the file, or of one that calls it, has to do with saving less for the backward.
    """
    for found in (*_sharded(module), *_quantised(module)):
        if not any(map(_saves_less, (module, *files_involved(found.call.function)))):
            return found
    return None


@query(on_cycle=False)
def _saves_less(module: Module) -> bool:
    return imports_any(module, _ELSEWHERE) or Technique.CHECKPOINTING in techniques(module.text)


def _sharded(module: Module) -> Iterator[KeptActivations]:
    """The units of FSDP in a file that trains."""
    if ("FullyShardedDataParallel" in module.text or "fully_shard" in module.text) and trains(module):
        yield from (KeptActivations(call, "sharded over devices") for call in sharding_calls(module)[:1])


def _quantised(module: Module) -> Iterator[KeptActivations]:
    """The loads of quantised weights that adapters are trained on."""
    adapted = [call.argument("model", 0) for call in module.calls_by_name.get("get_peft_model", ())]
    if not adapted:
        return
    for load in module.calls_by_name.get("from_pretrained", ()):
        if _may_be_quantised(load) and pretrained_kind(load) is not None:
            own = objects(load)
            if any(model is not None and holds(frozenset(inside(objects(model))), own) for model in adapted):
                yield KeptActivations(load, "quantised")


def _may_be_quantised(load: Call) -> bool:
    """Whether ``load`` may be given a configuration of quantisation, or is told to load 4 or 8 bits."""
    configured = load.argument("quantization_config")
    if configured is not None and any(
        isinstance(source, Call) and source.name.endswith("Config") for source in sources(configured)
    ):
        return True
    bits = (load.argument(name) for name in ("load_in_4bit", "load_in_8bit"))
    return any(
        isinstance(source, Constant) and source.constant is True
        for value in bits
        if value is not None
        for source in sources(value)
    )
