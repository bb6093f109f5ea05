"""The lists of free blocks that the simulated allocator searches, and the blocks in them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from memlint.trace.events import BlockState


@dataclass(slots=True, eq=False)
class AddressSpace:
    """An expandable segment: reserved addresses, of which some pages are backed by memory."""

    address: int
    size: int
    page: int


@dataclass(slots=True, eq=False)
class PoolBlock:
    """A stretch of a segment; ``previous`` and ``next`` are what it was split from or could be merged with."""

    address: int
    size: int
    stream: int
    pool: Pool
    space: AddressSpace | None = None
    requested_size: int = 0
    state: BlockState = BlockState.INACTIVE
    mapped: bool = True
    """False for the part of an expandable segment that no memory backs; true of every other block."""
    previous: PoolBlock | None = None
    next: PoolBlock | None = None
    age_base: int = 0
    """The pool's count of searches when the block became free."""

    @property
    def is_split(self) -> bool:
        """Whether the block is only a part of its segment."""
        return self.previous is not None or self.next is not None

    @property
    def is_free(self) -> bool:
        """Whether nothing uses the block."""
        return self.state is BlockState.INACTIVE

    def link(self, previous: PoolBlock | None, following: PoolBlock | None) -> None:
        """Put the block between two neighbours."""
        self.previous = previous
        self.next = following
        if previous is not None:
            previous.next = self
        if following is not None:
            following.previous = self

    def mappable_size(self) -> int:
        """What the block can grow to within its address space."""
        beyond = self.next
        return self.size + (beyond.size if beyond is not None and not beyond.mapped else 0)


@dataclass(slots=True, eq=False)
class Pool:
    """The free blocks of one pool, for each stream by (size, address), and the unmapped ones by address."""

    is_small: bool
    free: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    unmapped: dict[int, list[int]] = field(default_factory=dict)
    searches: int = 0
    """How often a free block was looked for; the age of a block is counted in searches."""

    def insert(self, block: PoolBlock) -> None:
        """Add a free block."""
        block.age_base = self.searches
        insort(self.free.setdefault(block.stream, []), (block.size, block.address))

    def remove(self, block: PoolBlock) -> None:
        """Take out a free block."""
        blocks = self.free[block.stream]
        del blocks[bisect_left(blocks, (block.size, block.address))]

    def insert_unmapped(self, block: PoolBlock) -> None:
        """Add a block that no memory backs."""
        insort(self.unmapped.setdefault(block.stream, []), block.address)

    def remove_unmapped(self, block: PoolBlock) -> None:
        """Take out a block that no memory backs."""
        blocks = self.unmapped[block.stream]
        del blocks[bisect_left(blocks, block.address)]

    def addresses(self) -> Iterator[int]:
        """Addresses of the free blocks in the allocator's order: by stream, size and address."""
        for stream in sorted(self.free):
            yield from [address for _, address in self.free[stream]]


def free_run(block: PoolBlock | None, enough: int) -> int:
    """Bytes of free or unmapped addresses from ``block`` on, counted until there are ``enough``."""
    size = 0
    while block is not None and block.is_free and size < enough:
        size += block.size
        block = block.next
    return size
