"""Records what CUDA's caching allocator does, through the history that it keeps of itself. Needs torch.

This is all of the device's memory that goes through the allocator: blocks as they are rounded, segments, workspaces of
libraries and what kernels allocate for themselves, none of which an operator's results show. The names of the functions
are those of ``torch/cuda/memory.py``; what differs between releases of PyTorch is asked for here and nowhere else.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from memlint.trace.errors import TraceError
from memlint.trace.events import Phase, Recording
from memlint.trace.frames import Stack
from memlint.trace.labels import format_metadata
from memlint.trace.recorder_cpu import is_machinery, is_own
from memlint.trace.snapshot import recording_of

MAX_ENTRIES = 1_000_000
"""Entries of the allocator's ring buffer, so that a long run does not fill the host's memory."""


class CudaRecorder:
    """Begins as soon as the program uses CUDA, and not if it does not: nothing here initializes a device."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._memory: Any = torch.cuda.memory
        self._tag: str | None = None
        self._is_recording = False
        self._is_waiting = False
        self._complaint: RuntimeError | None = None

    def start(self) -> None:
        """Record from now, or from the first :meth:`follow` after CUDA has been initialized."""
        self._is_waiting = True
        self.follow()

    def follow(self) -> None:
        """Begin if the program has come to use CUDA; to be called before each operator, which is when it may have.

        Python's side of PyTorch initializes CUDA before the first operator on a device is dispatched.
        """
        if self._is_waiting and torch.cuda.is_initialized():
            self._is_waiting = False
            self._begin()

    def tag(self, step: int | None, phase: Phase | None) -> None:
        """Attach step and phase to every allocation from now on, if this PyTorch knows how."""
        text = format_metadata(step, phase)
        if self._is_recording and text != self._tag and hasattr(self._memory, "_set_memory_metadata"):
            self._memory._set_memory_metadata(text)
        self._tag = text

    def stop(self) -> Recording | None:
        """Record no more. Everything since :meth:`start`; None if the program has not used CUDA. Raises TraceError."""
        self._is_waiting = False
        complaint, self._complaint = self._complaint, None
        if complaint is not None:
            raise TraceError(f"the allocator records no history: {complaint}") from complaint
        if not self._is_recording:
            return None
        self._is_recording = False
        try:
            snapshot = self._memory._snapshot()
        except RuntimeError as error:
            # After an asynchronous error of a kernel CUDA answers nothing any more.
            raise TraceError(f"the allocator does not tell its history: {error}") from error
        with suppress(RuntimeError):
            self._memory._record_memory_history(enabled=None)
        overrun = self._overrun(snapshot)
        recording = recording_of(snapshot)
        recording.overrun.update(overrun)
        _leave_out_recorder(recording)
        return recording

    def _overrun(self, snapshot: Any) -> dict[str, str]:
        """The devices whose history was longer than what is kept of it."""
        traces = snapshot.get("device_traces", []) if isinstance(snapshot, dict) else []
        reason = f"only the latest {self._max_entries:,} events of the allocator's history were kept"
        return {f"cuda:{number}": reason for number, trace in enumerate(traces) if len(trace) >= self._max_entries}

    def _begin(self) -> None:
        try:
            # The lines of the program are wanted; frames of C++ say nothing about them.
            self._memory._record_memory_history(
                enabled="all", context="alloc", stacks="python", max_entries=self._max_entries
            )
        except RuntimeError as error:
            # As with PYTORCH_ALLOC_CONF=backend:cudaMallocAsync. It must not fail in the program's hands.
            self._complaint = error
            return
        self._is_recording = True
        tag, self._tag = self._tag, None
        if tag and hasattr(self._memory, "_set_memory_metadata"):
            self._memory._set_memory_metadata(tag)
            self._tag = tag


def _leave_out_recorder(recording: Recording) -> None:
    """Every operator passes through the recorder of tensors, whose frames would hide the program's innermost one."""
    cleaned: dict[int, tuple[Stack, Stack | None]] = {}
    for event in recording.events:
        stack = event.stack
        if stack is None:
            continue
        if id(stack) not in cleaned:
            # The stack is kept with the answer, so that its identity stays its own.
            cleaned[id(stack)] = stack, _without_recorder(stack)
        event.stack = cleaned[id(stack)][1]


def _without_recorder(stack: Stack) -> Stack | None:
    frames = [frame for frame in stack.frames if not is_own(frame.filename)]
    while frames and is_machinery(frames[0].filename):
        del frames[0]
    return Stack(tuple(frames)) if frames else None
