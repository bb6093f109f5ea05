"""What is live, how much of it, and the same requests on another allocator."""

from __future__ import annotations

import pytest

from memlint.trace.allocator import CachingAllocator, OutOfMemory
from memlint.trace.allocator_settings import AllocatorSettings
from memlint.trace.events import Action, MemoryEvent, Origin, Phase, Recording
from memlint.trace.labels import format_metadata, parse_metadata
from memlint.trace.live import LiveMemory, measure
from memlint.trace.replay import Replay

KIB = 1 << 10
MIB = 1 << 20


def event(
    action: Action, address: int | None, requested: int, block: int | None = None, stream: int = 0
) -> MemoryEvent:
    return MemoryEvent(action, "cuda:0", address, requested, block, stream=stream)


def test_levels_and_where_they_peak() -> None:
    live = LiveMemory().run(
        [
            event(Action.SEGMENT_ALLOCATE, 0, 0, 2 * MIB),
            event(Action.ALLOCATE, 0, 100, 512),
            event(Action.ALLOCATE, 512, 600, 1024),
            event(Action.FREE_REQUESTED, 0, 100, 512),
            event(Action.FREE, 0, 100, 512),
            event(Action.ALLOCATE, 0, 50, 512),
            event(Action.SEGMENT_FREE, 4 * MIB, 0, MIB),
        ]
    )
    assert (live.requested.current, live.requested.peak, live.requested.peak_event) == (650, 700, 2)
    assert (live.allocated.current, live.allocated.peak) == (1536, 1536)
    assert (live.reserved.current, live.reserved.peak, live.reserved.peak_event) == (MIB, 2 * MIB, 0)
    assert sorted(live.blocks) == [0, 512]


def test_a_delayed_free_is_active_but_not_allocated() -> None:
    live = LiveMemory().run([event(Action.ALLOCATE, 0, 512, 512), event(Action.FREE_REQUESTED, 0, 512, 512)])
    assert (live.allocated.current, live.active.current) == (0, 512)
    live.apply(event(Action.FREE, 0, 512, 512))
    assert (live.allocated.current, live.active.current, live.requested.current) == (0, 0, 0)


def test_an_address_that_is_handed_out_again_was_free() -> None:
    live = LiveMemory().run([event(Action.ALLOCATE, 0, 100, 512), event(Action.ALLOCATE, 0, 200, 512)])
    assert (live.allocated.current, live.requested.current) == (512, 200)


def test_frees_of_nothing_are_counted() -> None:
    live = LiveMemory().run([event(Action.FREE, 64, 100, 512)])
    assert live.unmatched_frees == 1


def test_the_baseline_counts_from_the_start() -> None:
    recording = Recording(
        Origin.PROFILER,
        events=[event(Action.ALLOCATE, 0, 512, 512), event(Action.FREE, 4096, 512, 512)],
        baseline=[event(Action.ALLOCATE, 4096, 512, 512)],
        baseline_bytes={"cuda:0": 10 * KIB},
    )
    live = measure(recording, "cuda:0")
    assert (live.allocated.peak, live.allocated.current) == (10 * KIB + 512, 10 * KIB)
    assert measure(recording, "cuda:1").allocated.peak == 0


class TestReplay:
    def test_requests_become_blocks(self) -> None:
        allocator = CachingAllocator()
        replay = Replay(allocator)
        replay.run(
            [event(Action.ALLOCATE, 64, 1000), event(Action.ALLOCATE, 128, 3_000_000), event(Action.FREE, 64, 1000)]
        )
        assert allocator.stats.all.allocated_bytes.peak == 1024 + 3_000_320
        assert allocator.reserved == 22 * MIB

    def test_what_was_never_allocated_is_passed_over(self) -> None:
        replay = Replay(CachingAllocator())
        replay.run(
            [event(Action.FREE, 64, 1000), event(Action.ALLOCATE, None, 10), event(Action.FREE_REQUESTED, 64, 10)]
        )
        assert replay.allocator.reserved == 0

    def test_a_lost_free_does_not_double_a_block(self) -> None:
        replay = Replay(CachingAllocator())
        replay.run([event(Action.ALLOCATE, 64, 1000), event(Action.ALLOCATE, 64, 2000)])
        assert replay.allocator.stats.all.requested_bytes.current == 2000

    def test_the_cache_is_emptied_where_it_was(self) -> None:
        replay = Replay(CachingAllocator())
        replay.run([event(Action.ALLOCATE, 64, 30 * MIB), event(Action.FREE, 64, 30 * MIB)])
        assert replay.allocator.reserved == 30 * MIB
        replay.step(event(Action.SEGMENT_FREE, 64, 0, 30 * MIB))
        assert replay.allocator.reserved == 0

    def test_other_devices_run_out_of_memory(self) -> None:
        replay = Replay(CachingAllocator(AllocatorSettings(), capacity=32 * MIB))
        with pytest.raises(OutOfMemory):
            replay.run([event(Action.ALLOCATE, address, 20 * MIB) for address in (64, 128)])


@pytest.mark.parametrize("step", [None, 0, 12])
@pytest.mark.parametrize("phase", [None, *Phase])
def test_metadata_can_be_read_back(step: int | None, phase: Phase | None) -> None:
    assert parse_metadata(format_metadata(step, phase)) == (step, phase)


@pytest.mark.parametrize("text", ["", "hello", "step=x;phase=y", "step=-1", ";=;"])
def test_foreign_metadata_says_nothing(text: str) -> None:
    assert parse_metadata(text) == (None, None)
