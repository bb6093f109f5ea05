"""Where blocks lie: block sizes and earlier segments, worked out from a snapshot that records only what was requested.

A trace entry carries the *requested* size. What the block really takes depends on the free block that it was cut
from: the allocator gives all of it away where cutting would leave too little. Since free neighbours are always merged,
that free block is the gap between the live blocks around it, so that following the live blocks is enough.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from memlint.trace.allocator_settings import LARGE_BUFFER, SMALL_BUFFER, AllocatorSettings
from memlint.trace.compact import CompactEvents, edited
from memlint.trace.events import Action, Block, BlockState, MemoryEvent, Segment

Events = list[MemoryEvent] | CompactEvents

_SEGMENT_ACTIONS = frozenset({Action.SEGMENT_ALLOCATE, Action.SEGMENT_MAP, Action.SEGMENT_FREE, Action.SEGMENT_UNMAP})


class AddressMap:
    """The segments of one device and the live blocks in them, as they change from event to event."""

    def __init__(self, settings: AllocatorSettings) -> None:
        self._settings = settings
        self._starts: list[int] = []
        self._segments: dict[int, Segment] = {}
        """The segments by address; their lists of blocks stay empty."""
        self._live: list[int] = []
        self._sizes: dict[int, int] = {}

    def add_segment(self, segment: Segment) -> None:
        """A segment appears; mapped memory joins the expandable segment that it touches."""
        start, size = segment.address, segment.total_size
        if segment.is_expandable:
            start, size = self._joined(segment)
        if start in self._segments:
            # The end of what was there has not been recorded.
            self._remove(start)
        insort(self._starts, start)
        self._segments[start] = Segment(
            segment.device, start, size, segment.stream, segment.is_small, segment.is_expandable, [], segment.stack
        )

    def _joined(self, segment: Segment) -> tuple[int, int]:
        start, end = segment.address, segment.address + segment.total_size
        before = self._segment_at(start - 1)
        if before is not None and _continues(before, segment):
            start = before.address
            self._remove(before.address)
        after = self._segments.get(end)
        if after is not None and _continues(after, segment):
            end += after.total_size
            self._remove(after.address)
        return start, end - start

    def remove_segment(self, address: int, size: int) -> Segment | None:
        """A segment, or a part of an expandable one, disappears; the segment that it belonged to, if it was known."""
        segment = self._segment_at(address)
        if segment is None:
            return None
        self._remove(segment.address)
        end = segment.address + segment.total_size
        for start, stop in ((segment.address, address), (address + size, end)):
            if start < stop and segment.is_expandable:
                self.add_segment(
                    Segment(
                        segment.device, start, stop - start, segment.stream, segment.is_small, True, [], segment.stack
                    )
                )
        return segment

    def _remove(self, address: int) -> None:
        del self._starts[bisect_left(self._starts, address)]
        del self._segments[address]

    def _segment_at(self, address: int) -> Segment | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        segment = self._segments[self._starts[index]]
        return segment if address < segment.address + segment.total_size else None

    def allocate(self, address: int, requested: int) -> int:
        """A block of ``requested`` bytes is handed out at ``address``; return the bytes that it takes."""
        size = self._settings.round_size(requested)
        segment = self._segment_at(address)
        if segment is not None:
            index = bisect_right(self._live, address)
            end = segment.address + segment.total_size
            if index < len(self._live):
                end = min(end, self._live[index])
            if not self._settings.splits(end - address, size, small=segment.is_small):
                size = end - address
        self.occupy(address, size)
        return size

    def occupy(self, address: int, size: int) -> None:
        """A block of this size is live at ``address``."""
        if address not in self._sizes:
            insort(self._live, address)
        self._sizes[address] = size

    def block_size(self, address: int) -> int | None:
        """Bytes of the block that is live at ``address``; None where there is none."""
        return self._sizes.get(address)

    def free(self, address: int) -> int | None:
        """The block at ``address`` is no longer live; return its bytes, or None where there is none."""
        size = self._sizes.pop(address, None)
        if size is not None:
            del self._live[bisect_left(self._live, address)]
        return size

    def segments(self) -> list[Segment]:
        """The segments, by address, with no blocks in them."""
        return [self._segments[start] for start in self._starts]


def _continues(segment: Segment, other: Segment) -> bool:
    return segment.is_expandable and segment.stream == other.stream


def segment_of_event(event: MemoryEvent) -> Segment:
    """The segment that a segment event speaks of, without blocks.

    The event does not name the pool. Ordinary segments of the small pool are the only ones of 2 MiB; expandable ones
    of the large pool are mapped in pages of 20 MiB.
    """
    size = event.block_bytes or 0
    expandable = event.action in (Action.SEGMENT_MAP, Action.SEGMENT_UNMAP)
    small = size % LARGE_BUFFER != 0 if expandable else size <= SMALL_BUFFER
    return Segment(event.device, event.address or 0, size, event.stream, small, expandable, [], event.stack)


def segments_before(events: Events, final: Iterable[Segment], settings: AllocatorSettings) -> list[Segment]:
    """The segments of one device before the first of ``events``, given those after the last; without their blocks."""
    space = AddressMap(settings)
    for segment in final:
        space.add_segment(segment)
    for event in reversed([event for event in events if event.action in _SEGMENT_ACTIONS]):
        if event.action in (Action.SEGMENT_ALLOCATE, Action.SEGMENT_MAP):
            space.remove_segment(event.address or 0, event.block_bytes or 0)
        elif event.action in (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP):
            space.add_segment(segment_of_event(event))
    return space.segments()


def assign_block_sizes(
    events: Events, before: Iterable[Segment], baseline: Iterable[MemoryEvent], settings: AllocatorSettings
) -> None:
    """Set ``block_bytes`` of one device's allocations and frees, given what was there before the first of them."""
    space = AddressMap(settings)
    for segment in before:
        space.add_segment(segment)
    for event in baseline:
        if event.address is not None:
            space.occupy(event.address, event.size)
    for event in edited(events):
        if event.address is not None:
            _follow(space, event, event.address)


def _follow(space: AddressMap, event: MemoryEvent, address: int) -> None:
    match event.action:
        case Action.ALLOCATE:
            event.block_bytes = space.allocate(address, event.requested_bytes or 0)
        case Action.FREE_REQUESTED:
            event.block_bytes = space.block_size(address)
        case Action.FREE:
            event.block_bytes = space.free(address)
        case Action.SEGMENT_ALLOCATE | Action.SEGMENT_MAP:
            space.add_segment(segment_of_event(event))
        case Action.SEGMENT_FREE | Action.SEGMENT_UNMAP:
            space.remove_segment(address, event.block_bytes or 0)


def fill_segments(segments: list[Segment], live: Iterable[MemoryEvent]) -> None:
    """Put ``live`` blocks, and free ones between them, into segments that have no blocks yet."""
    blocks = sorted(live, key=lambda event: event.address or 0)
    addresses = [event.address or 0 for event in blocks]
    for segment in segments:
        end = segment.address + segment.total_size
        inside = blocks[bisect_left(addresses, segment.address) : bisect_left(addresses, end)]
        segment.blocks = list(_with_gaps(segment, inside))


def _with_gaps(segment: Segment, live: Iterable[MemoryEvent]) -> Iterable[Block]:
    position = segment.address
    for event in live:
        address = event.address or 0
        if address < position:
            # The free of what lies here was not recorded.
            continue
        if address > position:
            yield Block(position, address - position, 0, BlockState.INACTIVE)
        yield Block(address, event.size, event.requested_bytes or 0, BlockState.ALLOCATED, event.stack)
        position = address + event.size
    end = segment.address + segment.total_size
    if position < end:
        yield Block(position, end - position, 0, BlockState.INACTIVE)
