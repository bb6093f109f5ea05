"""Writes a recording as a CUDA memory snapshot, so that PyTorch's memory viewer opens it.

The viewer (https://docs.pytorch.org/memory_viz, ``torch/utils/viz/MemoryViz.js``) reads pickle protocols 2 to 4, looks
up the segment of every live block, and numbers devices from 0; a host's blocks, which have no segments, get some.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from memlint.trace.allocator_settings import AllocatorSettings, round_up
from memlint.trace.events import HOST, Action, Block, BlockState, Mark, MemoryEvent, Recording, Segment
from memlint.trace.frames import Stack
from memlint.trace.labels import format_metadata
from memlint.trace.layout import fill_segments
from memlint.trace.live import LiveMemory

PROTOCOL = 4
"""The latest that the viewer reads."""
_PAGE = 4096
_LARGEST_GAP = 2 << 20
"""Host blocks that lie no farther apart are shown in one segment."""


def write_snapshot(recording: Recording, file: BinaryIO) -> None:
    """Write ``recording`` to ``file``. Events without an address cannot be shown there and are left out."""
    pickle.dump(_SnapshotWriter().snapshot(recording), file, protocol=PROTOCOL)


class _SnapshotWriter:
    def __init__(self) -> None:
        self._frames: dict[int, list[dict[str, Any]]] = {}
        """By the identity of the stack: the pickler writes an object that it has met as a reference of a few bytes."""

    def snapshot(self, recording: Recording) -> dict[str, Any]:
        devices = _numbered(recording.devices())
        traces: list[list[dict[str, Any]]] = [[] for _ in range(max(devices.values(), default=-1) + 1)]
        segments: list[Segment] = []
        for device, number in devices.items():
            events = [event for event in recording.of(device) if event.address is not None]
            live = LiveMemory.before(recording, device).run(events)
            recorded = [segment for segment in recording.segments if segment.device == device]
            segments += recorded or _covering_segments(recording, device, live)
            traces[number] = self._trace(events, live)
        settings = recording.settings or AllocatorSettings()
        return {
            "segments": [self._segment(segment, devices[segment.device]) for segment in segments],
            "device_traces": traces,
            "allocator_settings": settings.to_snapshot(),
            "external_annotations": _annotations(recording.marks, devices),
            "memlint": {"devices": {str(number): device for device, number in devices.items()}},
        }

    def _trace(self, events: list[MemoryEvent], live: LiveMemory) -> list[dict[str, Any]]:
        categorised = any(event.category is not None for event in events)
        entries = [entry for event in events for entry in self._entries(event, categorised)]
        if categorised:
            # The viewer fails on categories among which there is no "unknown" one.
            entries.append({**_entry("snapshot", 0, live.active.current, 0), "category": "unknown"})
        return entries

    def _entries(self, event: MemoryEvent, categorised: bool) -> Iterator[dict[str, Any]]:
        size = event.size if event.requested_bytes is None else event.requested_bytes
        entry = _entry(event.action.value, event.address or 0, size, event.stream)
        if event.time_us is not None:
            entry["time_us"] = int(event.time_us)
        entry["frames"] = self._stack(event.stack)
        metadata = format_metadata(event.step, event.phase)
        if metadata:
            entry["user_metadata"] = metadata
        if event.operator is not None:
            entry["operator"] = event.operator
        if event.records_graph is not None:
            entry["records_graph"] = event.records_graph
        if categorised:
            entry["category"] = event.category.value if event.category is not None else "unknown"
        if event.action is Action.FREE and event.device == HOST:
            # The viewer expects the request, too; on the host both are one.
            yield {**entry, "action": Action.FREE_REQUESTED.value}
        yield entry

    def _stack(self, stack: Stack | None) -> list[dict[str, Any]]:
        frames = self._frames.get(id(stack))
        if frames is None:
            frames = self._frames[id(stack)] = [
                {"filename": frame.filename, "line": frame.line, "name": frame.function}
                for frame in (stack.frames if stack is not None else ())
            ]
        return frames

    def _segment(self, segment: Segment, device: int) -> dict[str, Any]:
        active = [block for block in segment.blocks if block.state is not BlockState.INACTIVE]
        return {
            "device": device,
            "address": segment.address,
            "total_size": segment.total_size,
            "allocated_size": segment.allocated_size,
            "active_size": segment.active_size,
            "requested_size": sum(block.requested_size for block in active),
            "stream": segment.stream,
            "segment_type": "small" if segment.is_small else "large",
            "segment_pool_id": (0, 0),
            "is_expandable": segment.is_expandable,
            "frames": self._stack(segment.stack),
            "blocks": [self._block(block) for block in segment.blocks],
        }

    def _block(self, block: Block) -> dict[str, Any]:
        return {
            "address": block.address,
            "size": block.size,
            "requested_size": block.requested_size,
            "state": block.state.value,
            "frames": self._stack(block.stack),
        }


def _entry(action: str, address: int, size: int, stream: int) -> dict[str, Any]:
    address_key = "device_free" if action == Action.OUT_OF_MEMORY.value else "addr"
    return {"action": action, address_key: address, "size": size, "stream": stream}


def _numbered(devices: Iterable[str]) -> dict[str, int]:
    """A number for each device: its own for an accelerator, the next free one for the host."""
    numbers: dict[str, int] = {}
    for device in devices:
        index = device.partition(":")[2]
        free = max(numbers.values(), default=-1) + 1
        numbers[device] = int(index) if index.isdecimal() and int(index) not in numbers.values() else free
    return numbers


def _covering_segments(recording: Recording, device: str, live: LiveMemory) -> list[Segment]:
    """Segments around every address that was ever in use, holding what is live at the end."""
    spans = sorted(
        (event.address, event.address + event.size)
        for events in (recording.baseline, recording.events)
        for event in events
        if event.device == device and event.address is not None and event.size > 0
    )
    segments: list[Segment] = []
    for first, behind in spans:
        start, end = first - first % _PAGE, round_up(behind, _PAGE)
        last = segments[-1] if segments else None
        if last is not None and start <= last.address + last.total_size + _LARGEST_GAP:
            last.total_size = max(last.total_size, end - last.address)
        else:
            segments.append(Segment(device, start, end - start, 0, is_small=False, is_expandable=False, blocks=[]))
    fill_segments(segments, live.blocks.values())
    return segments


def _annotations(marks: Iterable[Mark], devices: dict[str, int]) -> list[dict[str, Any]]:
    """START and END entries by time; a mark that is of no device in particular is given to the first one."""
    annotations: list[dict[str, Any]] = []
    for mark in marks:
        device = devices.get(mark.device or "", min(devices.values(), default=0))
        for stage, time in (("START", mark.start_us), ("END", mark.end_us)):
            if time is not None:
                annotations.append({"stage": stage, "name": mark.name, "device": device, "time_us": int(time)})
    return sorted(annotations, key=lambda annotation: annotation["time_us"])
