"""The tables of well-known architectures and of checkpoints, ``architectures.json`` and ``checkpoints.json``.

``bench/architectures.py`` and ``bench/checkpoints.py`` write them from the configurations of installed libraries. Like
the table of GPUs they stand below everything else, where the process that runs a script can read them, too.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
LOADING_OPTIONS = frozenset(
    """adapter_kwargs adapter_name cache_dir commit_hash force_download from_flax from_tf generation_config gguf_file
    ignore_mismatched_sizes key_mapping local_files_only low_cpu_mem_usage max_memory mirror offload_buffers
    offload_folder offload_state_dict output_loading_info proxies resume_download revision state_dict subfolder token
    tp_plan trust_remote_code use_auth_token use_kernels use_safetensors variant weights_only _fast_init _from_auto
    _commit_hash _from_pipeline""".split()
)
"""Options of ``from_pretrained`` that say how weights are found and read: they change no parameter."""


@cache
def table() -> dict[str, dict[str, Any]]:
    """What is known of each architecture, by qualified name such as ``timm.resnet50``."""
    entries = _read("architectures.json")
    entries.pop("versions", None)
    return entries


@cache
def checkpoints() -> dict[str, dict[str, Any]]:
    """Entries by the names of checkpoints of the hub, with and without the organisation.

    Beside what architectures have they hold the ``model_type`` of transformers (``type``) and what its configuration
    sets (``set``); ``name#unet`` is a part of a checkpoint of diffusers, its type the class. Those that the
    documentation of transformers calls similar to the default configuration of their kind have that one, and say so
    (``similar``): they may differ in a vocabulary or in the number of positions.
    """
    found = _read("checkpoints.json")
    for name, entry in table().items():
        if "checkpoint" in entry:
            kind = name.partition(".")[2]
            found.setdefault(entry["checkpoint"], {**entry, "type": kind, "set": {}, "similar": True})
    for name, entry in list(found.items()):
        found.setdefault(name.rpartition("/")[2], entry)
    return found


def diffusion_checkpoint(name: str, part: str | None) -> dict[str, Any] | None:
    """The entry of a part (``unet``, ``vae``) of a checkpoint of diffusers; None if unknown."""
    return checkpoints().get(f"{name}#{part}")


def checkpoint_configuration(name: str, part: str | None = None) -> dict[str, Any] | None:
    """The configuration of a checkpoint for transformers, as far as it is not the default; None if unknown."""
    entry = checkpoints().get(name) if part is None else diffusion_checkpoint(name, part)
    return None if entry is None else {"model_type": entry["type"], **entry["set"]}


def is_similar(name: str) -> bool:
    """Whether a checkpoint is only said to be similar to the default configuration of its kind."""
    return "similar" in checkpoints().get(name, {})


def _read(name: str) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = json.loads((_FOLDER / name).read_text("utf-8"))
    return entries
