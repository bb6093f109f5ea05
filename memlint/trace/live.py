"""What is live after each event, and how much of it there is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from memlint.trace.events import Action, MemoryEvent, Recording


@dataclass(slots=True)
class Level:
    """An amount of memory over time, in bytes."""

    current: int = 0
    peak: int = 0
    peak_event: int = -1
    """The number of the event that reached the peak, counted from 0; -1 if it was there from the start."""

    def change(self, amount: int, event: int) -> None:
        """Add ``amount``, which may be negative."""
        self.current += amount
        if self.current > self.peak:
            self.peak = self.current
            self.peak_event = event


@dataclass(slots=True)
class LiveMemory:
    """The live blocks of one device while its events are applied one after the other."""

    blocks: dict[int, MemoryEvent] = field(default_factory=dict)
    """The allocations of the active blocks, by address."""
    requested: Level = field(default_factory=Level)
    """What the program asked for and has not yet been freed; the sum that PyTorch's memory viewer plots."""
    allocated: Level = field(default_factory=Level)
    """Blocks that the program holds, as ``torch.cuda.memory_allocated`` counts them."""
    active: Level = field(default_factory=Level)
    """The same, and blocks that were given back while another stream was using them."""
    reserved: Level = field(default_factory=Level)
    """Segments, as ``torch.cuda.memory_reserved`` counts them; 0 where no segments are recorded."""
    unmatched_frees: int = 0
    """Frees of blocks that were not live."""
    _count: int = 0
    _requested_frees: dict[int, int] = field(default_factory=dict)
    """Bytes of the blocks whose free was requested and has not completed, by address."""

    @classmethod
    def before(cls, recording: Recording, device: str) -> LiveMemory:
        """The state before the first event of a recording."""
        live = cls()
        for block in recording.baseline:
            if block.device == device:
                live._allocate(block)
        reserved = sum(segment.total_size for segment in recording.initial_segments if segment.device == device)
        live.reserved.change(reserved, -1)
        # Bytes that the recording counts without naming the blocks.
        unnamed = recording.baseline_bytes.get(device, live.allocated.current) - live.allocated.current
        for level in (live.requested, live.allocated, live.active):
            level.change(unnamed, -1)
            level.peak_event = -1
        return live

    def run(self, events: Iterable[MemoryEvent]) -> LiveMemory:
        """Apply events of this device and return the state."""
        for event in events:
            self.apply(event)
        return self

    def apply(self, event: MemoryEvent) -> None:
        """Apply the device's next event."""
        match event.action:
            case Action.ALLOCATE:
                self._allocate(event)
            case Action.FREE_REQUESTED:
                self._request_free(event)
            case Action.FREE:
                self._free(event)
            case Action.SEGMENT_ALLOCATE | Action.SEGMENT_MAP:
                self.reserved.change(event.size, self._count)
            case Action.SEGMENT_FREE | Action.SEGMENT_UNMAP:
                self.reserved.change(-event.size, self._count)
        self._count += 1

    def _allocate(self, event: MemoryEvent) -> None:
        if event.address is not None:
            older = self.blocks.get(event.address)
            if older is not None:
                # An address is not handed out twice: its free was not recorded.
                self._free(older)
            self.blocks[event.address] = event
        self._change(_requested(event), event.size, event.size)

    def _request_free(self, event: MemoryEvent) -> None:
        if event.address is not None:
            self._requested_frees[event.address] = event.size
        self._change(0, -event.size, 0)

    def _free(self, event: MemoryEvent) -> None:
        known = None if event.address is None else self.blocks.pop(event.address, None)
        if known is None and event.address is not None:
            self.unmatched_frees += 1
        was_requested = event.address is not None and self._requested_frees.pop(event.address, None) is not None
        self._change(-_requested(event), 0 if was_requested else -event.size, -event.size)

    def _change(self, requested: int, allocated: int, active: int) -> None:
        self.requested.change(requested, self._count)
        self.allocated.change(allocated, self._count)
        self.active.change(active, self._count)


def _requested(event: MemoryEvent) -> int:
    return event.size if event.requested_bytes is None else event.requested_bytes


def measure(recording: Recording, device: str) -> LiveMemory:
    """The state after the last event of a device, with the peaks of the whole recording."""
    return LiveMemory.before(recording, device).run(recording.of(device))
