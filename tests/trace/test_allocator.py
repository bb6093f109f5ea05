"""The simulated allocator: the rules one by one, and what must hold whatever a program does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlint.trace.allocator import CachingAllocator, OutOfMemory
from memlint.trace.allocator_settings import AllocatorSettings, InvalidSetting
from memlint.trace.events import Action, BlockState, Segment

KIB = 1 << 10
MIB = 1 << 20
EXPANDABLE = AllocatorSettings(expandable_segments=True)


def segment_sizes(allocator: CachingAllocator) -> list[int]:
    return sorted(segment.total_size for segment in allocator.segments())


class TestSettings:
    @pytest.mark.parametrize(
        ("requested", "rounded"), [(0, 512), (1, 512), (512, 512), (513, 1024), (1_000_000, 1_000_448)]
    )
    def test_sizes_are_rounded_to_512_bytes(self, requested: int, rounded: int) -> None:
        assert AllocatorSettings().round_size(requested) == rounded

    @pytest.mark.parametrize(
        ("requested", "rounded"), [(1200 * KIB, 1280 * KIB), (1280 * KIB, 1280 * KIB), (2 * MIB, 2 * MIB), (2000, 2048)]
    )
    def test_sizes_are_rounded_to_a_division_of_a_power_of_two(self, requested: int, rounded: int) -> None:
        assert AllocatorSettings.parse("roundup_power2_divisions:4").round_size(requested) == rounded

    def test_each_power_of_two_has_its_own_divisions(self) -> None:
        settings = AllocatorSettings.parse("roundup_power2_divisions:[4:8,16:4,>:2]")
        assert settings.roundup_power2_divisions[:7] == (8, 8, 8, 0, 4, 2, 2)
        assert settings.round_size(17 * MIB) == 20 * MIB
        assert settings.round_size(9 * MIB + 1) == 9 * MIB + 512
        assert settings.round_size(65 * MIB) == 96 * MIB

    def test_options_are_read_as_pytorch_reads_them(self) -> None:
        text = "expandable_segments:True, max_split_size_mb:128,garbage_collection_threshold:0.8,backend:native"
        expected = AllocatorSettings(
            expandable_segments=True, max_split_size=128 * MIB, garbage_collection_threshold=0.8
        )
        assert AllocatorSettings.parse(text) == expected
        assert AllocatorSettings.parse("") == AllocatorSettings()

    @pytest.mark.parametrize(
        "text",
        [
            "expandable_segments",
            "expandable_segments:yes",
            "max_split_size_mb:10",
            "max_split_size_mb:many",
            "garbage_collection_threshold:2",
            "roundup_power2_divisions:3",
            "roundup_power2_divisions:[4:8",
        ],
    )
    def test_what_pytorch_refuses_is_refused_in_one_line(self, text: str) -> None:
        with pytest.raises(InvalidSetting) as caught:
            AllocatorSettings.parse(text)
        assert "\n" not in str(caught.value)

    def test_settings_survive_a_snapshot(self) -> None:
        settings = AllocatorSettings.parse("max_split_size_mb:64,roundup_power2_divisions:[64:8,>:4]")
        assert AllocatorSettings.from_snapshot(settings.to_snapshot()) == settings


class TestPlacement:
    @pytest.mark.parametrize(
        ("requested", "segment"),
        [
            (1, 2 * MIB),
            (MIB, 2 * MIB),
            (MIB + 1, 20 * MIB),
            (10 * MIB - 512, 20 * MIB),
            (10 * MIB, 10 * MIB),
            (11 * MIB, 12 * MIB),
        ],
    )
    def test_a_new_segment_has_the_size_of_its_kind(self, requested: int, segment: int) -> None:
        allocator = CachingAllocator()
        allocator.malloc(requested)
        assert segment_sizes(allocator) == [segment]

    def test_a_large_block_is_not_split_to_leave_a_mebibyte_or_less(self) -> None:
        allocator = CachingAllocator()
        first = allocator.malloc(5 * MIB)
        allocator.free(first)
        block = allocator.malloc(19 * MIB)
        assert allocator.block_size(block) == 20 * MIB
        assert allocator.stats.all.allocated_bytes.current == 20 * MIB
        assert allocator.stats.all.requested_bytes.current == 19 * MIB

    def test_a_small_block_is_split_down_to_512_bytes(self) -> None:
        allocator = CachingAllocator()
        blocks = [allocator.malloc(1) for _ in range(4096)]
        assert segment_sizes(allocator) == [2 * MIB]
        assert len(set(blocks)) == 4096

    def test_the_smallest_block_that_fits_is_used(self) -> None:
        allocator = CachingAllocator()
        large, small = allocator.malloc(40 * MIB), allocator.malloc(30 * MIB)
        allocator.free(large)
        allocator.free(small)
        assert allocator.malloc(29 * MIB) == small

    def test_of_equal_blocks_the_one_at_the_lowest_address_is_used(self) -> None:
        allocator = CachingAllocator()
        blocks = [allocator.malloc(30 * MIB) for _ in range(3)]
        for block in reversed(blocks):
            allocator.free(block)
        assert allocator.malloc(30 * MIB) == blocks[0]

    def test_neighbours_are_merged(self) -> None:
        allocator = CachingAllocator()
        blocks = [allocator.malloc(2 * MIB) for _ in range(10)]
        for block in blocks[::2] + blocks[1::2]:
            allocator.free(block)
        (segment,) = allocator.segments()
        assert [(block.size, block.state) for block in segment.blocks] == [(20 * MIB, BlockState.INACTIVE)]

    def test_small_and_large_requests_do_not_share_segments(self) -> None:
        allocator = CachingAllocator()
        allocator.free(allocator.malloc(5 * MIB))
        allocator.malloc(512 * KIB)
        assert segment_sizes(allocator) == [2 * MIB, 20 * MIB]

    def test_streams_do_not_share_blocks(self) -> None:
        allocator = CachingAllocator()
        allocator.free(allocator.malloc(30 * MIB, stream=0))
        allocator.malloc(30 * MIB, stream=7)
        assert segment_sizes(allocator) == [30 * MIB, 30 * MIB]

    def test_a_block_that_another_stream_uses_is_active_but_not_allocated(self) -> None:
        allocator = CachingAllocator()
        block = allocator.malloc(30 * MIB)
        allocator.request_free(block)
        stats = allocator.stats.all
        assert (stats.allocated_bytes.current, stats.active_bytes.current) == (0, 30 * MIB)
        assert allocator.malloc(30 * MIB) != block
        assert allocator.complete_free(block)
        assert stats.active_bytes.current == 30 * MIB
        assert allocator.malloc(30 * MIB) == block

    def test_what_was_not_handed_out_cannot_be_freed(self) -> None:
        allocator = CachingAllocator()
        block = allocator.malloc(1)
        allocator.free(block)
        with pytest.raises(KeyError):
            allocator.free(block)

    def test_unsplittable_blocks_are_kept_for_large_requests(self) -> None:
        allocator = CachingAllocator(AllocatorSettings.parse("max_split_size_mb:40"))
        allocator.free(allocator.malloc(100 * MIB))
        allocator.malloc(12 * MIB)
        assert segment_sizes(allocator) == [12 * MIB, 100 * MIB]
        block = allocator.malloc(85 * MIB)
        assert allocator.block_size(block) == 100 * MIB
        allocator.free(block)
        allocator.malloc(50 * MIB)
        assert segment_sizes(allocator) == [12 * MIB, 50 * MIB, 100 * MIB]


class TestPressure:
    def test_empty_cache_returns_wholly_free_segments_only(self) -> None:
        allocator = CachingAllocator()
        kept = allocator.malloc(5 * MIB)
        allocator.free(allocator.malloc(5 * MIB))
        allocator.free(allocator.malloc(64 * MIB))
        allocator.empty_cache()
        assert segment_sizes(allocator) == [20 * MIB]
        assert allocator.is_live(kept)

    def test_a_full_device_gets_cached_segments_back(self) -> None:
        allocator = CachingAllocator(capacity=100 * MIB)
        allocator.free(allocator.malloc(60 * MIB))
        allocator.malloc(70 * MIB)
        assert segment_sizes(allocator) == [70 * MIB]
        assert (allocator.stats.num_alloc_retries, allocator.stats.num_ooms) == (1, 0)

    def test_waiting_for_other_streams_makes_room(self) -> None:
        allocator = CachingAllocator(capacity=100 * MIB)
        block = allocator.malloc(60 * MIB)
        allocator.request_free(block)
        allocator.malloc(70 * MIB)
        assert not allocator.complete_free(block)

    def test_what_does_not_fit_raises_and_changes_nothing_that_is_live(self) -> None:
        allocator = CachingAllocator(capacity=100 * MIB)
        block = allocator.malloc(60 * MIB)
        with pytest.raises(OutOfMemory) as caught:
            allocator.malloc(50 * MIB)
        assert (caught.value.requested, caught.value.segment, caught.value.free) == (50 * MIB, 50 * MIB, 40 * MIB)
        assert allocator.stats.num_ooms == 1
        assert allocator.is_live(block)
        assert allocator.reserved == 60 * MIB

    def test_the_process_may_be_given_less_than_the_device(self) -> None:
        allocator = CachingAllocator(capacity=100 * MIB, limit=50 * MIB)
        with pytest.raises(OutOfMemory):
            allocator.malloc(60 * MIB)

    def test_oversize_blocks_go_first_and_no_more_than_needed(self) -> None:
        allocator = CachingAllocator(AllocatorSettings.parse("max_split_size_mb:20"), capacity=200 * MIB)
        blocks = [allocator.malloc(size * MIB) for size in (30, 50, 110)]
        for block in blocks:
            allocator.free(block)
        allocator.malloc(26 * MIB)
        assert segment_sizes(allocator) == [30 * MIB, 50 * MIB, 110 * MIB]
        allocator.malloc(80 * MIB)
        assert segment_sizes(allocator) == [30 * MIB, 50 * MIB, 80 * MIB]
        assert allocator.stats.num_alloc_retries == 0

    def test_garbage_is_collected_above_the_threshold_oldest_first(self) -> None:
        settings = AllocatorSettings.parse("garbage_collection_threshold:0.5")
        allocator = CachingAllocator(settings, limit=190 * MIB)
        old, new = allocator.malloc(40 * MIB), allocator.malloc(60 * MIB)
        allocator.free(old)
        allocator.free(new)
        for _ in range(5):
            allocator.free(allocator.malloc(60 * MIB))
        allocator.malloc(64 * MIB)
        assert 40 * MIB not in segment_sizes(allocator)
        assert 60 * MIB in segment_sizes(allocator)


class TestExpandableSegments:
    def test_one_segment_grows_by_pages(self) -> None:
        allocator = CachingAllocator(EXPANDABLE)
        allocator.malloc(30 * MIB)
        allocator.malloc(15 * MIB)
        (segment,) = allocator.segments()
        assert (segment.total_size, segment.is_expandable) == (60 * MIB, True)
        assert allocator.stats.all.allocated_bytes.current == 45 * MIB

    def test_small_pages_are_two_mebibytes(self) -> None:
        allocator = CachingAllocator(EXPANDABLE)
        for _ in range(3):
            allocator.malloc(MIB)
        assert segment_sizes(allocator) == [4 * MIB]

    def test_empty_cache_unmaps_free_pages(self) -> None:
        observed: list[tuple[Action, int]] = []
        allocator = CachingAllocator(EXPANDABLE, observe=lambda action, _, size: observed.append((action, size)))
        first, second, third = (allocator.malloc(30 * MIB) for _ in range(3))
        allocator.free(second)
        allocator.empty_cache()
        # Of the free 30 MiB, which begin in the middle of a page, one page lies wholly inside.
        assert observed[-1] == (Action.SEGMENT_UNMAP, 20 * MIB)
        assert segment_sizes(allocator) == [40 * MIB, 40 * MIB]
        allocator.free(first)
        allocator.free(third)
        allocator.empty_cache()
        assert allocator.reserved == 0
        assert allocator.segments() == []

    def test_unmapped_pages_are_mapped_again_at_the_lowest_place(self) -> None:
        allocator = CachingAllocator(EXPANDABLE)
        blocks = [allocator.malloc(20 * MIB) for _ in range(3)]
        allocator.free(blocks[1])
        allocator.empty_cache()
        assert allocator.malloc(20 * MIB) == blocks[1]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("malloc"),
            st.one_of(st.integers(0, 4 * KIB), st.integers(0, 3 * MIB), st.integers(0, 80 * MIB)),
            st.integers(0, 1),
        ),
        st.tuples(st.sampled_from(["free", "request", "complete"]), st.integers(0, 1 << 16), st.just(0)),
        st.tuples(st.just("empty"), st.just(0), st.just(0)),
    ),
    max_size=80,
)
SETTINGS = st.builds(
    AllocatorSettings,
    expandable_segments=st.booleans(),
    max_split_size=st.sampled_from([None, None, 20 * MIB, 48 * MIB]),
    garbage_collection_threshold=st.sampled_from([0.0, 0.3, 0.8]),
    roundup_power2_divisions=st.sampled_from([(0,) * 16, (4,) * 16, (0, 8) * 8]),
)


class Program:
    """Allocates and frees as it is told, and remembers what it holds."""

    def __init__(self, allocator: CachingAllocator) -> None:
        self.allocator = allocator
        self.held: dict[int, int] = {}
        """Requested bytes by address."""
        self.pending: dict[int, int] = {}

    def do(self, operation: str, amount: int, stream: int) -> None:
        actions: dict[str, Callable[[], None]] = {
            "malloc": lambda: self._malloc(amount, stream),
            "free": lambda: self._free(amount),
            "request": lambda: self._request(amount),
            "complete": lambda: self._complete(amount),
            "empty": self._empty,
        }
        actions[operation]()

    def _malloc(self, size: int, stream: int) -> None:
        retries, ooms = self.allocator.stats.num_alloc_retries, self.allocator.stats.num_ooms
        try:
            address = self.allocator.malloc(size, stream)
        except OutOfMemory:
            assert self.allocator.stats.num_ooms == ooms + 1
        else:
            assert address not in self.held
            self.held[address] = size
        if self.allocator.stats.num_alloc_retries > retries:
            self.pending.clear()

    def _free(self, choice: int) -> None:
        if self.held:
            address = self._choose(self.held, choice)
            self.allocator.free(address)
            del self.held[address]

    def _request(self, choice: int) -> None:
        if self.held:
            address = self._choose(self.held, choice)
            self.allocator.request_free(address)
            self.pending[address] = self.held.pop(address)

    def _complete(self, choice: int) -> None:
        if self.pending:
            address = self._choose(self.pending, choice)
            assert self.allocator.complete_free(address)
            del self.pending[address]

    def _empty(self) -> None:
        self.allocator.empty_cache()
        self.pending.clear()

    @staticmethod
    def _choose(blocks: dict[int, int], choice: int) -> int:
        return sorted(blocks)[choice % len(blocks)]


def check_segments(segments: list[Segment]) -> None:
    for segment, following in pairwise(segments):
        assert segment.address + segment.total_size <= following.address, "segments overlap"
    for segment in segments:
        address = segment.address
        for block in segment.blocks:
            assert block.address == address, "blocks overlap or leave a gap"
            assert block.size > 0
            assert block.size % 512 == 0
            address += block.size
        assert address == segment.address + segment.total_size
        for block, neighbour in pairwise(segment.blocks):
            assert BlockState.ALLOCATED in (block.state, neighbour.state) or BlockState.PENDING_FREE in (
                block.state,
                neighbour.state,
            ), "free neighbours are not merged"


def check_statistics(program: Program) -> None:
    segments = program.allocator.segments()
    stats = program.allocator.stats
    both = stats.all
    assert both.reserved_bytes.current == sum(segment.total_size for segment in segments)
    assert both.allocated_bytes.current == sum(segment.allocated_size for segment in segments)
    assert both.active_bytes.current == sum(segment.active_size for segment in segments)
    assert both.requested_bytes.current == sum(program.held.values()) + sum(program.pending.values())
    assert both.allocation.current == len(program.held)
    assert both.active.current == len(program.held) + len(program.pending)
    split = [
        block.size
        for segment in segments
        for block in segment.blocks
        if not segment.is_expandable and block.state is BlockState.INACTIVE and len(segment.blocks) > 1
    ]
    assert both.inactive_split_bytes.current == sum(split)
    assert both.inactive_split.current == len(split)
    for name in ("allocated_bytes", "active_bytes", "reserved_bytes", "inactive_split_bytes", "requested_bytes"):
        whole, small, large = (getattr(pool, name) for pool in (both, stats.small_pool, stats.large_pool))
        assert whole.current == small.current + large.current
        assert whole.current == whole.allocated - whole.freed
        assert 0 <= whole.current <= whole.peak <= small.peak + large.peak


@given(settings=SETTINGS, operations=OPERATIONS, capacity=st.sampled_from([None, 128 * MIB, 256 * MIB]))
def test_whatever_a_program_does(
    settings: AllocatorSettings, operations: list[tuple[str, int, int]], capacity: int | None
) -> None:
    events: list[tuple[Action, int]] = []
    allocator = CachingAllocator(
        settings, capacity=capacity, limit=capacity, observe=lambda action, _, size: events.append((action, size))
    )
    program = Program(allocator)
    for operation in operations:
        program.do(*operation)
        check_segments(allocator.segments())
        check_statistics(program)
        for address, requested in program.held.items():
            assert allocator.is_live(address)
            assert allocator.block_size(address) >= requested
        assert capacity is None or allocator.reserved <= capacity
    gained = sum(size for action, size in events if action in (Action.SEGMENT_ALLOCATE, Action.SEGMENT_MAP))
    lost = sum(size for action, size in events if action in (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP))
    assert gained - lost == allocator.reserved

    for address in list(program.held):
        allocator.free(address)
    allocator.empty_cache()
    assert allocator.reserved == 0
    assert allocator.segments() == []


@given(settings=SETTINGS, operations=OPERATIONS, more=OPERATIONS)
def test_a_restored_allocator_goes_on_as_the_original_would(
    settings: AllocatorSettings, operations: list[tuple[str, int, int]], more: list[tuple[str, int, int]]
) -> None:
    original = Program(CachingAllocator(settings))
    for operation in operations:
        original.do(*operation)
    copy = Program(CachingAllocator(settings))
    copy.allocator.restore(original.allocator.segments())
    copy.held, copy.pending = dict(original.held), dict(original.pending)
    assert copy.allocator.segments() == original.allocator.segments()
    check_statistics(copy)
    reserved = original.allocator.reserved, copy.allocator.reserved
    assert reserved[0] == reserved[1]
    for operation in more:
        copy.do(*operation)
        check_segments(copy.allocator.segments())
        check_statistics(copy)
