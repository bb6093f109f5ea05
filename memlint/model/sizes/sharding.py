"""How a program shards what it trains, and over how many GPUs: the arguments of FSDP, ZeRO and of those who use them.

Each question gives facts of a :class:`memlint.model.sizes.reading.Reading` by name: ``sharding``, how it is called;
``stage``, as ZeRO counts (1 shards the optimizer's state, 2 gradients besides, 3, as FSDP does, parameters as well);
``ranks``, the number of GPUs; ``offload``. What the program says in a way that cannot be read is unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from memlint.model.sizes.objects import External, Unknown

_UNKNOWN = Unknown("", plain=True)
_FSDP = frozenset({"FullyShardedDataParallel", "fully_shard", "FSDPStrategy", "FullyShardedDataParallelPlugin"})
_DEEPSPEED = frozenset({"DeepSpeedStrategy", "DeepSpeedPlugin"})
_FRAMEWORKS = ("torch.", "fairscale.", "lightning.", "pytorch_lightning.", "accelerate.")
_STAGES = {"FULL_SHARD": 3, "SHARD_GRAD_OP": 2, "NO_SHARD": 0}
"""Strategies of FSDP; those that shard within a node only depend on its GPUs."""
_DEFAULT_STAGE = 2
"""Of ZeRO in Lightning and Accelerate."""
_OFFLOADING = ("cpu_offload", "offload_policy", "offload_optimizer", "offload_parameters", "offload_params_device")
"""Arguments that may move something to the host."""


def made(name: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """What a call of ``name`` says about sharding, be it one of FSDP, of a strategy or of a plug-in."""
    last = name.rpartition(".")[2]
    if not name.startswith(_FRAMEWORKS) or last not in _FSDP | _DEEPSPEED:
        return {}
    if last in _DEEPSPEED:
        stage = keywords.get("stage", keywords.get("zero_stage", _DEFAULT_STAGE))
        facts = {"sharding": last, "stage": stage if isinstance(stage, int) else _UNKNOWN}
        if "config" in keywords or "hf_ds_config" in keywords:
            facts["stage"] = _UNKNOWN
    else:
        facts = {"sharding": last, "stage": _stage_of_fsdp(keywords)}
        if facts["stage"] == 0:
            return {}
    if any(keywords.get(each) not in (None, False, "none") for each in _OFFLOADING):
        facts["offload"] = last
    return facts


def _stage_of_fsdp(keywords: Mapping[str, Any]) -> Any:
    if keywords.get("reshard_after_forward", True) is not True:
        # Parameters stay gathered until the backward is over.
        return 2 if keywords["reshard_after_forward"] is False else _UNKNOWN
    strategy = keywords.get("sharding_strategy", "FULL_SHARD")
    text = strategy.name if isinstance(strategy, External) else strategy
    return _STAGES.get(text.rpartition(".")[2].upper(), _UNKNOWN) if isinstance(text, str) else _UNKNOWN


def by_lightning(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments of Lightning's ``Trainer`` say: a strategy by its name, and the number of GPUs."""
    ranks = _product(_counted(keywords.get("devices", "auto")), keywords.get("num_nodes", 1))
    facts: dict[str, Any] = {"ranks": ranks} if isinstance(ranks, int) else {}
    strategy = keywords.get("strategy")
    if not isinstance(strategy, str):
        return facts
    if "fsdp" in strategy:
        facts |= {"sharding": strategy, "stage": 3}
    elif "deepspeed" in strategy:
        stage = re.search(r"stage_([123])", strategy)
        facts |= {"sharding": strategy, "stage": int(stage[1]) if stage else _DEFAULT_STAGE}
    if "offload" in strategy:
        facts["offload"] = strategy
    return facts


def by_transformers(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """What training arguments of transformers say: ``fsdp="full_shard auto_wrap"``, ``deepspeed=...``."""
    fsdp = keywords.get("fsdp")
    if not fsdp:
        return {}
    words = fsdp.split() if isinstance(fsdp, str) else fsdp
    if not isinstance(words, (list, tuple)) or not all(isinstance(each, str) for each in words):
        return {"sharding": "fsdp", "stage": _UNKNOWN}
    known = [_STAGES[each.upper()] for each in words if each.upper() in _STAGES]
    facts: dict[str, Any] = {"sharding": "fsdp", "stage": known[0] if known else _UNKNOWN}
    return facts | ({"offload": "fsdp"} if "offload" in words else {})


def by_deepspeed(config: Any) -> dict[str, Any]:
    """What a configuration of DeepSpeed says, a dict; ``auto`` leaves a value to the program.

    Half precision of DeepSpeed keeps weights of both types, which the estimate does not count: it is unknown.
    """
    if not isinstance(config, dict):
        return {"sharding": "deepspeed", "stage": _UNKNOWN, "precision": _UNKNOWN, "accumulation": _UNKNOWN}
    facts: dict[str, Any] = {}
    zero = _section(config, "zero_optimization")
    if zero.get("stage", 0) != 0:
        facts |= {"sharding": "deepspeed", "stage": zero["stage"] if isinstance(zero["stage"], int) else _UNKNOWN}
    if any(_section(zero, part).get("device", "none") != "none" for part in ("offload_optimizer", "offload_param")):
        facts["offload"] = "deepspeed"
    if any(_section(config, kind).get("enabled", False) not in (False, "auto") for kind in ("fp16", "bf16")):
        facts["precision"] = _UNKNOWN
    said = {"batch": "train_micro_batch_size_per_gpu", "accumulation": "gradient_accumulation_steps"}
    return facts | {fact: config[key] for fact, key in said.items() if isinstance(config.get(key), int)}


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def ranks(name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> int | None:
    """The number of processes that a call of ``name`` starts, joins or lays out, if it says one."""
    match name.rpartition(".")[2]:
        case "init_process_group":
            count = keywords.get("world_size")
        case "spawn" if name.startswith("torch.multiprocessing"):
            count = keywords.get("nprocs", arguments[2] if len(arguments) > 2 else None)
        case "init_device_mesh":
            shape = keywords.get("mesh_shape", arguments[1] if len(arguments) > 1 else None)
            known = isinstance(shape, (list, tuple)) and all(isinstance(each, int) for each in shape)
            count = math.prod(shape) if known and shape else None
        case _:
            return None
    return count if isinstance(count, int) and count > 0 else None


def _counted(devices: Any) -> Any:
    """How many GPUs ``devices`` of Lightning names; -1 and ``"auto"`` are all there are."""
    if isinstance(devices, (list, tuple)):
        return len(devices)
    if isinstance(devices, str) and devices.isdigit():
        return int(devices)
    return devices if isinstance(devices, int) and devices > 0 else _UNKNOWN


def _product(one: Any, other: Any) -> Any:
    # The first keeps its line, and whether the command line may change it.
    return one if other == 1 else one * other if isinstance(one, int) and isinstance(other, int) else _UNKNOWN
