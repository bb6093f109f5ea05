"""Runs a script and prints, as JSON, how many bytes of tensors were alive in each of its stages.

    python bench/live_memory.py SCRIPT

Live bytes are those of tensor storages: a storage that an operator returns is counted once, from that operator until
it is freed; what one operator allocates and frees inside itself is not seen. A stage is a function that the script's
``main`` calls. For each of them the JSON holds ``peak``, the highest number of live bytes while it ran, and
``live_at_steps``, the live bytes after each optimizer step.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
import weakref
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Stage:
    """What one function of the script held; bytes."""

    peak: int = 0
    live_at_steps: list[int] = field(default_factory=list)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, and notes them stage by stage."""

    def __init__(self, script: Path) -> None:
        super().__init__()
        self.stages: dict[str, Stage] = {}
        self._script = str(script)
        self._live = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def note_step(self, *_: object) -> None:
        """Notes an optimizer step; has the signature of an optimizer hook."""
        self._stage().live_at_steps.append(self._live)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._storages:
            return
        size = storage.nbytes()

        def freed(_: object) -> None:
            del self._storages[key]
            self._live -= size

        self._storages[key] = weakref.ref(storage, freed)
        self._live += size
        stage = self._stage()
        stage.peak = max(stage.peak, self._live)

    def _stage(self) -> Stage:
        calls = []
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename == self._script:
                calls.append(frame.f_code.co_name)
            frame = frame.f_back
        outermost = calls[-3:-2]  # Below the module and its main.
        name = outermost[0] if outermost and outermost != ["__init__"] else "main"
        return self.stages.setdefault(name, Stage())


def main() -> None:
    """Prints the stages of the script that the command line names; the script's own output is swallowed."""
    script = Path(sys.argv[1]).resolve()
    live = LiveBytes(script)
    register_optimizer_step_post_hook(live.note_step)
    sys.argv = [str(script)]
    sys.path.insert(0, str(script.parent))
    with live, contextlib.redirect_stdout(io.StringIO()):
        runpy.run_path(str(script), run_name="__main__")
    print(json.dumps({name: asdict(stage) for name, stage in live.stages.items()}))


if __name__ == "__main__":
    main()
