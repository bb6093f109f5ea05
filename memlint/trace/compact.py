"""Events in columns: a history of millions of them in a few dozen bytes each."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace

from memlint.trace.events import MemoryEvent

_ABSENT = -1
"""In the columns of integers: None. Sizes and addresses are never negative."""


class CompactEvents:
    """A list of events, for as much of a list's ways as readers of recordings need.

    An event that is taken out is a copy. What is changed in it is kept by :meth:`edited` only: sizes, and what labels
    say (step, phase, category).
    """

    def __init__(self, events: Iterable[MemoryEvent] = ()) -> None:
        self._addresses = array("q")
        self._requested = array("q")
        self._blocks = array("q")
        self._times = array("d")
        self._kind_numbers = array("L")
        self._kinds: list[MemoryEvent] = []
        """Events without address, sizes and time: what most events share with thousands of others."""
        self._numbers: dict[tuple[object, ...], int] = {}
        self.extend(events)

    def append(self, event: MemoryEvent) -> None:
        """Add a copy of ``event`` at the end. Totals of the allocator are not kept."""
        self._addresses.append(_number(event.address))
        self._requested.append(_number(event.requested_bytes))
        self._blocks.append(_number(event.block_bytes))
        self._times.append(math.nan if event.time_us is None else event.time_us)
        self._kind_numbers.append(self._kind_number(event))

    def extend(self, events: Iterable[MemoryEvent]) -> None:
        """Add copies of all."""
        for event in events:
            self.append(event)

    def __len__(self) -> int:
        return len(self._kind_numbers)

    def __iter__(self) -> Iterator[MemoryEvent]:
        kinds = self._kinds
        columns = zip(self._kind_numbers, self._addresses, self._requested, self._blocks, self._times, strict=True)
        for number, address, requested, block, time in columns:
            yield _event(kinds[number], address, requested, block, time)

    def __getitem__(self, index: int) -> MemoryEvent:
        return _event(
            self._kinds[self._kind_numbers[index]],
            self._addresses[index],
            self._requested[index],
            self._blocks[index],
            self._times[index],
        )

    def edited(self) -> Iterator[MemoryEvent]:
        """Each event in turn; what has been changed in it when the next one is asked for is kept."""
        numbers, blocks, requested = self._kind_numbers, self._blocks, self._requested
        for index, event in enumerate(self):
            kind = self._kinds[numbers[index]]
            yield event
            requested[index] = _number(event.requested_bytes)
            blocks[index] = _number(event.block_bytes)
            if event.step != kind.step or event.phase is not kind.phase or event.category is not kind.category:
                numbers[index] = self._kind_number(event)

    def move(self, device: str) -> None:
        """Say which device all of the events belong to."""
        for kind in self._kinds:
            kind.device = device
        self._numbers = {_key(kind): number for number, kind in enumerate(self._kinds)}

    def kinds(self) -> Iterator[MemoryEvent]:
        """One event for all that differ in nothing but address, sizes and time, which it lacks."""
        return iter(self._kinds)

    def _kind_number(self, event: MemoryEvent) -> int:
        key = _key(event)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._kinds)
            self._kinds.append(
                replace(
                    event,
                    address=None,
                    requested_bytes=None,
                    block_bytes=None,
                    time_us=None,
                    total_allocated=None,
                    total_reserved=None,
                )
            )
        return number


def _key(event: MemoryEvent) -> tuple[object, ...]:
    # Members of enumerations and stacks are told apart by what they are, which is quicker than by what they say.
    return (
        id(event.action),
        event.device,
        event.stream,
        id(event.stack),
        event.step,
        id(event.phase),
        id(event.category),
        event.operator,
        event.records_graph,
    )


def _event(kind: MemoryEvent, address: int, requested: int, block: int, time: float) -> MemoryEvent:
    return MemoryEvent(
        kind.action,
        kind.device,
        None if address == _ABSENT else address,
        None if requested == _ABSENT else requested,
        None if block == _ABSENT else block,
        None if time != time else time,  # noqa: PLR0124 - only NaN is unequal to itself
        kind.stream,
        kind.stack,
        kind.step,
        kind.phase,
        kind.category,
        kind.operator,
        kind.records_graph,
    )


def _number(value: int | None) -> int:
    return _ABSENT if value is None else value


def edited(events: list[MemoryEvent] | CompactEvents) -> Iterator[MemoryEvent]:
    """Each event in turn, to be changed in place."""
    return events.edited() if isinstance(events, CompactEvents) else iter(events)
