"""A recording's requests, given to the simulated allocator.

Answers what another setting, another size of device or another kind of device would have made of the same program:
a CPU recording holds requested sizes only, and this turns them into what CUDA would allocate and reserve.
"""

from __future__ import annotations

from collections.abc import Iterable

from memlint.trace.allocator import CachingAllocator
from memlint.trace.events import Action, MemoryEvent


class Replay:
    """Feeds events of one device to an allocator and knows which simulated block stands for which recorded one."""

    def __init__(self, allocator: CachingAllocator) -> None:
        self.allocator = allocator
        self._blocks: dict[int, int] = {}
        """Simulated addresses by recorded address."""
        self._requested: set[int] = set()
        self._was_segment_free = False

    def run(self, events: Iterable[MemoryEvent]) -> None:
        """Replay events that happened one after the other. Raises :class:`~memlint.trace.allocator.OutOfMemory`.

        Frees of blocks that were never allocated here are passed over, and so are events without an address.
        """
        for event in events:
            self.step(event)

    def step(self, event: MemoryEvent) -> int | None:
        """Replay one event; for an allocation, return the simulated address."""
        releases = event.action is Action.SEGMENT_FREE
        if releases and not self._was_segment_free:
            # Segments go one by one, but together: either the program emptied the cache or the allocator made room.
            self.allocator.empty_cache()
        self._was_segment_free = releases
        address = event.address
        if address is None:
            return None
        match event.action:
            case Action.ALLOCATE:
                return self._allocate(event, address)
            case Action.FREE_REQUESTED if address in self._blocks:
                self.allocator.request_free(self._blocks[address])
                self._requested.add(address)
            case Action.FREE if address in self._blocks:
                self._free(address)
        return None

    def adopt(self, blocks: Iterable[MemoryEvent]) -> None:
        """Take these blocks for those that the allocator holds at the same addresses (after ``restore``)."""
        self._blocks.update({block.address: block.address for block in blocks if block.address is not None})

    def _allocate(self, event: MemoryEvent, address: int) -> int:
        if address in self._blocks:
            # Its free was not recorded.
            self._free(address)
        size = event.requested_bytes if event.requested_bytes is not None else event.size
        simulated = self._blocks[address] = self.allocator.malloc(size, event.stream)
        return simulated

    def _free(self, address: int) -> None:
        simulated = self._blocks.pop(address)
        if address not in self._requested:
            self.allocator.request_free(simulated)
        self._requested.discard(address)
        self.allocator.complete_free(simulated)
