"""Whether a file of a checkpoint is on this machine."""

from __future__ import annotations

import importlib
from pathlib import Path


def is_on_disk(name: str, file: str = "config.json", part: str | None = None) -> bool:
    """Whether ``name`` is a folder, or the cache of the hub has ``file`` of it, or of a part of it."""
    if Path(name).exists():
        return True
    hub = importlib.import_module("huggingface_hub")
    try:
        return isinstance(hub.try_to_load_from_cache(name, f"{part}/{file}" if part else file), str)
    except ValueError:
        return False
