"""Traces recorded on real GPUs: every one is read, and the simulated allocator repeats every one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from memlint.trace.allocator import CachingAllocator
from memlint.trace.events import Action, BlockState, Phase, Recording, Segment
from memlint.trace.json_stream import EventStream
from memlint.trace.live import measure
from memlint.trace.reading import read_trace
from memlint.trace.replay import Replay

GPU = "cuda:0"
MIB = 1 << 20
Finder = Callable[[str], Path]

FIGURES = {
    # file: events, baseline, peak above it, reserved at the end (MiB; requested sizes, replayed by completed frees)
    "forward_no_grad.pickle": (33, 1.0, 4038.6, 4234.0),
    "forward_with_grad.pickle": (33, 1.0, 4229.4, 4234.0),
    "gpt_ctx128_forward_fp32.pickle": (4_657, 13136.4, 5458.8, 18756.0),
    "gpt_ctx128_forward_mixed.pickle": (5_992, 13140.9, 9770.2, 23122.0),
    "gpt_ctx128_fullstep_fp32.pickle": (19_770, 13292.4, 39234.7, 58280.0),
    "gpt_ctx256_fullstep_fp32.pickle": (20_128, 13192.8, 39222.2, 58198.0),
    "notebook_no_times.pickle": (10_307, 1056.3, 4559.0, 6172.0),
}
FROM_EMPTY = ("forward_no_grad.pickle", "forward_with_grad.pickle")
PROFILE = "resnet50_kineto_2021.pt.trace.json.gz"


def shape(segments: list[Segment]) -> list[object]:
    """Segments and blocks, without the stacks and sizes that a free block keeps from its last use."""
    return [
        (
            segment.address,
            segment.total_size,
            segment.is_small,
            [(block.address, block.size, block.state) for block in segment.blocks],
        )
        for segment in sorted(segments, key=lambda segment: segment.address)
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_the_published_figures_come_out(recorded: Finder, name: str) -> None:
    recording = read_trace(recorded(name))
    live = measure(recording, GPU)
    requested_before = sum(block.requested_bytes or 0 for block in recording.baseline)
    left = live.requested.current - requested_before
    allocated = sum(segment.allocated_size for segment in recording.segments)
    figures = (
        len(recording.events),
        round((allocated - left) / MIB, 1),
        round((live.requested.peak - requested_before) / MIB, 1),
        round(sum(segment.total_size for segment in recording.segments) / MIB, 1),
    )
    assert figures == FIGURES[name]
    assert live.unmatched_frees == 0
    assert live.reserved.current == sum(segment.total_size for segment in recording.segments)
    assert recording.overrun == {}
    assert recording.notes == []


@pytest.mark.parametrize("name", FIGURES)
def test_block_sizes_are_those_of_the_final_segments(recorded: Finder, name: str) -> None:
    recording = read_trace(recorded(name))
    live = measure(recording, GPU)
    final = {
        block.address: (block.size, block.requested_size)
        for segment in recording.segments
        for block in segment.blocks
        if block.state is not BlockState.INACTIVE
    }
    assert {address: (event.size, event.requested_bytes) for address, event in live.blocks.items()} == final
    assert live.allocated.current == sum(segment.allocated_size for segment in recording.segments)


@pytest.mark.parametrize("name", FROM_EMPTY)
def test_requests_alone_make_the_recorded_segments_and_peak(recorded: Finder, name: str) -> None:
    recording = read_trace(recorded(name))
    addresses = [event.address for event in recording.events if event.action is Action.SEGMENT_ALLOCATE]
    requests = [event for event in recording.events if event.action in (Action.ALLOCATE, Action.FREE)]
    for event in requests:
        event.block_bytes = None
    # Only the driver's choice of addresses is taken from the recording.
    places = iter(address for address in addresses if address is not None)
    allocator = CachingAllocator(place=lambda _: next(places))
    Replay(allocator).run(requests)
    assert shape(allocator.segments()) == shape(recording.segments)
    assert allocator.stats.all.reserved_bytes.peak == measure(recording, GPU).reserved.peak == 4234 * MIB

    # Without them, the segments still are the same but for where they lie.
    elsewhere = CachingAllocator()
    Replay(elsewhere).run(requests)
    assert elsewhere.stats == allocator.stats
    assert Counter(segment.total_size for segment in elsewhere.segments()) == Counter(
        segment.total_size for segment in recording.segments
    )


@pytest.mark.parametrize("name", FIGURES)
def test_every_block_goes_where_it_went(recorded: Finder, name: str) -> None:
    """Begun in the middle of a run as well: each allocation gets the recorded address and block size."""
    recording = read_trace(recorded(name))
    seen: list[tuple[Action, int, int]] = []
    places = iter([event.address or 0 for event in recording.events if event.action is Action.SEGMENT_ALLOCATE])
    allocator = CachingAllocator(
        recording.settings, place=lambda _: next(places), observe=lambda *event: seen.append(event)
    )
    allocator.restore(recording.initial_segments)
    replay = Replay(allocator)
    replay.adopt(recording.baseline)
    for event in recording.events:
        address = replay.step(event)
        if event.action is Action.ALLOCATE:
            assert address == event.address
            assert allocator.block_size(event.address or 0) == event.block_bytes
    assert shape(allocator.segments()) == shape(recording.segments)
    assert Counter(seen) == segment_events(recording)
    assert allocator.stats.all.allocated_bytes.peak == measure(recording, GPU).allocated.peak


def segment_events(recording: Recording) -> Counter[tuple[Action, int, int]]:
    actions = (Action.SEGMENT_ALLOCATE, Action.SEGMENT_FREE)
    return Counter(
        (event.action, event.address or 0, event.size) for event in recording.events if event.action in actions
    )


def test_the_users_line_is_found(recorded: Finder) -> None:
    recording = read_trace(recorded("gpt_ctx128_forward_fp32.pickle"))
    users = [event.stack.user for event in recording.events if event.stack is not None and event.stack.user is not None]
    assert len(users) == len(recording.events)
    assert {Path(user.filename).name for user in users} <= {"transformer.py", "benchmark.py", "model.py", "utils.py"}


def test_phases_are_told_apart(recorded: Finder) -> None:
    recording = read_trace(recorded("gpt_ctx128_fullstep_fp32.pickle"))
    phases = Counter(event.phase for event in recording.events)
    assert phases[Phase.BACKWARD] > phases[None] > phases[Phase.OPTIMIZER] > 0
    assert {event.step for event in recording.events} == {0}
    assert [mark.name for mark in recording.marks] == [
        "Optimizer.zero_grad#AdamW.zero_grad",
        "Optimizer.step#AdamW.step",
    ]


def test_a_profiler_trace_without_addresses(recorded: Finder) -> None:
    path = recorded(PROFILE)
    assert sum(1 for _ in EventStream(path)) == 75_718
    recording = read_trace(path)
    assert len(recording.events) == 12_838
    assert recording.devices() == [GPU, "cpu"]
    assert {event.address for event in recording.events} == {None}
    assert recording.notes == ["no addresses: frees cannot be told apart, only totals are known"]
    assert {event.step for event in recording.events if event.device == GPU} == {5, 6, 7, 8, 9, 10}
    # Every step allocates on the GPU what it frees there, and as much as every other step.
    steps: Counter[int | None] = Counter()
    sizes: Counter[int | None] = Counter()
    for event in recording.of(GPU):
        steps[event.step] += 1
        sizes[event.step] += event.size if event.action is Action.ALLOCATE else -event.size
    assert set(steps.values()) == {1370}
    assert measure(recording, GPU).allocated.current == 0
    script = "resnet50_profiler_api.py"
    users = Counter(str(event.stack.user) for event in recording.events if event.stack is not None)
    assert {user.partition(":")[0] for user in users} == {script}
    assert users[f"{script}:42"] > 0
