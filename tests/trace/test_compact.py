"""Events in columns are the events that were put into them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlint.trace.compact import CompactEvents, edited
from memlint.trace.events import Action, Category, MemoryEvent, Origin, Phase, Recording
from memlint.trace.frames import Frame, Stack

STACKS = (None, Stack((Frame("train.py", 3, "main"),)), Stack((Frame("train.py", 4, "main"),)))
SIZES = st.none() | st.integers(0, 2**62)
EVENTS = st.builds(
    MemoryEvent,
    st.sampled_from(Action),
    st.sampled_from(["cpu", "cuda:0"]),
    SIZES,
    SIZES,
    SIZES,
    st.none() | st.floats(0, 1e18),
    st.integers(0, 3),
    st.sampled_from(STACKS),
    st.none() | st.integers(0, 9),
    st.none() | st.sampled_from(Phase),
    st.none() | st.sampled_from(Category),
    st.none() | st.sampled_from(["aten::add", "aten::mm"]),
    st.none() | st.booleans(),
)
LISTS = st.lists(EVENTS, max_size=8)
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(LISTS)
def test_events_come_out_as_they_went_in(events: list[MemoryEvent]) -> None:
    compact = CompactEvents(events)
    assert list(compact) == [compact[index] for index in range(len(compact))] == events


@few
@given(LISTS, SIZES, st.sampled_from(Phase))
def test_edits_are_kept(events: list[MemoryEvent], size: int | None, phase: Phase) -> None:
    compact = CompactEvents(events)
    for several in (events, compact):
        for event in edited(several):
            event.block_bytes, event.phase = size, phase
    assert list(compact) == events


@few
@given(LISTS, EVENTS)
def test_all_move_to_one_device(events: list[MemoryEvent], later: MemoryEvent) -> None:
    compact = CompactEvents(events)
    compact.move("cuda:7")
    compact.append(later)
    assert list(compact) == [*(replace(event, device="cuda:7") for event in events), later]


@few
@given(LISTS)
def test_a_recording_has_the_same_kinds(events: list[MemoryEvent]) -> None:
    def described(recording: Recording) -> set[object]:
        return {(event.action, event.device, event.stack, event.step, event.phase) for event in recording.kinds()}

    plain = Recording(Origin.CUDA_SNAPSHOT, events)
    columns = Recording(Origin.CUDA_SNAPSHOT, CompactEvents(events))
    assert described(plain) == described(columns)
    assert plain.devices() == columns.devices()
