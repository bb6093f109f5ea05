"""The CUDA caching allocator, simulated: requested sizes in, allocated and reserved bytes out.

It follows ``c10/cuda/CUDACachingAllocator.cpp`` of PyTorch (commit 001074d2) function by function: best fit within the
pool and stream, splitting, merging, segment sizes, expandable segments, garbage collection, release and retry. Fed
the requests of a recording that begins with an empty allocator, it hands out the same blocks in the same segments.

Left out: private pools (CUDA graphs, ``torch.cuda.MemPool``), the ``cudaMallocAsync`` backend, and whatever the driver
itself takes. Blocks that another stream still uses come back when :meth:`CachingAllocator.complete_free` says so,
since no simulation knows when a kernel ends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from memlint.trace.allocator_pools import AddressSpace, Pool, PoolBlock, free_run
from memlint.trace.allocator_settings import LARGE_BUFFER, SMALL_BUFFER, AllocatorSettings, is_small, round_up
from memlint.trace.allocator_stats import AllocatorStats
from memlint.trace.events import Action, Block, BlockState, Segment

_FIRST_ADDRESS = 0x7F00_0000_0000
"""Where made-up addresses begin; any multiple of 2 MiB would do."""
_UNLIMITED = 1 << 44
"""The device that address space is reserved for where no capacity is given: 16 TiB."""


class OutOfMemory(Exception):
    """The device cannot hold a segment of ``segment`` bytes, wanted for a request of ``requested`` bytes."""

    def __init__(self, requested: int, segment: int, free: int) -> None:
        super().__init__(f"out of memory: {requested} bytes requested, {segment} needed, {free} free on the device")
        self.requested = requested
        self.segment = segment
        self.free = free


class CachingAllocator:
    """One device's allocator.

    ``capacity`` is what the device can give, in bytes (None: any amount); ``limit`` is what
    ``torch.cuda.set_per_process_memory_fraction`` leaves to the process. ``place`` is called with the size of each new
    segment and returns its address; equal blocks are handed out by address, so that a simulation which is to repeat a
    recording needs the recorded ones. ``observe`` is told of every segment that comes and goes.
    """

    def __init__(
        self,
        settings: AllocatorSettings | None = None,
        *,
        capacity: int | None = None,
        limit: int | None = None,
        place: Callable[[int], int] | None = None,
        observe: Callable[[Action, int, int], None] | None = None,
    ) -> None:
        self.settings = settings or AllocatorSettings()
        self.capacity = capacity
        self.limit = limit
        self.stats = AllocatorStats()
        self._place = place or self._next_address
        self._observe = observe or _ignore
        self._unused_address = _FIRST_ADDRESS
        self._small = Pool(is_small=True)
        self._large = Pool(is_small=False)
        self._blocks: dict[int, PoolBlock] = {}
        """Every block, mapped or not, by address."""
        self._pending: dict[int, PoolBlock] = {}
        """The blocks that the program gave back while another stream was using them."""

    # What a program does

    def malloc(self, requested: int, stream: int = 0) -> int:
        """Hand out a block for ``requested`` bytes and return its address. Raises :class:`OutOfMemory`."""
        size = self.settings.round_size(requested)
        pool = self._small if is_small(size) else self._large
        block = self._find_free(pool, size, stream) or self._obtain(pool, size, stream, requested)
        return self._hand_out(block, size, requested).address

    def free(self, address: int) -> None:
        """Take back a block that no other stream uses. Raises :class:`KeyError` where none was handed out."""
        self.request_free(address)
        self.complete_free(address)

    def request_free(self, address: int) -> None:
        """The program gives a block back; it stays active until :meth:`complete_free`."""
        block = self._blocks[address]
        if block.state is not BlockState.ALLOCATED:
            raise KeyError(address)
        block.state = BlockState.PENDING_FREE
        self._pending[address] = block
        for stats in self.stats.pools(small=block.pool.is_small):
            stats.allocation.add(-1)
            stats.allocated_bytes.add(-block.size)

    def complete_free(self, address: int) -> bool:
        """The last stream is done with a block that was given back: it is merged and can be handed out again.

        False where the block came back earlier, because the allocator waited for all streams to make room.
        """
        block = self._pending.pop(address, None)
        if block is not None:
            self._retire(block)
        return block is not None

    def empty_cache(self) -> None:
        """Wait for all streams and return every segment that is wholly free, as ``torch.cuda.empty_cache()`` does."""
        for address in list(self._pending):
            self.complete_free(address)
        for pool in (self._large, self._small):
            for block in [self._blocks[address] for address in pool.addresses()]:
                if block.space is not None:
                    self._unmap(block)
                elif not block.is_split:
                    self._release(block)

    # What can be seen

    @property
    def reserved(self) -> int:
        """Bytes got from the device and not returned."""
        return self.stats.all.reserved_bytes.current

    def is_live(self, address: int) -> bool:
        """Whether a block that is in use begins at ``address``."""
        block = self._blocks.get(address)
        return block is not None and not block.is_free

    def block_size(self, address: int) -> int:
        """Bytes of the block that begins at ``address``."""
        return self._blocks[address].size

    def segments(self, device: str = "cuda:0") -> list[Segment]:
        """The segments with their blocks, by address; what a snapshot would hold."""
        found: list[Segment] = []
        for address in sorted(self._blocks):
            head = self._blocks[address]
            if head.mapped and (head.previous is None or not head.previous.mapped):
                found.append(_segment(head, device))
        return found

    def restore(self, segments: Iterable[Segment]) -> None:
        """Begin with these segments, which do not overlap, instead of an empty allocator.

        An expandable segment is taken to have as much address space behind it as a new one would.
        """
        groups: dict[object, list[Segment]] = {}
        for segment in sorted(segments, key=lambda segment: segment.address):
            # A snapshot shows every mapped part of an expandable segment as a segment of its own.
            key = (segment.stream, segment.is_small) if segment.is_expandable else segment.address
            groups.setdefault(key, []).append(segment)
        for group in groups.values():
            self._restore(group)

    # Finding a block

    def _find_free(self, pool: Pool, size: int, stream: int) -> PoolBlock | None:
        if self._collects_garbage:
            pool.searches += 1
        candidates = pool.free.get(stream, [])
        index = bisect_left(candidates, (size, 0))
        if index < len(candidates) and self._blocks[candidates[index][1]].space is not None:
            index = self._best_expandable(candidates, index)
        if index >= len(candidates):
            return None
        found = candidates[index][0]
        if self.settings.is_oversize(found) and not self.settings.is_oversize(size):
            return None
        if self.settings.is_oversize(size) and found >= size + self.settings.max_non_split_rounding_size:
            return None
        block = self._blocks[candidates[index][1]]
        del candidates[index]
        return block

    def _best_expandable(self, candidates: list[tuple[int, int]], index: int) -> int:
        """For the best fit, a block at the end of an expandable segment is as large as it can grow to."""
        if not self.settings.expandable_segments:
            # The option was turned off meanwhile: only blocks of ordinary segments may be used.
            while index < len(candidates) and self._blocks[candidates[index][1]].space is not None:
                index += 1
            return index
        while index + 1 < len(candidates):
            block, following = (self._blocks[address] for _, address in candidates[index : index + 2])
            if block.space is None or following.mappable_size() >= block.mappable_size():
                break
            index += 1
        return index

    def _obtain(self, pool: Pool, size: int, stream: int, requested: int) -> PoolBlock:
        """Get a new segment, giving cached ones back where the device is full."""
        if self._collects_garbage:
            self._collect_garbage()
        block = self._reserve(pool, size, stream)
        if block is None and self._release_oversize(pool, size, stream):
            block = self._reserve(pool, size, stream)
        if block is None:
            self.empty_cache()
            self.stats.num_alloc_retries += 1
            block = self._reserve(pool, size, stream)
        if block is None:
            self.stats.num_ooms += 1
            free = self.capacity - self.reserved if self.capacity is not None else 0
            raise OutOfMemory(requested, self.settings.segment_size(size), free)
        return block

    def _reserve(self, pool: Pool, size: int, stream: int) -> PoolBlock | None:
        segment = self.settings.segment_size(size)
        if self.limit is not None and self.reserved + segment > self.limit:
            return None
        if self.settings.expandable_segments:
            return self._reserve_expandable(pool, size, stream)
        if not self._has_room(segment):
            return None
        block = PoolBlock(self._place(segment), segment, stream, pool)
        self._blocks[block.address] = block
        for stats in self.stats.pools(small=pool.is_small):
            stats.segment.add(1)
            stats.reserved_bytes.add(segment)
        self.stats.num_device_alloc += 1
        self._observe(Action.SEGMENT_ALLOCATE, block.address, segment)
        return block

    def _has_room(self, size: int) -> bool:
        return self.capacity is None or self.reserved + size <= self.capacity

    def _next_address(self, size: int) -> int:
        address = self._unused_address
        self._unused_address += round_up(size, SMALL_BUFFER)
        return address

    # Handing out and taking back

    def _hand_out(self, block: PoolBlock, size: int, requested: int) -> PoolBlock:
        """Cut ``size`` bytes off a free block that is in no list any more, or use all of it."""
        pool = block.pool
        was_split = block.is_split
        counts_inactive = block.space is None
        if self.settings.splits(block.size, size, small=pool.is_small):
            rest = self._split(block, size)
            inactive = -size if was_split else rest.size
            inactive_blocks = 0 if was_split else 1
        else:
            inactive = -block.size if was_split else 0
            inactive_blocks = -1 if was_split else 0
        block.state = BlockState.ALLOCATED
        block.requested_size = requested
        for stats in self.stats.pools(small=pool.is_small):
            stats.allocation.add(1)
            stats.allocated_bytes.add(block.size)
            stats.active.add(1)
            stats.active_bytes.add(block.size)
            stats.requested_bytes.add(requested)
            if counts_inactive:
                stats.inactive_split.add(inactive_blocks)
                stats.inactive_split_bytes.add(inactive)
        return block

    def _split(self, block: PoolBlock, size: int) -> PoolBlock:
        """Shorten a block to ``size`` bytes; the rest becomes a free block of its own."""
        rest = PoolBlock(block.address + size, block.size - size, block.stream, block.pool, block.space)
        rest.link(block, block.next)
        block.size = size
        self._blocks[rest.address] = rest
        rest.pool.insert(rest)
        return rest

    def _retire(self, block: PoolBlock) -> None:
        size, requested = block.size, block.requested_size
        block.state = BlockState.INACTIVE
        inactive = inactive_blocks = 0
        for neighbour in (block.previous, block.next):
            merged = self._merge(block, neighbour)
            inactive -= merged
            inactive_blocks -= 1 if merged else 0
        block.pool.insert(block)
        if block.is_split:
            inactive += block.size
            inactive_blocks += 1
        for stats in self.stats.pools(small=block.pool.is_small):
            stats.active.add(-1)
            stats.active_bytes.add(-size)
            stats.requested_bytes.add(-requested)
            if block.space is None:
                stats.inactive_split.add(inactive_blocks)
                stats.inactive_split_bytes.add(inactive)

    def _merge(self, block: PoolBlock, neighbour: PoolBlock | None) -> int:
        """Let ``block`` swallow a free neighbour of the same kind; return the bytes gained."""
        if neighbour is None or not neighbour.is_free or neighbour.mapped is not block.mapped:
            return 0
        if neighbour.mapped:
            block.pool.remove(neighbour)
        else:
            block.pool.remove_unmapped(neighbour)
        del self._blocks[neighbour.address]
        if neighbour is block.previous:
            del self._blocks[block.address]
            block.address = neighbour.address
            block.link(neighbour.previous, block.next)
            self._blocks[block.address] = block
        else:
            block.link(block.previous, neighbour.next)
        block.size += neighbour.size
        return neighbour.size

    # Giving memory back to the device

    def _release(self, block: PoolBlock) -> None:
        """Return a whole segment of the ordinary kind."""
        block.pool.remove(block)
        del self._blocks[block.address]
        for stats in self.stats.pools(small=block.pool.is_small):
            stats.segment.add(-1)
            stats.reserved_bytes.add(-block.size)
        self.stats.num_device_free += 1
        self._observe(Action.SEGMENT_FREE, block.address, block.size)

    def _release_oversize(self, pool: Pool, size: int, stream: int) -> bool:
        """Return just enough of the blocks that must not be split, so that ``size`` bytes can be reserved."""
        if self.settings.max_split_size is None:
            return False
        wanted = max(size, self.settings.max_split_size)
        candidates = pool.free.get(stream, [])
        index = bisect_left(candidates, (wanted, 0))
        if index < len(candidates):
            self._release(self._blocks[candidates[index][1]])
            return True
        released = 0
        while candidates and released < wanted and self.settings.is_oversize(candidates[-1][0]):
            released += candidates[-1][0]
            self._release(self._blocks[candidates[-1][1]])
        return released >= wanted

    @property
    def _collects_garbage(self) -> bool:
        return self.limit is not None and self.settings.garbage_collection_threshold > 0.0

    def _collect_garbage(self) -> None:
        """Return cached segments of the large pool, the long unused ones first, until under the threshold."""
        assert self.limit is not None
        target = self.reserved - int(self.settings.garbage_collection_threshold * self.limit)
        if target <= 0:
            return
        pool = self._large
        old = [block for block in map(self._blocks.__getitem__, pool.addresses()) if not block.is_split]
        total_age = sum(pool.searches - block.age_base for block in old)
        reclaimed = 0
        while old and reclaimed < target:
            # As in PyTorch, the age above which blocks go is that of the round's beginning, and the target is not
            # looked at within a round, so that collections stay rare.
            threshold = total_age / len(old)
            kept: list[PoolBlock] = []
            for block in old:
                age = pool.searches - block.age_base
                if age < threshold or block.space is not None:
                    kept.append(block)
                    continue
                total_age -= age
                reclaimed += block.size
                self._release(block)
            if len(kept) == len(old):
                return
            old = kept

    # Expandable segments

    def _reserve_expandable(self, pool: Pool, size: int, stream: int) -> PoolBlock | None:
        block = self._expandable_candidate(pool, size, stream)
        if not block.mapped and not self._map(block, min(block.size, size)):
            return None
        while block.size < size:
            beyond = block.next
            assert beyond is not None
            if not self._map(beyond, min(size - block.size, beyond.size)):
                return None
            block = beyond
        pool.remove(block)
        return block

    def _expandable_candidate(self, pool: Pool, size: int, stream: int) -> PoolBlock:
        """The lowest place with ``size`` bytes of free or unmapped addresses; a new address space if there is none."""
        for address in pool.unmapped.get(stream, []):
            block = self._blocks[address]
            if block.previous is not None and block.previous.is_free:
                block = block.previous
            if free_run(block, size) >= size:
                return block
        return self._new_address_space(pool, stream)

    def _new_address_space(self, pool: Pool, stream: int) -> PoolBlock:
        space = self._address_space(pool)
        block = PoolBlock(space.address, space.size, stream, pool, space, mapped=False)
        self._blocks[block.address] = block
        pool.insert_unmapped(block)
        return block

    def _address_space(self, pool: Pool, address: int | None = None) -> AddressSpace:
        page = SMALL_BUFFER if pool.is_small else LARGE_BUFFER
        capacity = self.capacity or _UNLIMITED
        # 1 1/8 of the device, so that pages which were unmapped at the beginning can be had again at the end.
        size = round_up(capacity + capacity // 8, page)
        return AddressSpace(self._place(size) if address is None else address, size, page)

    def _map(self, block: PoolBlock, size: int) -> bool:
        """Back the beginning of an unmapped block with memory and merge it with its free neighbours."""
        space = block.space
        assert space is not None
        mapped = round_up(size, space.page)
        if not self._has_room(mapped):
            return False
        pool = block.pool
        pool.remove_unmapped(block)
        block.mapped = True
        if mapped < block.size:
            rest = PoolBlock(block.address + mapped, block.size - mapped, block.stream, pool, space, mapped=False)
            rest.link(block, block.next)
            block.size = mapped
            self._blocks[rest.address] = rest
            pool.insert_unmapped(rest)
        self._count_pages(pool, mapped)
        self._observe(Action.SEGMENT_MAP, block.address, mapped)
        self._merge(block, block.previous)
        self._merge(block, block.next)
        pool.insert(block)
        return True

    def _unmap(self, block: PoolBlock) -> None:
        """Return the pages that lie wholly inside a free block; the address space stays."""
        space = block.space
        assert space is not None
        start = space.address + round_up(block.address - space.address, space.page)
        end = block.address + block.size
        end -= (end - space.address) % space.page
        if start >= end:
            return
        pool = block.pool
        pool.remove(block)
        if start > block.address:
            self._cut_front(block, start)
        if end < block.address + block.size:
            self._cut_back(block, end)
        block.mapped = False
        self._count_pages(pool, -(end - start))
        self._observe(Action.SEGMENT_UNMAP, start, end - start)
        self._merge(block, block.previous)
        self._merge(block, block.next)
        if block.is_split:
            pool.insert_unmapped(block)
        else:
            del self._blocks[block.address]

    def _cut_front(self, block: PoolBlock, address: int) -> None:
        """Leave what lies before ``address`` as a free block of its own."""
        front = PoolBlock(block.address, address - block.address, block.stream, block.pool, block.space)
        front.link(block.previous, block)
        self._blocks[front.address] = front
        block.pool.insert(front)
        block.size -= front.size
        block.address = address
        self._blocks[address] = block

    def _cut_back(self, block: PoolBlock, address: int) -> None:
        """Leave what lies behind ``address`` as a free block of its own."""
        back = PoolBlock(address, block.address + block.size - address, block.stream, block.pool, block.space)
        back.link(block, block.next)
        self._blocks[address] = back
        block.pool.insert(back)
        block.size -= back.size

    def _count_pages(self, pool: Pool, size: int) -> None:
        for stats in self.stats.pools(small=pool.is_small):
            stats.reserved_bytes.add(size)
        if size > 0:
            self.stats.num_device_alloc += 1
        else:
            self.stats.num_device_free += 1

    # Beginning in the middle

    def _restore(self, segments: list[Segment]) -> None:
        """Link the blocks of one ordinary segment, or of all mapped parts of one expandable segment."""
        first, last = segments[0], segments[-1]
        pool = self._small if first.is_small else self._large
        space: AddressSpace | None = None
        if first.is_expandable:
            space = self._restored_space(first.address, last.address + last.total_size, pool)
        end = first.address
        blocks: list[PoolBlock] = []
        for segment in segments:
            if space is not None and segment.address > end:
                blocks.append(PoolBlock(end, segment.address - end, first.stream, pool, space, mapped=False))
            blocks.extend(
                PoolBlock(part.address, part.size, first.stream, pool, space, part.requested_size, part.state)
                for part in segment.blocks
            )
            end = segment.address + segment.total_size
        if space is not None:
            blocks.append(PoolBlock(end, space.address + space.size - end, first.stream, pool, space, mapped=False))
            end = space.address + space.size
        for previous, block in zip([None, *blocks], blocks, strict=False):
            block.link(previous, None)
        for block in blocks:
            self._restore_block(block)
        for stats in self.stats.pools(small=pool.is_small):
            stats.segment.add(0 if space is not None else 1)
            stats.reserved_bytes.add(sum(segment.total_size for segment in segments))
        self._unused_address = max(self._unused_address, round_up(end, SMALL_BUFFER))

    def _restored_space(self, start: int, end: int, pool: Pool) -> AddressSpace:
        space = self._address_space(pool, start)
        space.size = max(space.size, round_up(end - start, space.page) + space.page)
        return space

    def _restore_block(self, block: PoolBlock) -> None:
        self._blocks[block.address] = block
        if not block.mapped:
            block.pool.insert_unmapped(block)
            return
        if block.is_free:
            block.pool.insert(block)
        if block.state is BlockState.PENDING_FREE:
            self._pending[block.address] = block
        for stats in self.stats.pools(small=block.pool.is_small):
            if block.state is BlockState.ALLOCATED:
                stats.allocation.add(1)
                stats.allocated_bytes.add(block.size)
            if not block.is_free:
                stats.active.add(1)
                stats.active_bytes.add(block.size)
                stats.requested_bytes.add(block.requested_size)
            elif block.is_split and block.space is None:
                stats.inactive_split.add(1)
                stats.inactive_split_bytes.add(block.size)


def _segment(head: PoolBlock, device: str) -> Segment:
    segment = Segment(device, head.address, 0, head.stream, head.pool.is_small, head.space is not None, [])
    block: PoolBlock | None = head
    while block is not None and block.mapped:
        segment.blocks.append(Block(block.address, block.size, block.requested_size, block.state))
        segment.total_size += block.size
        block = block.next
    return segment


def _ignore(action: Action, address: int, size: int) -> None:
    """Observe nothing."""
