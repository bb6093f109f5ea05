"""CUDA memory snapshots in the layouts of several years, complete and damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memlint.trace.allocator import CachingAllocator
from memlint.trace.allocator_settings import AllocatorSettings
from memlint.trace.errors import TraceError
from memlint.trace.events import Action, BlockState, Category, Origin, Phase, Recording
from memlint.trace.live import measure
from memlint.trace.replay import Replay
from memlint.trace.snapshot import read_snapshot
from tests.trace.synthetic import BASE, MIB, block, entry, frames, freed, segment, snapshot, write_pickle

GPU = "cuda:0"
Reader = Callable[[object], Recording]
LINE = frames(
    ("torch::unwind::unwind()", 0, "??"),
    ("/opt/env/lib/python3.11/site-packages/torch/nn/modules/linear.py", 134, "forward"),
    ("/home/user/train.py", 12, "main"),
    ("/home/user/train.py", 30, "<module>"),
)


@pytest.fixture(params=["at once", "as it is read"])
def read(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Both ways to turn a history into events: that of small files, and that of large ones."""
    if request.param == "as it is read":
        monkeypatch.setattr("memlint.trace.snapshot.LARGE", -1)
    return lambda data: read_snapshot(write_pickle(tmp_path / "snapshot.pickle", data))


def test_a_snapshot_of_today(read: Reader) -> None:
    recording = read(
        snapshot(
            [
                entry("segment_alloc", BASE, 20 * MIB, time_us=100, frames=LINE),
                entry("alloc", BASE, 5_000_000, time_us=101, frames=LINE),
                entry("snapshot", 0, 5_000_192, time_us=102),
                *freed(BASE, 5_000_000, time_us=103, frames=LINE),
                {"action": "oom", "device_free": 7, "size": 2**40, "stream": 0, "time_us": 104},
            ],
            segment(BASE, block(BASE, 20 * MIB, state="inactive")),
            allocator_settings={"expandable_segments": False, "max_split_size": -1},
        )
    )
    assert recording.origin is Origin.CUDA_SNAPSHOT
    assert recording.devices() == [GPU]
    assert recording.settings == AllocatorSettings()
    assert [(event.action, event.requested_bytes, event.block_bytes, event.time_us) for event in recording.events] == [
        (Action.SEGMENT_ALLOCATE, None, 20 * MIB, 100),
        (Action.ALLOCATE, 5_000_000, 5_000_192, 101),
        (Action.SNAPSHOT, None, 5_000_192, 102),
        (Action.FREE_REQUESTED, 5_000_000, 5_000_192, 103),
        (Action.FREE, 5_000_000, 5_000_192, 103),
        (Action.OUT_OF_MEMORY, 2**40, None, 104),
    ]
    stack = recording.events[1].stack
    assert stack is not None
    assert str(stack.user) == "/home/user/train.py:12"
    assert stack is recording.events[0].stack


def test_a_list_of_segments(read: Reader) -> None:
    """What ``torch.cuda.memory_snapshot()`` returns, and all that there was before 2022."""
    old = {
        "device": 1,
        "address": BASE,
        "total_size": 2 * MIB,
        "allocated_size": 1024,
        "active_size": 1536,
        "segment_type": "small",
        "blocks": [
            {"size": 1024, "state": "active_allocated"},
            {"size": 512, "state": "active_pending_free"},
            {"size": 2 * MIB - 1536, "state": "inactive"},
        ],
    }
    recording = read([old])
    (found,) = recording.segments
    assert recording.events == []
    assert (found.device, found.is_small, found.allocated_size, found.active_size) == ("cuda:1", True, 1024, 1536)
    assert [block.address - BASE for block in found.blocks] == [0, 1024, 1536]


def test_the_layout_of_pytorch_2_0(read: Reader) -> None:
    history = [
        {"addr": BASE, "real_size": 1000, "frames": LINE},
        {"addr": BASE, "real_size": 400, "frames": []},
    ]
    old = {
        "device": 0,
        "address": BASE,
        "total_size": 2 * MIB,
        "stream": 0,
        "segment_type": "small",
        "blocks": [
            {"size": 1024, "state": "active_allocated", "history": history},
            {"size": 2 * MIB - 1024, "state": "inactive"},
        ],
    }
    recording = read({"segments": [old], "device_traces": [[entry("alloc", BASE, 1000, frames=LINE)]]})
    (found,) = recording.segments
    assert [(block.requested_size, block.stack) for block in found.blocks] == [
        (1000, recording.events[0].stack),
        (2 * MIB - 1024, None),
    ]
    assert recording.events[0].time_us is None
    assert recording.settings is None


@pytest.mark.parametrize("spelling", ["active_pending_free", "active_awaiting_free"])
def test_both_spellings_of_a_pending_free(read: Reader, spelling: str) -> None:
    trace = [
        entry("segment_alloc", BASE, 20 * MIB),
        entry("alloc", BASE, 5 * MIB),
        entry("free_requested", BASE, 5 * MIB),
    ]
    rest = block(BASE + 5 * MIB, 15 * MIB, state="inactive")
    recording = read(snapshot(trace, segment(BASE, block(BASE, 5 * MIB, state=spelling), rest)))
    assert recording.segments[0].blocks[0].state is BlockState.PENDING_FREE
    live = measure(recording, GPU)
    assert (live.allocated.current, live.active.current) == (0, 5 * MIB)


def test_what_was_live_before_is_the_baseline(read: Reader) -> None:
    kept, released, born = BASE, BASE + 7 * MIB, BASE + 2 * MIB
    recording = read(
        snapshot(
            [entry("alloc", born, 3 * MIB - 100), *freed(released, 2 * MIB - 7)],
            segment(
                BASE,
                block(kept, 2 * MIB),
                block(born, 3 * MIB, requested=3 * MIB - 100),
                block(BASE + 5 * MIB, 15 * MIB, state="inactive"),
            ),
        )
    )
    assert {(event.address, event.requested_bytes, event.size) for event in recording.baseline} == {
        (kept, 2 * MIB, 2 * MIB),
        (released, 2 * MIB - 7, 2 * MIB),
    }
    assert recording.baseline_bytes == {GPU: 4 * MIB}
    live = measure(recording, GPU)
    assert live.unmatched_frees == 0
    assert (live.allocated.peak, live.allocated.current) == (7 * MIB, 5 * MIB)
    (before,) = recording.initial_segments
    assert [(part.address - BASE, part.size, part.state) for part in before.blocks] == [
        (0, 2 * MIB, BlockState.ALLOCATED),
        (2 * MIB, 5 * MIB, BlockState.INACTIVE),
        (7 * MIB, 2 * MIB, BlockState.ALLOCATED),
        (9 * MIB, 11 * MIB, BlockState.INACTIVE),
    ]


def test_a_block_that_was_not_split_takes_more_than_was_asked_for(read: Reader) -> None:
    trace = [entry("segment_alloc", BASE, 20 * MIB), entry("alloc", BASE, 19 * MIB + 512)]
    recording = read(snapshot(trace, segment(BASE, block(BASE, 20 * MIB, requested=19 * MIB + 512))))
    assert recording.events[1].block_bytes == 20 * MIB


def test_expandable_segments_are_followed_page_by_page(read: Reader) -> None:
    page = 20 * MIB
    trace = [
        entry("segment_map", BASE, 2 * page),
        entry("alloc", BASE, 30 * MIB),
        entry("segment_map", BASE + 2 * page, page),
        entry("alloc", BASE + 30 * MIB, 25 * MIB),
        *freed(BASE + 30 * MIB, 25 * MIB),
        entry("segment_unmap", BASE + 2 * page, page),
    ]
    rest = block(BASE + 30 * MIB, 10 * MIB, state="inactive")
    settings = {"expandable_segments": True}
    final = segment(BASE, block(BASE, 30 * MIB), rest, is_expandable=True)
    recording = read(snapshot(trace, final, allocator_settings=settings))
    assert recording.initial_segments == []
    live = measure(recording, GPU)
    assert (live.reserved.peak, live.reserved.current) == (3 * page, 2 * page)
    assert (live.allocated.peak, live.allocated.current) == (55 * MIB, 30 * MIB)
    assert [event.block_bytes for event in recording.events if event.action is Action.ALLOCATE] == [30 * MIB, 25 * MIB]


def test_a_segment_whose_end_is_not_recorded_may_come_again(read: Reader) -> None:
    begin = entry("segment_alloc", BASE, 2 * MIB)
    events = [begin, dict(begin), entry("segment_free", BASE, 2 * MIB), entry("segment_free", BASE, 2 * MIB)]
    assert len(read(snapshot(events)).events) == 4


def test_segments_before_the_first_event_are_worked_out(read: Reader) -> None:
    page = 20 * MIB
    trace = [
        entry("segment_free", BASE, page),
        entry("segment_unmap", BASE + 10 * page, page),
        entry("segment_map", BASE + 13 * page, page),
    ]
    mapped = segment(BASE + 11 * page, block(BASE + 11 * page, 3 * page, state="inactive"), is_expandable=True)
    recording = read(snapshot(trace, mapped))
    assert [(found.address - BASE, found.total_size) for found in recording.initial_segments] == [
        (0, page),
        (10 * page, 3 * page),
    ]
    assert measure(recording, GPU).reserved.current == 3 * page


class TestOverrun:
    @staticmethod
    def full_buffer(entries: int) -> dict[str, Any]:
        """A trace whose beginning is lost: the first of its entries frees what no entry allocated."""
        pairs = [part for index in range(entries // 3) for part in [entry("alloc", BASE + MIB, index + 1)]]
        trace: list[dict[str, Any]] = freed(BASE, 512)
        for part in pairs:
            trace += [part, *freed(BASE + MIB, part["size"])]
        return snapshot(trace[:entries], segment(BASE, block(BASE, 20 * MIB, state="inactive")))

    def test_a_full_ring_buffer_is_noticed(self, read: Reader) -> None:
        recording = read(self.full_buffer(3000))
        assert "the first events are missing" in recording.overrun[GPU]

    def test_a_recording_that_began_late_is_none(self, read: Reader) -> None:
        assert read(self.full_buffer(2999)).overrun == {}

    def test_a_free_without_its_request_is_proof(self, read: Reader) -> None:
        trace = [entry("free_completed", BASE, 512)]
        recording = read(snapshot(trace, segment(BASE, block(BASE, 20 * MIB, state="inactive"))))
        assert "without having been requested" in recording.overrun[GPU]


def test_steps_and_phases_come_with_the_events(read: Reader) -> None:
    trace = [
        entry("alloc", BASE, 512, user_metadata="step=3;phase=backward"),
        entry("alloc", BASE + 512, 512, user_metadata="step=4"),
        entry("alloc", BASE + 1024, 512, category="gradient"),
        entry("alloc", BASE + 1536, 512, category="unknown", user_metadata="something else"),
    ]
    recording = read(snapshot(trace))
    assert [(event.step, event.phase, event.category) for event in recording.events] == [
        (3, Phase.BACKWARD, None),
        (4, None, None),
        (None, None, Category.GRADIENT),
        (None, None, None),
    ]


def test_annotations_become_marks(read: Reader) -> None:
    annotations = [
        {"name": "Optimizer.step#SGD.step", "stage": "START", "device": 0, "time_us": 20},
        {"name": "inner", "stage": "START", "device": 0, "time_us": 22},
        {"name": "inner", "stage": "END", "device": 0, "time_us": 24},
        {"name": "Optimizer.step#SGD.step", "stage": "END", "device": 0, "time_us": 30},
        {"name": "open", "stage": "START", "device": 0, "time_us": 40},
        {"name": "never begun", "stage": "END", "device": 0, "time_us": 41},
    ]
    times = (10, 25, 35)
    trace = [entry("alloc", BASE + 512 * time, 512, time_us=time) for time in times]
    recording = read(snapshot(trace, external_annotations=annotations))
    assert [(mark.name, mark.start_us, mark.end_us) for mark in recording.marks] == [
        ("Optimizer.step#SGD.step", 20, 30),
        ("inner", 22, 24),
        ("open", 40, None),
    ]
    assert [(event.step, event.phase) for event in recording.events] == [
        (0, None),
        (0, Phase.OPTIMIZER),
        (None, None),
    ]


def test_the_backward_pass_shows_in_the_stack(read: Reader) -> None:
    engine = frames(("??", 0, "torch::autograd::Engine::evaluate_function(std::shared_ptr<...>)"))
    python = frames(
        ("/env/lib/python3.12/site-packages/torch/autograd/graph.py", 829, "_engine_run_backward"), ("t.py", 3, "main")
    )
    trace = [entry("alloc", BASE, 512, frames=stack) for stack in (engine, python, LINE)]
    assert [event.phase for event in read(snapshot(trace)).events] == [Phase.BACKWARD, Phase.BACKWARD, None]


def test_each_device_has_its_own_trace(read: Reader) -> None:
    data = snapshot([], segment(BASE, block(BASE, 2 * MIB), device=1))
    data["device_traces"] = [[], [entry("segment_alloc", BASE, 2 * MIB), entry("alloc", BASE, 2 * MIB)]]
    recording = read(data)
    assert recording.devices() == ["cuda:1"]
    assert measure(recording, "cuda:1").allocated.current == 2 * MIB
    assert measure(recording, GPU).allocated.current == 0


def test_unknown_actions_are_noted(read: Reader) -> None:
    recording = read(snapshot([entry("user_defined", 0, 0), entry("alloc", BASE, 512)]))
    assert len(recording.events) == 1
    assert recording.notes == ["unknown action 'user_defined' in the trace"]


def test_a_recording_begun_in_the_middle_can_be_replayed(read: Reader) -> None:
    """With other settings, too: what would expandable segments have reserved?"""
    trace = [entry("segment_alloc", BASE, 20 * MIB), entry("alloc", BASE, 19 * MIB), *freed(BASE + 64 * MIB, 1000)]
    recording = read(snapshot(trace, segment(BASE, block(BASE, 20 * MIB, requested=19 * MIB))))
    allocator = CachingAllocator(AllocatorSettings(expandable_segments=True))
    Replay(allocator).run(recording.events)
    assert allocator.stats.all.allocated_bytes.peak == 19 * MIB


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("text", "the top level is a str"),
        ({"device_traces": []}, "segments: missing"),
        ({"segments": [1]}, "a segment is a int"),
        ({"segments": [{"address": BASE}]}, "'total_size' is missing"),
        ({"segments": [segment(BASE, {"size": 1, "state": "odd"})]}, "in the state 'odd'"),
        ({"segments": [], "device_traces": {}}, "device_traces: a dict"),
        ({"segments": [], "device_traces": [[1]]}, "a trace entry is a int"),
        ({"segments": [], "device_traces": [[{"action": "alloc", "addr": 1}]]}, "'size' is missing"),
        ({"segments": [], "device_traces": [[entry("alloc", 1, 1, stream="x")]]}, "'stream' is a str"),
        ({"segments": [], "device_traces": [[entry("alloc", 1, 1, frames=[7])]]}, "a frame is a int"),
        ({"segments": [], "device_traces": [[]] * 5000}, "5000 devices"),
    ],
)
def test_other_data_is_refused_in_one_line(read: Reader, data: object, reason: str) -> None:
    with pytest.raises(TraceError) as caught:
        read(data)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_entry_that_appears_again_and_again_is_refused(read: Reader) -> None:
    """A reference takes three bytes of pickle, an event two hundred bytes of memory."""
    repeated = entry("alloc", BASE, 512)
    with pytest.raises(TraceError, match="a dict with entries"):
        read(snapshot([repeated] * 1000))
    trace = [entry("alloc", BASE, 512)]
    data = snapshot([])
    data["device_traces"] = [trace, trace]
    assert len(read(data).events) == 1
