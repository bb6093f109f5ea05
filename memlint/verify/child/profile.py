"""What ``--trace-dir`` keeps for TensorBoard and Perfetto: PyTorch's profiler over the first steps."""

from __future__ import annotations

from pathlib import Path

import torch

from memlint.trace.events import Phase

_BETWEEN_STEPS = frozenset({Phase.LOAD, Phase.FORWARD, Phase.EVALUATION})


class StepProfile:
    """Operators, their lines, and the memory of all devices; the viewers choke on more than a few steps.

    The times of kernels are left out: to ask for them, or for whether there is a GPU, initializes CUDA, after which
    processes that the script forks can no longer use it.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self._path = path
        self._steps = steps
        self._profiler = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, record_shapes=True, with_stack=True
        )
        self._is_running = False
        self._is_complete = False

    def start(self) -> None:
        """Begin; PyTorch's profiler belongs to the thread that begins it."""
        self._profiler.start()
        self._is_running = True

    def reached(self, step: int | None, phase: Phase | None) -> None:
        """Stop once the steps are over that are wanted."""
        if self._is_running and step is not None and step >= self._steps and phase in _BETWEEN_STEPS:
            self.stop()

    def stop(self) -> None:
        """End it, in the thread that has begun it."""
        if self._is_running:
            self._is_running = False
            self._profiler.stop()
            self._is_complete = True

    def write(self) -> str | None:
        """Write the trace. Returns why there is none, in one line."""
        if not self._is_complete:
            return "there is no profiler trace: the script was stopped within the steps that it was to show"
        self._profiler.export_chrome_trace(str(self._path))
        return None
