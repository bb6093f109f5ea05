"""Everything that stands between the script and the hardware that it believes in."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import torch

from memlint.capacity.simulate.child.autocast import Autocast
from memlint.capacity.simulate.child.changes import Changes
from memlint.capacity.simulate.child.checkpoints import Checkpoints
from memlint.capacity.simulate.child.device import SimulatedDevice
from memlint.capacity.simulate.child.distributed import Distributed
from memlint.capacity.simulate.child.facade import Facade
from memlint.capacity.simulate.child.files import Files
from memlint.capacity.simulate.child.kernels import Kernels
from memlint.capacity.simulate.child.recorder import DeviceRecorder
from memlint.capacity.simulate.child.workspaces import Workspaces
from memlint.capacity.simulate.settings import Outcome, Share, SimulationPlan
from memlint.trace.allocator_settings import AllocatorSettings
from memlint.trace.events import Action, Category, MemoryEvent
from memlint.trace.live import LiveMemory
from memlint.trace.snapshot_writer import write_snapshot
from memlint.verify.child.progress import Progress, TrackedOptimizer
from memlint.verify.child.session import categorise
from memlint.verify.plan import Budget

WORKSPACE = "workspace"


class Session:
    """Installs the simulated device, follows the script, and gathers what was seen."""

    def __init__(self, plan: SimulationPlan, seen: Outcome) -> None:
        settings = plan.settings
        self._plan = plan
        self._seen = seen
        self._recorder = DeviceRecorder(settings.device.usable, AllocatorSettings.parse(settings.allocator))
        workspaces = Workspaces(self._recorder, settings.device.capability, _version(settings.torch))
        self._device = SimulatedDevice(self._recorder, workspaces.around)
        self._facade = Facade(self._device, self._recorder, settings)
        self._files = Files(plan.recording.parent, self._facade.notes)
        self._kept: tuple[Any, ...] = ()
        self._changes: Changes | None = None
        budget = Budget(batches=settings.steps + 1, until=(settings.steps, 0))
        self.progress = Progress(budget, self._recorder, _Listener())

    def start(self) -> None:
        """From here on the script sees a GPU."""
        self._seen.torch = torch.__version__
        self._facade.install()
        self._files.install()
        Checkpoints(self._facade.notes).install()
        Distributed(self._recorder, self._plan.settings.count).install()
        self._kept = Kernels(self._device, self._plan.settings.device.capability), Autocast(self._device)
        self.progress.install()
        self._changes = Changes(self._plan.settings.changes, self._recorder)
        self._device.__enter__()
        os.register_at_fork(after_in_child=self._leave)

    def finish(self) -> None:
        """Gather everything and write the recording."""
        self._leave()
        self._files.leave()
        seen, recorder = self._seen, self._recorder
        seen.steps, seen.forwards = self.progress.step, self.progress.forwards
        seen.losses = len(self.progress.losses)
        seen.step_seconds = self.progress.step_seconds
        seen.out_of_memory = recorder.out_of_memory
        seen.not_applied = sorted(self._changes.not_applied) if self._changes is not None else []
        seen.notes += self._notes()
        if not recorder.used_devices:
            return
        recording = recorder.recording()
        events = [event for event in recording.events if event.action in (Action.ALLOCATE, Action.FREE)]
        categorise_device(events)
        busiest = max(recorder.used_devices, key=lambda index: recorder.peaks(index)[1])
        stats = recorder.allocator(busiest).stats.all
        seen.peak_allocated, seen.peak_reserved = recorder.peaks(busiest)
        seen.allocated_at_end = stats.allocated_bytes.current
        seen.segments = stats.segment.peak
        seen.shares = _shares(list(recording.of(f"cuda:{busiest}")))
        seen.unused_at_peak = seen.peak_reserved - seen.peak_allocated
        with self._plan.recording.open("wb") as file:
            write_snapshot(recording, file)
        seen.has_recording = True

    def _leave(self) -> None:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is self._device:
            self._device.__exit__(None, None, None)

    def _notes(self) -> list[str]:
        notes = list(self._facade.notes)
        if self._device.values.assumed:
            notes.append(f"{self._device.values.assumed} numbers that depend on the weights were assumed")
        if self._device.unsupported:
            names = ", ".join(sorted(self._device.unsupported))
            notes.append(f"the results of {names} were taken to be like their first argument")
        return notes


class _Listener:
    """Nobody watches lines here."""

    is_satisfied = False

    def forward_done(self, module: torch.nn.Module, output: object) -> None:
        """Nothing."""

    def step_done(self, optimizer: TrackedOptimizer) -> None:
        """Nothing."""

    def gradients_begin(self, optimizer: TrackedOptimizer) -> None:
        """Nothing."""

    def backward_done(self) -> None:
        """Nothing."""


def categorise_device(events: list[MemoryEvent]) -> None:
    """Give a category to what nobody has classified; libraries' workspaces stay without one."""
    workspaces = {id(event) for event in events if event.is_workspace}
    from memlint.trace.events import Origin, Recording

    categorise(Recording(Origin.SIMULATION, [event for event in events if id(event) not in workspaces]))


def _shares(events: list[MemoryEvent]) -> list[Share]:
    """What was allocated when most was, by category and the user's line."""
    top = LiveMemory().run(events).allocated.peak_event
    live = LiveMemory().run(events[: top + 1])
    sizes: Counter[tuple[str, str, int]] = Counter()
    blocks: Counter[tuple[str, str, int]] = Counter()
    for event in live.blocks.values():
        user = event.stack.user if event.stack is not None else None
        category = WORKSPACE if event.is_workspace else (event.category or Category.TEMPORARY).value
        key = (category, user.filename if user else "", user.line if user else 0)
        sizes[key] += event.size
        blocks[key] += 1
    return [Share(size, blocks[key], *key) for key, size in sizes.most_common()]


def _version(text: str) -> tuple[int, int]:
    major, minor = (text or torch.__version__).split(".")[:2]
    return int(major), int("".join(letter for letter in minor if letter.isdigit()))
