"""What the live memory of a recording is for."""

from __future__ import annotations

from dataclasses import dataclass, field

from memlint.trace.events import Action, MemoryEvent, Recording

UNKNOWN = "unknown"


def peak_categories(recording: Recording, device: str) -> dict[str, int]:
    """Bytes of each category at the moment when most was allocated."""
    current = _Categories()
    for block in recording.baseline:
        if block.device == device:
            current.allocate(block)
    current.add(UNKNOWN, max(0, recording.baseline_bytes.get(device, 0) - current.total))
    at_peak: dict[str, int] = {}
    most = 0
    is_running = not has_phases(recording)
    for event in recording.of(device):
        if event.action is Action.ALLOCATE:
            current.allocate(event)
        elif event.action is Action.FREE:
            current.free(event)
        is_running = is_running or event.phase is not None
        if is_running and current.total > most:
            most, at_peak = current.total, dict(current.sizes)
    return {name: size for name, size in sorted(at_peak.items()) if size > 0}


@dataclass
class _Categories:
    """What is live, by purpose."""

    sizes: dict[str, int] = field(default_factory=dict)
    total: int = 0
    _live: dict[int, MemoryEvent] = field(default_factory=dict)

    def allocate(self, event: MemoryEvent) -> None:
        if event.address is not None:
            if event.address in self._live:
                # An address is not handed out twice: its free was not recorded.
                self.free(event)
            self._live[event.address] = event
        self.add(_name(event), event.size)

    def free(self, event: MemoryEvent) -> None:
        allocation = event if event.address is None else self._live.pop(event.address, event)
        self.add(_name(allocation), -allocation.size)

    def add(self, name: str, size: int) -> None:
        self.sizes[name] = self.sizes.get(name, 0) + size
        self.total += size


def _name(event: MemoryEvent) -> str:
    return event.category.value if event.category is not None else UNKNOWN


def has_phases(recording: Recording) -> bool:
    """Whether the recording tells a forward pass from what comes before it, such as making the data set."""
    return any(event.phase is not None for event in recording.kinds())
