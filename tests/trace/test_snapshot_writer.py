"""Recordings written as snapshots: PyTorch's viewer must be able to open them, and nothing must get lost."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memlint.trace.allocator import CachingAllocator
from memlint.trace.allocator_settings import AllocatorSettings
from memlint.trace.events import Action, Block, BlockState, Category, Mark, MemoryEvent, Origin, Phase, Recording
from memlint.trace.frames import StackTable
from memlint.trace.labels import label
from memlint.trace.live import measure
from memlint.trace.reading import read_trace
from memlint.trace.snapshot_writer import write_snapshot
from tests.trace.synthetic import BASE, MIB

VIEWER_OPCODES = {
    # The cases of unpickle() in torch/utils/viz/MemoryViz.js; it throws on any other.
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE"),
}
TABLE = StackTable()
STACK = TABLE.stack((TABLE.frame("/home/user/train.py", 12, "main"),))


def host_event(action: Action, address: int, size: int, time: float, **fields: Any) -> MemoryEvent:
    return MemoryEvent(action, "cpu", address, size, size, time, stack=STACK, **fields)


@pytest.fixture
def host_recording() -> Recording:
    """Blocks in two far places: one is kept, one from before is freed, one is freed and its address used again."""
    far = BASE + (1 << 32)
    events = [
        host_event(Action.ALLOCATE, BASE, 1000, 10, step=0, phase=Phase.FORWARD, category=Category.ACTIVATION),
        host_event(Action.ALLOCATE, far, 5 * MIB, 11, step=0, category=Category.GRADIENT),
        host_event(Action.FREE, BASE, 1000, 12, step=1),
        host_event(Action.ALLOCATE, BASE, 3000, 13, step=1),
        host_event(Action.FREE, BASE + 8192, 64, 14, step=1),
    ]
    return Recording(
        Origin.CPU_RECORDER,
        events,
        baseline=[MemoryEvent(Action.ALLOCATE, "cpu", BASE + 8192, 64, 64)],
        baseline_bytes={"cpu": 64},
        marks=[Mark("memlint.step#0", 9, 11.5), Mark("memlint.step#1", 11.5, None)],
    )


def written(recording: Recording) -> dict[str, Any]:
    file = io.BytesIO()
    write_snapshot(recording, file)
    data = pickle.loads(file.getvalue())
    assert isinstance(data, dict)
    return data


def test_the_viewer_can_unpickle_it(host_recording: Recording) -> None:
    file = io.BytesIO()
    write_snapshot(host_recording, file)
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(file.getvalue())}
    assert opcodes <= VIEWER_OPCODES
    assert file.getvalue()[:2] == b"\x80\x04"


def test_every_live_block_lies_in_a_segment_at_any_time(host_recording: Recording) -> None:
    data = written(host_recording)
    spans = [(segment["address"], segment["address"] + segment["total_size"]) for segment in data["segments"]]
    assert len(spans) == 2
    addresses = {entry["addr"] for entry in data["device_traces"][0] if entry["action"] != "snapshot"}
    assert all(any(start <= address < end for start, end in spans) for address in addresses)
    for segment in data["segments"]:
        assert sum(block["size"] for block in segment["blocks"]) == segment["total_size"]
        assert segment["blocks"][0]["address"] == segment["address"]


def test_frees_are_requested_before_they_complete(host_recording: Recording) -> None:
    trace = written(host_recording)["device_traces"][0]
    assert [entry["action"] for entry in trace] == [
        "alloc",
        "alloc",
        *("free_requested", "free_completed"),
        "alloc",
        *("free_requested", "free_completed"),
        "snapshot",
    ]


def test_categories_include_the_one_that_the_viewer_needs(host_recording: Recording) -> None:
    trace = written(host_recording)["device_traces"][0]
    assert {entry["category"] for entry in trace} == {"activation", "gradient", "unknown"}
    for event in host_recording.events:
        event.category = None
    assert not any("category" in entry for entry in written(host_recording)["device_traces"][0])


def test_equal_stacks_are_written_once(host_recording: Recording) -> None:
    trace = written(host_recording)["device_traces"][0]
    assert trace[0]["frames"] == [{"filename": "/home/user/train.py", "line": 12, "name": "main"}]
    assert trace[0]["frames"] is trace[1]["frames"]


def test_it_is_read_back_as_it_was(host_recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "snapshot.pickle"
    with path.open("wb") as file:
        write_snapshot(host_recording, file)
    again = read_trace(path)
    assert again.devices() == ["cpu"]

    def essence(recording: Recording) -> list[object]:
        return [
            (event.action, event.address, event.size, event.time_us, event.step, event.phase, event.category)
            for event in recording.events
            if event.action in (Action.ALLOCATE, Action.FREE)
        ]

    label(host_recording)
    assert essence(again) == essence(host_recording)
    assert [(event.address, event.size) for event in again.baseline] == [(BASE + 8192, 64)]
    levels = [measure(recording, "cpu").allocated for recording in (again, host_recording)]
    assert levels[0].current == levels[1].current
    assert levels[0].peak == levels[1].peak
    assert [mark.name for mark in again.marks] == ["memlint.step#0", "memlint.step#1"]


def test_a_host_takes_the_number_after_the_accelerators(host_recording: Recording) -> None:
    host_recording.events.append(MemoryEvent(Action.ALLOCATE, "cuda:1", BASE, 512, 512, 20.0))
    data = written(host_recording)
    assert [len(trace) > 0 for trace in data["device_traces"]] == [False, True, True]
    assert {segment["device"] for segment in data["segments"]} == {1, 2}
    assert data["memlint"]["devices"] == {"1": "cuda:1", "2": "cpu"}


def test_segments_and_settings_are_kept(tmp_path: Path) -> None:
    allocator = CachingAllocator(AllocatorSettings.parse("roundup_power2_divisions:4"))
    kept = allocator.malloc(3_000_000)
    pending = allocator.malloc(700)
    allocator.request_free(pending)
    recording = Recording(
        Origin.CUDA_SNAPSHOT,
        events=[],
        segments=allocator.segments(),
        settings=allocator.settings,
    )
    path = tmp_path / "snapshot.pickle"
    with path.open("wb") as file:
        write_snapshot(recording, file)
    again = read_trace(path)
    assert again.segments == recording.segments
    assert again.settings == allocator.settings
    states = {part.address: part.state for segment in again.segments for part in segment.blocks}
    assert (states[kept], states[pending]) == (BlockState.ALLOCATED, BlockState.PENDING_FREE)


def test_events_without_an_address_are_left_out() -> None:
    recording = Recording(Origin.PROFILER, [MemoryEvent(Action.ALLOCATE, "cuda:0", None, None, 512, 1.0)])
    assert written(recording)["device_traces"] == [[]]


@pytest.mark.parametrize("name", ["gpt_ctx128_forward_mixed.pickle", "notebook_no_times.pickle"])
def test_a_recorded_snapshot_survives(recorded: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    recording = read_trace(recorded(name))
    path = tmp_path / name
    with path.open("wb") as file:
        write_snapshot(recording, file)
    again = read_trace(path)
    assert measure(again, "cuda:0").allocated == measure(recording, "cuda:0").allocated
    assert measure(again, "cuda:0").requested == measure(recording, "cuda:0").requested

    def blocks(recording: Recording) -> list[Block]:
        return [Block(b.address, b.size, b.requested_size, b.state) for s in recording.segments for b in s.blocks]

    assert blocks(again) == blocks(recording)
    assert again.initial_segments[0].address == recording.initial_segments[0].address
    assert [str(e.stack and e.stack.user) for e in again.events] == [
        str(e.stack and e.stack.user) for e in recording.events
    ]
