"""Two recordings of one run in one: what operators returned, and what the allocator of their device did for it.

A recorder of operators knows which operator a tensor came from, what it is for and in which phase it was made; the
allocator knows every block, its rounded size and its segment. Both know the address.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from heapq import merge

from memlint.trace.events import Action, Category, MemoryEvent, Phase, Recording

_Place = tuple[str, "int | None", "int | None"]
"""The device, the address, and the size as requested."""


def joined(operators: Recording, history: Recording) -> Recording:
    """``history``, with what ``operators`` knows of its blocks, and the events of all devices that it is silent about.

    Blocks that no operator returned get the step and the phase of what was recorded last before them.
    """
    devices = set(history.devices())
    told = [event for event in operators.events if event.device in devices]
    others = [event for event in operators.events if event.device not in devices]
    _tell_blocks(history.events, told)
    _tell_rest(history.events, operators.events)
    _tell_frees(history.events)
    baseline = {device: size for device, size in operators.baseline_bytes.items() if device not in devices}
    return replace(
        history,
        events=list(merge(others, history.events, key=_time)),
        baseline_bytes={**baseline, **history.baseline_bytes},
        marks=sorted([*operators.marks, *history.marks], key=lambda mark: mark.start_us),
        overrun={**operators.overrun, **history.overrun},
        notes=[*operators.notes, *history.notes],
    )


def _time(event: MemoryEvent) -> float:
    return event.time_us or 0.0


def _tell_blocks(blocks: Iterable[MemoryEvent], told: Iterable[MemoryEvent]) -> None:
    """Gives each block what is known of the tensor in it.

    Of blocks of one size at one address some may be temporaries of a kernel, which no tensor tells of: then the block
    that is next to the tensor in time counts. The two clocks need not agree, only not to overtake each other.
    """
    tensors = _by_place(told)
    for place, allocations in _by_place(blocks).items():
        inside = tensors.get(place, [])
        at = 0
        for index, tensor in enumerate(inside):
            last = len(allocations) - (len(inside) - index)
            if at > last:
                break
            while at < last and _gap(allocations[at + 1], tensor) <= _gap(allocations[at], tensor):
                at += 1
            _tell(allocations[at], tensor)
            at += 1


def _gap(one: MemoryEvent, other: MemoryEvent) -> float:
    return abs(_time(one) - _time(other))


def _by_place(events: Iterable[MemoryEvent]) -> dict[_Place, list[MemoryEvent]]:
    found: dict[_Place, list[MemoryEvent]] = defaultdict(list)
    for event in events:
        if event.action is Action.ALLOCATE:
            found[event.device, event.address, event.requested_bytes].append(event)
    return found


def _tell(block: MemoryEvent, tensor: MemoryEvent) -> None:
    block.step, block.phase = tensor.step, tensor.phase
    block.category, block.operator, block.records_graph = tensor.category, tensor.operator, tensor.records_graph
    # The thread of the backward pass has no Python frames of its own.
    block.stack = tensor.stack if tensor.stack is not None else block.stack


def _tell_rest(events: Iterable[MemoryEvent], told: Iterable[MemoryEvent]) -> None:
    """Step and phase of the events that have none, from the clock."""
    places = _places(told)
    step, phase, until = next(places)
    for event in events:
        while _time(event) >= until:
            step, phase, until = next(places)
        if event.step is None:
            event.step = step
        if event.phase is None:
            event.phase = phase


def _places(told: Iterable[MemoryEvent]) -> Iterator[tuple[int | None, Phase | None, float]]:
    """Where the program was, and until when."""
    step: int | None = None
    phase: Phase | None = None
    for event in told:
        if (event.step, event.phase) != (step, phase):
            yield step, phase, _time(event)
            step, phase = event.step, event.phase
    yield step, phase, float("inf")


def _tell_frees(events: Iterable[MemoryEvent]) -> None:
    """A block that is given back is what it was."""
    categories: dict[tuple[str, int | None], Category | None] = {}
    for event in events:
        if event.action is Action.ALLOCATE:
            categories[event.device, event.address] = event.category
        elif event.action in (Action.FREE_REQUESTED, Action.FREE):
            event.category = categories.get((event.device, event.address))
