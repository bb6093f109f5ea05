"""What a whole run took, from its recording."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from memlint.trace.allocator import CachingAllocator
from memlint.trace.events import HOST, Action, Recording
from memlint.trace.live import LiveMemory
from memlint.trace.replay import Replay
from memlint.verify.categories import has_phases, peak_categories
from memlint.verify.observations import Observations
from memlint.verify.plan import WARM_UP


@dataclass(frozen=True)
class RunMemory:
    """Sizes are bytes."""

    device: str
    peak_allocated: int
    """On a GPU what the allocator counts; on a CPU the tensors of the host, as requested. From the first forward on:
    what a program needs in order to make its data is not of interest."""
    peak_reserved: int
    """What the CUDA allocator reserved, or would have reserved for the same requests."""
    categories: dict[str, int] = field(default_factory=dict)
    """What was allocated at the peak, by purpose."""
    step_ends: tuple[int, ...] = ()
    """What was allocated when each step was over."""
    step_peaks: tuple[int, ...] = ()

    @property
    def growth_per_step(self) -> int:
        """What each step leaves behind, by the Theil-Sen estimator (the median of all slopes) after the warm-up."""
        ends = self.step_ends[WARM_UP:]
        slopes = [(b - a) / (j - i) for i, a in enumerate(ends) for j, b in enumerate(ends) if j > i]
        return round(sorted(slopes)[len(slopes) // 2]) if slopes else 0


def run_memory(recording: Recording | None, seen: Observations | None = None) -> RunMemory | None:
    """The figures of the busiest accelerator of a recording; of the host, if it recorded no other.

    The peaks that the allocator of a GPU has counted go before those of the recording.
    """
    if recording is None or not recording.events:
        return None
    devices = recording.devices()
    accelerators = [device for device in devices if device != HOST]
    memory = max((_of(recording, device) for device in accelerators or devices), key=lambda each: each.peak_allocated)
    if seen is None or seen.allocated_peak is None or seen.reserved_peak is None:
        return memory
    return replace(memory, peak_allocated=seen.allocated_peak, peak_reserved=seen.reserved_peak)


def _of(recording: Recording, device: str) -> RunMemory:
    live = LiveMemory.before(recording, device)
    ends: list[int] = []
    peaks: list[int] = []
    step: int | None = None
    peak = total_peak = 0
    is_running = not has_phases(recording)
    for event in recording.of(device):
        if event.step is not None and event.step != step:
            if step is not None:
                ends.append(live.allocated.current)
                peaks.append(peak)
            step, peak = event.step, 0
        live.apply(event)
        peak = max(peak, live.allocated.current)
        is_running = is_running or event.phase is not None
        total_peak = max(total_peak, live.allocated.current if is_running else 0)
    # What comes after the last step ends when the program does, and is no step.
    reserved = live.reserved.peak or _simulated_reserved(recording, device)
    categories = peak_categories(recording, device)
    return RunMemory(device, total_peak, reserved, categories, tuple(ends), tuple(peaks))


def _simulated_reserved(recording: Recording, device: str) -> int:
    replay = Replay(CachingAllocator())
    replay.run(event for event in recording.of(device) if event.action in (Action.ALLOCATE, Action.FREE))
    return replay.allocator.stats.all.reserved_bytes.peak
