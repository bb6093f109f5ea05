"""Memory over time by purpose, small enough to draw."""

from __future__ import annotations

from dataclasses import dataclass, field

from memlint.trace.events import Action, MemoryEvent, Phase, Recording
from memlint.verify.categories import UNKNOWN, has_phases

POINTS = 3_000
"""More than a screen has columns."""
WORKSPACE = "workspace"
"""What a library has taken for itself, where the recording says so."""


@dataclass
class Timeline:
    """Times are seconds from the first point; sizes are bytes."""

    times: list[float] = field(default_factory=list)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    """By category, one for each time: the largest total of each stretch of time decides which moment is kept."""
    steps: list[tuple[int, float]] = field(default_factory=list)
    """When each step began."""
    phases: list[tuple[Phase, float, float]] = field(default_factory=list)
    """Stretches of time in which one phase was running."""


def timeline(recording: Recording, device: str) -> Timeline:
    """The memory of one device from the first forward on. Events without a time are numbered instead."""
    events = [event for event in recording.of(device) if event.action in (Action.ALLOCATE, Action.FREE)]
    categories = _categories(events)
    names = sorted(set(categories))
    found = Timeline(sizes={name: [] for name in names})
    current = dict.fromkeys(names, 0)
    first = _beginning(recording, events)
    width = max(1, (len(events) - first) // POINTS)
    start = _time(events[first], first) if first < len(events) else 0.0
    best: tuple[int, float, dict[str, int]] | None = None
    for number, event in enumerate(events):
        current[categories[number]] += event.size if event.action is Action.ALLOCATE else -event.size
        if number < first:
            continue
        time = _time(event, number) - start
        _note(found, event, time)
        total = sum(current.values())
        if best is None or total >= best[0]:
            best = total, time, dict(current)
        if (number - first) % width == width - 1 or number == len(events) - 1:
            _keep(found, best[1], best[2])
            best = None
    return found


def _beginning(recording: Recording, events: list[MemoryEvent]) -> int:
    if not has_phases(recording):
        return 0
    return next((number for number, event in enumerate(events) if event.phase is not None), 0)


def _keep(found: Timeline, time: float, sizes: dict[str, int]) -> None:
    found.times.append(time)
    for name, size in sizes.items():
        found.sizes[name].append(max(size, 0))


def _note(found: Timeline, event: MemoryEvent, time: float) -> None:
    if event.step is not None and (not found.steps or found.steps[-1][0] != event.step):
        found.steps.append((event.step, time))
    if event.phase is None:
        return
    last = found.phases[-1] if found.phases else None
    if last is not None and last[0] is event.phase:
        found.phases[-1] = (last[0], last[1], time)
    else:
        found.phases.append((event.phase, time, time))


def _categories(events: list[MemoryEvent]) -> list[str]:
    """What each of ``events`` is about; what is freed is what was allocated at its address."""
    live: dict[int | None, str] = {}
    found = []
    for event in events:
        name = _category(event)
        if event.action is Action.ALLOCATE and event.address is not None:
            live[event.address] = name
        elif event.action is Action.FREE:
            name = live.pop(event.address, name)
        found.append(name)
    return found


def _category(event: MemoryEvent) -> str:
    if event.category is not None:
        return event.category.value
    return WORKSPACE if event.is_workspace else UNKNOWN


def _time(event: MemoryEvent, number: int) -> float:
    return number / 1e6 if event.time_us is None else event.time_us / 1e6
