"""What watches the script from the moment when torch is there: recorder, progress, tracer, observers."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterable
from contextlib import suppress

import torch

from memlint.trace.errors import TraceError
from memlint.trace.events import Action, Category, MemoryEvent, Phase, Recording
from memlint.trace.joined import joined
from memlint.trace.recorder_cpu import CpuRecorder
from memlint.trace.recorder_cuda import CudaRecorder
from memlint.trace.snapshot_writer import write_snapshot
from memlint.verify.child.lines import Lines, Situation
from memlint.verify.child.profile import StepProfile
from memlint.verify.child.progress import Progress
from memlint.verify.child.tracer import tracer
from memlint.verify.observations import Observations
from memlint.verify.plan import Plan


class _Recorder(CpuRecorder):
    """Records what operators return, and on a GPU what the allocator does for them."""

    def __init__(self, profile: StepProfile | None) -> None:
        super().__init__(accelerators=True)
        self._profile = profile
        self._cuda = CudaRecorder()
        self._history: Recording | None = None
        self._complaint: str | None = None

    def __enter__(self) -> CpuRecorder:
        self._cuda.start()
        return super().__enter__()

    def place(self, step: int | None, phase: Phase | None) -> None:
        super().place(step, phase)
        self._cuda.tag(step, phase)
        if self._profile is not None:
            self._profile.reached(step, phase)

    def see_arguments(self, arguments: Iterable[object]) -> None:
        self._cuda.follow()
        super().see_arguments(arguments)

    def end_history(self) -> None:
        """Ask the allocator, while what the script holds is still there."""
        try:
            self._history = self._history or self._cuda.stop()
        except TraceError as error:
            self._complaint = str(error)

    def recording(self) -> Recording:
        self.end_history()
        recording = super().recording()
        if self._complaint is not None:
            recording.notes.append(self._complaint)
        return recording if self._history is None else joined(recording, self._history)


class Session:
    """Everything that has to be started, stopped and written together."""

    def __init__(self, plan: Plan, seen: Observations) -> None:
        self._plan = plan
        self._seen = seen
        self._lines = Lines(plan.lines, plan.budget)
        self._profile = StepProfile(plan.profile, plan.budget.steps) if plan.profile is not None else None
        self._recorder = _Recorder(self._profile)
        self._recorder.place(0, None)
        self.progress = Progress(plan.budget, self._recorder, self._lines)
        self._lines.situation = Situation(self.progress, self._recorder, plan.budget)
        self._tracer = tracer(self._lines.observers, self._failed)
        self._is_running = False
        self._is_forked = False

    def start(self) -> None:
        """Begin to watch this thread."""
        self._seen.torch = torch.__version__
        self._seen.rank = int(os.environ.get("RANK", "0"))
        self._seen.world = int(os.environ.get("WORLD_SIZE", "1"))
        if self._plan.seed is not None:
            _seed(self._plan.seed)
        self.progress.install()
        self._lines.follow()
        if self._profile is not None:
            self._profile.start()
        self._recorder.__enter__()
        self._is_running = True
        os.register_at_fork(after_in_child=self._leave)
        self._tracer.start()
        # The frame that imports torch has begun already, and so have those around it.
        self._tracer.join(sys._getframe(1))

    def stop(self) -> None:
        """Watch no more."""
        self._tracer.stop()
        if self._is_running:
            self._is_running = False
            self._recorder.__exit__(None, None, None)
            if not self._is_forked:
                self._recorder.end_history()
            if self._profile is not None and not self._is_forked:
                self._profile.stop()

    def _leave(self) -> None:
        """In a forked process: nobody asks what it does."""
        self._is_forked = True
        self.stop()

    def _failed(self, error: Exception) -> None:
        note = f"a line could not be looked at: {type(error).__name__}: {error}"
        if note not in self._seen.notes:
            self._seen.notes.append(note)

    def complete(self) -> None:
        """Gather what was seen."""
        progress = self.progress
        for observer in self._lines.observers:
            observer.settle(progress)
        self._note_device()
        self._seen.steps = progress.step
        self._seen.forwards = progress.forwards
        self._seen.lines = {each.line.number: each.seen for each in self._lines.observers}
        self._seen.holder_optimizers = {each.line.number: each.holder_optimizers for each in self._lines.observers}
        self._seen.optimizers = [each.seen for each in progress.optimizers]
        self._seen.losses = progress.losses
        self._seen.step_seconds = progress.step_seconds

    def _note_device(self) -> None:
        """On a GPU the allocator's own figures count."""
        if not (torch.cuda.is_initialized() and torch.cuda.max_memory_allocated()):
            return
        self._seen.device = f"cuda:{torch.cuda.current_device()}"
        self._seen.device_name = torch.cuda.get_device_name()
        self._seen.allocated_peak = torch.cuda.max_memory_allocated()
        self._seen.reserved_peak = torch.cuda.max_memory_reserved()

    def write_recording(self) -> None:
        """Write the memory events, and what is known about them."""
        recording = self._recorder.recording()
        categorise(recording)
        self._seen.missing = [f"{device}: {reason}" for device, reason in recording.overrun.items()]
        self._seen.notes += [*recording.notes, *self._seen.missing]
        with self._plan.recording.open("wb") as file:
            write_snapshot(recording, file)

    def write_profile(self) -> None:
        """Write the trace of the profiler, if one is wanted."""
        reason = self._profile.write() if self._profile is not None else None
        if reason is not None:
            self._seen.notes.append(reason)


def categorise(recording: Recording) -> None:
    """Give a category to every allocation that nobody has classified, by the phase in which it was made."""
    data = _made_beforehand(recording.events)
    by_address: dict[int | None, Category | None] = {}
    for event in recording.events:
        if event.action is not Action.ALLOCATE:
            event.category = by_address.get(event.address)
            continue
        if event.category is None:
            event.category = Category.INPUT if id(event) in data else _category(event)
        by_address[event.address] = event.category


def _made_beforehand(events: Iterable[MemoryEvent]) -> set[int]:
    """The identities of the allocations that were alive when the first forward began."""
    alive: dict[int | None, MemoryEvent] = {}
    for event in events:
        if event.phase is not None:
            break
        if event.action is Action.ALLOCATE:
            alive[event.address] = event
        else:
            alive.pop(event.address, None)
    return {id(event) for event in alive.values()}


def _category(event: MemoryEvent) -> Category:
    if event.phase is Phase.LOAD:
        return Category.INPUT
    if event.phase in (Phase.FORWARD, Phase.EVALUATION, None) and event.records_graph:
        return Category.ACTIVATION
    return Category.TEMPORARY


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    with suppress(ImportError):
        import numpy as np

        np.random.seed(seed)
